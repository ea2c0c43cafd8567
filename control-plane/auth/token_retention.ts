import type { Logger } from 'pino';
import { accessTokenKind, decodeAccessToken } from '../domain/access_token.ts';
import { decodeJoinToken, joinTokenKind } from '../domain/join_token.ts';
import type { Store, StoredObject } from '../store/port.ts';

/** Options of {@link TokenRetention}. */
export interface TokenRetentionOptions {
  readonly store: Store;
  readonly clock: { now(): number };
  readonly log: Logger;
  /** How long a token is still listed that lets nobody in any more. */
  readonly keepTokensMs: number;
}

const intervalMs = 3_600_000;
const pageSize = 500;

const kinds: Readonly<Record<string, (stored: StoredObject) => { expireTimeMs: number; revokeTimeMs: number }>> = {
  [accessTokenKind]: decodeAccessToken,
  [joinTokenKind]: decodeJoinToken,
};

/** Removes tokens that expired or were revoked long ago: at the start, and each hour. */
export class TokenRetention implements AsyncDisposable {
  readonly #options: TokenRetentionOptions;
  readonly #timer: NodeJS.Timeout;
  #running: Promise<void> = Promise.resolve();

  constructor(options: TokenRetentionOptions) {
    this.#options = options;
    this.#timer = setInterval(() => void this.run(), intervalMs);
    this.#timer.unref();
    void this.run();
  }

  /** Does not reject: what could not be removed is tried again. Resolves when it, and all that was asked for before, is done. */
  run(): Promise<void> {
    this.#running = this.#running.then(() => this.#run());
    return this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }

  async #run(): Promise<void> {
    const { log } = this.#options;
    try {
      for (const kind of Object.keys(kinds)) {
        const removed = await this.#purge(kind);
        if (removed > 0) log.info({ kind, removed }, 'tokens removed that were of no use any more');
      }
    } catch (error) {
      log.warn({ err: error }, 'old tokens could not be removed');
    }
  }

  async #purge(kind: string): Promise<number> {
    const { store } = this.#options;
    let removed = 0;
    let after: StoredObject | undefined;
    for (;;) {
      const page = await store.list({ kind, orderBy: 'name', descending: false, after, limit: pageSize });
      const old = page.objects.filter((stored) => this.#isOld(stored));
      if (old.length > 0) {
        removed += await store.write({
          reads: old.map(({ uid }) => ({ uid })),
          apply: (view) => {
            const still = old.filter(({ uid }) => view.get({ uid }));
            for (const { uid } of still) view.remove(uid, '');
            return still.length;
          },
        });
      }
      after = page.objects.at(-1);
      if (!page.more || !after) return removed;
    }
  }

  /** What is over stays over, so that it need not be looked at again when it is removed. */
  #isOld(stored: StoredObject): boolean {
    const { clock, keepTokensMs } = this.#options;
    const token = kinds[stored.kind]?.(stored);
    const ends = [token?.expireTimeMs ?? 0, token?.revokeTimeMs ?? 0].filter((timeMs) => timeMs > 0);
    return ends.length > 0 && Math.min(...ends) + keepTokensMs <= clock.now();
  }
}
