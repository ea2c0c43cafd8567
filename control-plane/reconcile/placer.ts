import type { Logger } from 'pino';
import { place } from '../domain/lifecycle.ts';
import { decode, encode } from '../domain/record.ts';
import type { Store } from '../store/port.ts';
import type { Inventory, Unplaced } from './inventory.ts';

/** Options of {@link Placer}. */
export interface PlacerOptions {
  readonly store: Store;
  readonly inventory: Inventory;
  readonly log: Logger;
}

/** How many objects are placed in one go. */
const batchSize = 256;

/**
 * Gives objects that wait for a node to one, as soon as there is one that can take them. What waits in a bay is looked through when a node of
 * that bay has changed, and not for each object that comes to wait.
 */
export class Placer {
  readonly #options: PlacerOptions;
  #bays = new Set<string>();

  constructor(options: PlacerOptions) {
    this.#options = options;
  }

  /** A node of this bay may take more than before. */
  look(bayUid: string): void {
    this.#bays.add(bayUid);
  }

  /** Places what can be placed. Rejects with the store's error; calling it again goes on. */
  async run(): Promise<void> {
    const { inventory } = this.#options;
    for (const bayUid of this.#bays) {
      const anywhere = inventory.choose(bayUid, '') !== undefined;
      const waiting = inventory.unplaced(bayUid).filter(({ node }) => anywhere || node !== '');
      for (let from = 0; from < waiting.length; from += batchSize) {
        await Promise.all(waiting.slice(from, from + batchSize).map((object) => this.#place(object)));
      }
      this.#bays.delete(bayUid);
    }
  }

  async #place(object: Unplaced): Promise<void> {
    const node = this.#options.inventory.choose(object.bayUid, object.node);
    if (!node) return;
    await this.#options.store.write({
      reads: [{ uid: object.uid }, { uid: node.uid }],
      apply: (view) => {
        const stored = view.get({ uid: object.uid });
        // It may have been placed or deleted, and the node may be gone, since we looked.
        if (!stored || stored.assigneeUid || stored.deleting || view.get({ uid: node.uid })?.kind !== 'Node') return;
        const container = decode('Container', stored);
        if (container.status) place(container.status, node, container.metadata?.bay ?? '', object.node);
        view.put(encode('Container', container, { ...stored, assigneeUid: node.uid }), node.uid);
      },
    });
    this.#options.log.debug({ object: object.uid, node: node.uid }, 'placed');
  }
}
