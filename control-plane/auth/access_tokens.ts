import type { Logger } from 'pino';
import {
  type AccessTokenRecord,
  accessTokenKind,
  decodeAccessToken,
  encodeAccessToken,
  parseAccessToken,
  principalOfToken,
} from '../domain/access_token.ts';
import type { Principal } from '../domain/principal.ts';
import type { Change, Store, StoredObject } from '../store/port.ts';
import type { Authenticator, Credentials } from './port.ts';

/** Options of {@link AccessTokens}. */
export interface AccessTokensOptions {
  readonly store: Store;
  readonly clock: { now(): number };
  readonly log: Logger;
  /** How often it is written down which tokens were used. Default 5 min. */
  readonly useIntervalMs?: number;
}

interface Known {
  readonly token: AccessTokenRecord;
  readonly kept: Buffer;
}

const pageSize = 500;
/** Compared with when there is no such token: what is there and what is not takes the same time. */
const nothing: Known = { token: decoy(), kept: Buffer.alloc(32) };

/**
 * Access tokens, kept in memory from the change feed: a call is answered at once, and a token that is taken back is void with the commit that says so. That one
 * was used is written down now and then, all of them in one write.
 */
export class AccessTokens implements Authenticator, AsyncDisposable {
  readonly #options: AccessTokensOptions;
  readonly #byId = new Map<string, Known>();
  /** When those were used last whose use is not written down yet, by id. */
  readonly #used = new Map<string, number>();
  /** Of what the feed has said while the tokens were being read. */
  #heard: Map<string, number> | undefined = new Map();
  #end: () => void = () => undefined;
  #timer: NodeJS.Timeout | undefined;
  #noting: Promise<void> = Promise.resolve();

  private constructor(options: AccessTokensOptions) {
    this.#options = options;
  }

  /** Reads what is there, and follows the feed from then on. */
  static async open(options: AccessTokensOptions): Promise<AccessTokens> {
    const tokens = new AccessTokens(options);
    const { store } = options;
    tokens.#end = store.subscribe((changes) => changes.forEach(tokens.#take), { kind: accessTokenKind });
    let after: StoredObject | undefined;
    for (;;) {
      const page = await store.list({
        kind: accessTokenKind,
        orderBy: 'name',
        descending: false,
        after,
        limit: pageSize,
      });
      for (const stored of page.objects) tokens.#put(stored);
      after = page.objects.at(-1);
      if (!page.more || !after) break;
    }
    tokens.#heard = undefined;
    tokens.#timer = setInterval(() => void tokens.noteUses(), options.useIntervalMs ?? 5 * 60_000);
    tokens.#timer.unref();
    return tokens;
  }

  authenticate({ token }: Credentials): Principal | undefined {
    const parts = parseAccessToken(token);
    if (!parts) return undefined;
    const nowMs = this.#options.clock.now();
    const known = this.#byId.get(parts.id) ?? nothing;
    const principal = principalOfToken(known.token, known.kept, parts.secret, nowMs);
    if (!principal || known === nothing) return undefined;
    this.#used.set(parts.id, nowMs);
    return principal;
  }

  /** Writes down which tokens were used since it was last done. Does not reject: what could not be written is tried again. */
  noteUses(): Promise<void> {
    this.#noting = this.#noting.then(() => this.#noteUses());
    return this.#noting;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.noteUses();
    this.#end();
  }

  async #noteUses(): Promise<void> {
    const used = [...this.#used];
    this.#used.clear();
    for (let i = 0; i < used.length; i += pageSize) {
      const uses = used.slice(i, i + pageSize);
      try {
        await this.#options.store.write({
          reads: uses.map(([uid]) => ({ uid })),
          apply: (view) => {
            for (const [uid, lastUseTimeMs] of uses) {
              const stored = view.get({ uid });
              if (stored?.kind !== accessTokenKind) continue;
              const token = decodeAccessToken(stored);
              if (lastUseTimeMs > token.lastUseTimeMs) view.put(encodeAccessToken({ ...token, lastUseTimeMs }), '');
            }
          },
        });
      } catch (error) {
        this.#options.log.warn({ err: error }, 'the use of access tokens could not be written down');
        for (const [id, timeMs] of uses) this.#used.set(id, Math.max(timeMs, this.#used.get(id) ?? 0));
      }
    }
  }

  readonly #take = ({ op, object, revision }: Change): void => {
    if (op === 'put') this.#put(object);
    else this.#byId.delete(object.uid);
    this.#heard?.set(object.uid, revision);
  };

  #put(stored: StoredObject): void {
    if ((this.#heard?.get(stored.uid) ?? 0) > stored.revision) return;
    const token = decodeAccessToken(stored);
    if (token.revokeTimeMs > 0) {
      this.#byId.delete(stored.uid);
      return;
    }
    this.#byId.set(stored.uid, { token, kept: Buffer.from(token.secretSha256, 'hex') });
  }
}

function decoy(): AccessTokenRecord {
  const times = { createTimeMs: 0, expireTimeMs: 1, revokeTimeMs: 1, lastUseTimeMs: 0 };
  return { id: '', project: '', role: 'reader', description: '', creator: '', secretSha256: '', ...times };
}
