import type { Access } from '../broker/port.ts';
import { decode } from '../domain/record.ts';
import type { Store } from '../store/port.ts';
import { everyObject } from './inventory.ts';

/** The store's kind for keys that were cut off. Kept apart from the nodes, which may be gone while a credential of theirs is still valid. */
const kind = 'RevokedKey';

/** Options of {@link RevokedKeys}. */
export interface RevokedKeysOptions {
  readonly store: Store;
  readonly clock: { now(): number };
  /** The longest life of a credential: after it, a key that gets no new one is harmless. */
  readonly credentialTtlMs: number;
}

/** Remembers which keys were cut off, so that a broker that has lost its memory is told again. */
export class RevokedKeys {
  readonly #options: RevokedKeysOptions;

  constructor(options: RevokedKeysOptions) {
    this.#options = options;
  }

  /** Access whose revocations are on disk before the broker hears of them. */
  remembering(access: Access): Access {
    return {
      urls: access.urls,
      issue: (agent) => access.issue(agent),
      onConnection: (listener) => access.onConnection(listener),
      revoke: async (publicKeys) => {
        await Promise.all(publicKeys.map((publicKey) => this.#remember(publicKey)));
        await access.revoke(publicKeys);
      },
    };
  }

  /** Those whose credentials may still be valid. Forgets the others. */
  async list(): Promise<readonly string[]> {
    const { store, clock, credentialTtlMs } = this.#options;
    // A crash may have come between a node's revocation and the note of its key.
    for await (const object of everyObject(store, 'Node')) {
      const { metadata, spec } = decode('Node', object);
      const changedMs = Number(metadata?.updateTime?.seconds ?? 0n) * 1000;
      if (!spec?.revoked || !spec.publicKey || clock.now() - changedMs > credentialTtlMs) continue;
      await this.#remember(spec.publicKey);
    }
    const keys: string[] = [];
    for await (const { uid, name, createTimeMs } of everyObject(store, kind)) {
      if (clock.now() - createTimeMs <= credentialTtlMs) keys.push(name);
      else {
        await store.write({
          reads: [{ uid }],
          apply: (view) => {
            if (view.get({ uid })) view.remove(uid, '');
          },
        });
      }
    }
    return keys;
  }

  async #remember(publicKey: string): Promise<void> {
    const key = { kind, project: '', bayUid: '', namespace: '', name: publicKey };
    const uid = `revoked-${publicKey}`;
    await this.#options.store.write({
      reads: [{ uid }, key],
      apply: (view) => {
        if (view.get({ uid })) return;
        view.put(
          (revision) => ({
            ...key,
            uid,
            assigneeUid: '',
            generation: 1,
            deleting: false,
            revision,
            epoch: 0,
            sequence: 0,
            createTimeMs: this.#options.clock.now(),
            body: new Uint8Array(),
          }),
          '',
        );
      },
    });
  }
}
