import type { Logger } from 'pino';
import type { Access } from '../broker/port.ts';
import { decode } from '../domain/record.ts';
import type { Store } from '../store/port.ts';
import type { Inventory } from './inventory.ts';

/** Options of {@link NodeFinalizer}. */
export interface NodeFinalizerOptions {
  readonly store: Store;
  readonly inventory: Inventory;
  readonly access: Access;
  readonly clock: { now(): number };
  readonly log: Logger;
}

/**
 * How long ago the end of a node must have been asked for: until then the call that asked for it is at it itself, and may find that it must
 * take it back. Longer than a call may take.
 */
const callMs = 60_000;

/**
 * Ends nodes whose deletion was asked for and stopped half way, by a crash or because the broker was away. What is still on such a node stays:
 * nobody can tell any more whether the caller meant to force it.
 */
export class NodeFinalizer {
  readonly #options: NodeFinalizerOptions;
  /** Before this, by the clock, nobody has been at it in this process. */
  readonly #startMs: number;

  constructor(options: NodeFinalizerOptions) {
    this.#options = options;
    this.#startMs = options.clock.now();
  }

  /** Ends each such node that can be ended now. */
  async run(): Promise<void> {
    for (const nodeUid of this.#options.inventory.deletingNodes()) await this.#end(nodeUid);
  }

  async #end(uid: string): Promise<void> {
    const { store, access, clock, log } = this.#options;
    const stored = await store.get({ uid });
    if (!stored?.deleting) return;
    const { metadata, spec } = decode('Node', stored);
    const askedMs = Number(metadata?.deleteTime?.seconds ?? 0n) * 1000;
    if (askedMs >= this.#startMs - 1000 && clock.now() - askedMs < callMs) return;
    if ((await store.assigned(uid)).objects.length > 0) return;
    // Cut off before it is forgotten: afterwards nobody knows which key it was.
    if (spec?.publicKey) await access.revoke([spec.publicKey]);
    await store.write({
      reads: [{ uid }],
      apply: (view) => {
        if (view.get({ uid })?.deleting) view.remove(uid, '');
      },
    });
    log.info({ node: uid }, 'node is gone');
  }
}
