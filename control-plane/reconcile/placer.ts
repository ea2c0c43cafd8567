import type { Logger } from 'pino';
import { place } from '../domain/lifecycle.ts';
import { decode, encode } from '../domain/record.ts';
import { mayMove, move, refusing } from '../domain/refusal.ts';
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
  /**
   * Containers that the owners of their nodes forbid, by bay: as agents say it, which they do anew in each session. With the names of the nodes that refuse
   * one, once they were read.
   */
  readonly #forbidden = new Map<string, Map<string, readonly string[] | undefined>>();

  constructor(options: PlacerOptions) {
    this.#options = options;
  }

  /** A node of this bay may take more than before. */
  look(bayUid: string): void {
    this.#bays.add(bayUid);
  }

  /** A container is forbidden where it is. */
  forbidden(bayUid: string, uid: string): void {
    this.#forbidden.set(bayUid, (this.#forbidden.get(bayUid) ?? new Map()).set(uid, undefined));
    this.look(bayUid);
  }

  /** Places what can be placed. Rejects with the store's error; calling it again goes on. */
  async run(): Promise<void> {
    for (const bayUid of this.#bays) {
      // What comes to wait from here on is looked at once more.
      this.#bays.delete(bayUid);
      try {
        await this.#placeIn(bayUid);
      } catch (error) {
        this.look(bayUid);
        throw error;
      }
    }
  }

  async #placeIn(bayUid: string): Promise<void> {
    const { inventory } = this.#options;
    const anywhere = inventory.choose(bayUid, '') !== undefined;
    const waiting = inventory.unplaced(bayUid).filter(({ node }) => anywhere || node !== '');
    for (let from = 0; from < waiting.length; from += batchSize) {
      await Promise.all(waiting.slice(from, from + batchSize).map((object) => this.#place(object)));
    }
    for (const [uid, names] of this.#forbidden.get(bayUid) ?? []) {
      if (!names || inventory.chooseBut(bayUid, names)) await this.#moveForbidden(bayUid, uid);
    }
  }

  /**
   * Gives a container that its node refuses to one that has not refused it yet. Where there is none it stays, so that it is made as soon as the owner of
   * that node allows it.
   */
  async #moveForbidden(bayUid: string, uid: string): Promise<void> {
    const { store, inventory, log } = this.#options;
    const before = await store.get({ uid });
    const seen = before?.kind === 'Container' ? decode('Container', before) : undefined;
    if (!before || !seen?.status || !mayMove(seen)) {
      this.#forget(bayUid, uid);
      return;
    }
    const names = refusing(seen.status);
    this.#forbidden.get(bayUid)?.set(uid, names);
    const node = inventory.chooseBut(bayUid, names);
    if (!node) return;
    const isMoved = await store.write({
      reads: [{ uid }, { uid: node.uid }],
      apply: (view) => {
        const stored = view.get({ uid });
        const there = view.get({ uid: node.uid });
        if (!stored || there?.kind !== 'Node' || there.deleting) return false;
        const container = decode('Container', stored);
        if (stored.assigneeUid !== before.assigneeUid || !mayMove(container)) return false;
        move(container, node);
        const fields = { bayUid, epoch: 0, sequence: 0 };
        // A link in the chain of each: the one forgets it, the other gets it.
        view.put(encode('Container', container, { ...fields, assigneeUid: '' }), stored.assigneeUid);
        view.put(encode('Container', container, { ...fields, assigneeUid: node.uid }), node.uid);
        return true;
      },
    });
    if (!isMoved) return;
    this.#forget(bayUid, uid);
    log.info({ object: uid, from: seen.status.node, to: node.name }, 'forbidden on its node, and given to another');
  }

  #forget(bayUid: string, uid: string): void {
    const waiting = this.#forbidden.get(bayUid);
    waiting?.delete(uid);
    if (waiting?.size === 0) this.#forbidden.delete(bayUid);
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
