import type { Logger } from 'pino';
import type { Access } from '../broker/port.ts';
import { type AssignedKind, assignedKinds } from '../domain/kinds.ts';
import { deleteObject } from '../domain/lifecycle.ts';
import { decode, encode } from '../domain/record.ts';
import type { Store, StoredObject } from '../store/port.ts';
import { everyObject, type Inventory } from './inventory.ts';

/** Options of {@link BayFinalizer}. */
export interface BayFinalizerOptions {
  readonly store: Store;
  readonly inventory: Inventory;
  readonly access: Access;
  readonly clock: { now(): number };
  readonly log: Logger;
}

/**
 * Ends bays whose end was asked for: first all that is in them, as each agent confirms it, then their nodes, then the bay. Each step can be
 * repeated, so a crash between two of them costs nothing.
 */
export class BayFinalizer {
  readonly #options: BayFinalizerOptions;

  constructor(options: BayFinalizerOptions) {
    this.#options = options;
  }

  /** Takes each such bay as far as it can be taken now. */
  async run(): Promise<void> {
    for (const bayUid of this.#options.inventory.deletingBays()) await this.#end(bayUid);
  }

  async #end(bayUid: string): Promise<void> {
    const { store, inventory, access, log } = this.#options;
    for (const kind of assignedKinds) {
      for await (const object of everyObject(store, kind, bayUid)) {
        if (!object.deleting) await this.#delete(kind, object);
      }
    }
    if ((await store.countInBay(bayUid)) > 0) return;
    const nodes = inventory.nodesOfBay(bayUid);
    // The keys first: once a node is gone from the store, nobody knows any more which key to cut off.
    await access.revoke(nodes.map((node) => node.publicKey).filter((key) => key !== ''));
    await store.write({
      reads: [{ uid: bayUid }, ...nodes.map(({ uid }) => ({ uid }))],
      apply: (view) => {
        if (!view.get({ uid: bayUid })) return;
        for (const { uid } of nodes) if (view.get({ uid })) view.remove(uid, '');
        view.remove(bayUid, '');
      },
    });
    log.info({ bay: bayUid }, 'bay is gone');
  }

  async #delete(kind: AssignedKind, { uid }: StoredObject): Promise<void> {
    const { store, clock } = this.#options;
    await store.write({
      reads: [{ uid }],
      apply: (view) => {
        const stored = view.get({ uid });
        if (!stored || stored.deleting) return;
        const { object, remove } = deleteObject(kind, decode(kind, stored), {
          etag: '',
          force: false,
          assigned: stored.assigneeUid !== '',
          nowMs: clock.now(),
        });
        if (remove) view.remove(uid, '');
        else view.put(encode(kind, object, stored), stored.assigneeUid);
      },
    });
  }
}
