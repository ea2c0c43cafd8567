import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import type { NodeAddress } from '../../proto/subjects.ts';
import { decode } from '../domain/record.ts';
import type { Change, Store, StoredObject } from '../store/port.ts';
import type { Liveness, Placement, PlacementChoice } from './port.ts';

/** A node, as far as placing and routing need it. */
export interface InventoryNode {
  readonly uid: string;
  readonly name: string;
  readonly bayUid: string;
  /** Name of its bay. */
  readonly bay: string;
  readonly project: string;
  readonly publicKey: string;
  readonly schedulable: boolean;
  readonly deleting: boolean;
}

/** An object that no node has yet. */
export interface Unplaced {
  readonly uid: string;
  readonly bayUid: string;
  /** Name of the only node allowed; empty: any. */
  readonly node: string;
}

/** Kinds that are given to a node. */
const placedKinds = ['Container'];

/**
 * The nodes of every bay and how much each has to do, kept from the change feed, so that placing an object costs no query.
 */
export class Inventory implements Placement {
  readonly #liveness: Liveness;
  readonly #nodes = new Map<string, InventoryNode>();
  readonly #nodesOfBay = new Map<string, Map<string, InventoryNode>>();
  readonly #nodeOfKey = new Map<string, string>();
  readonly #load = new Map<string, number>();
  readonly #nodeOfObject = new Map<string, string>();
  readonly #unplaced = new Map<string, Map<string, Unplaced>>();
  /** Bays whose agents all get everything: Kubernetes bays, where the agents agree among themselves on who sees to it. */
  readonly #sharedBays = new Set<string>();
  readonly #deletingBays = new Set<string>();
  readonly #deletingNodes = new Set<string>();

  constructor(liveness: Liveness) {
    this.#liveness = liveness;
  }

  /** Reads what is there, and follows the feed from then on. Returns what ends that. */
  async start(store: Store): Promise<() => void> {
    const pending: Change[] = [];
    let ready = false;
    const end = store.subscribe((changes) => {
      if (ready) for (const change of changes) this.#take(change);
      else pending.push(...changes);
    });
    // What changes meanwhile is in `pending` as well, and putting an object twice does no harm.
    for (const kind of ['Bay', 'Node', ...placedKinds]) {
      for await (const object of everyObject(store, kind)) this.#put(object);
    }
    for (const change of pending) this.#take(change);
    ready = true;
    return end;
  }

  node(nodeUid: string): InventoryNode | undefined {
    return this.#nodes.get(nodeUid);
  }

  nodesOfBay(bayUid: string): readonly InventoryNode[] {
    return [...(this.#nodesOfBay.get(bayUid)?.values() ?? [])];
  }

  /** Uid of the node that has this public key. */
  nodeOfKey(publicKey: string): string | undefined {
    return this.#nodeOfKey.get(publicKey);
  }

  /** Uid of the chain that a node's agent follows: its own, or its bay's. */
  chainOf({ bayUid, nodeUid }: NodeAddress): string {
    return this.isShared(bayUid) ? bayUid : nodeUid;
  }

  /** Whether the agents of a bay share its work. */
  isShared(bayUid: string): boolean {
    return this.#sharedBays.has(bayUid);
  }

  /** Objects of a bay that wait for a node. */
  unplaced(bayUid: string): readonly Unplaced[] {
    return [...(this.#unplaced.get(bayUid)?.values() ?? [])];
  }

  /** Bays in which something waits for a node. */
  baysWithUnplaced(): readonly string[] {
    return [...this.#unplaced.keys()];
  }

  /** Bays whose end is asked for. */
  deletingBays(): readonly string[] {
    return [...this.#deletingBays];
  }

  /** Nodes whose end is asked for. */
  deletingNodes(): readonly string[] {
    return [...this.#deletingNodes];
  }

  /** Of all bays. */
  get nodeCount(): number {
    return this.#nodes.size;
  }

  /** How many objects wait for a node. */
  get unplacedCount(): number {
    let count = 0;
    for (const waiting of this.#unplaced.values()) count += waiting.size;
    return count;
  }

  choose(bayUid: string, node: string): PlacementChoice | undefined {
    if (this.isShared(bayUid)) return { uid: bayUid, name: '' };
    const nodes = this.nodesOfBay(bayUid).filter((candidate) => candidate.schedulable);
    // A node that is asked for by name gets the object also while it is away: that is what was asked.
    if (node) return nodes.find((candidate) => candidate.name === node);
    const fresh = nodes.filter((candidate) => this.#liveness.node(candidate.uid)?.fresh);
    // With one node there is no choice to wait for.
    return this.#leastLoaded(fresh.length > 0 || nodes.length !== 1 ? fresh : nodes);
  }

  /** A node that answers now, for what the nodes of these names refuse. */
  chooseBut(bayUid: string, names: readonly string[]): PlacementChoice | undefined {
    if (this.isShared(bayUid)) return undefined;
    return this.#leastLoaded(
      this.nodesOfBay(bayUid).filter(
        ({ uid, name, schedulable }) => schedulable && !names.includes(name) && this.#liveness.node(uid)?.fresh,
      ),
    );
  }

  #leastLoaded(candidates: readonly InventoryNode[]): InventoryNode | undefined {
    let best: InventoryNode | undefined;
    let bestLoad = Number.POSITIVE_INFINITY;
    for (const candidate of candidates) {
      const load = this.#load.get(candidate.uid) ?? 0;
      if (load < bestLoad || (load === bestLoad && best && candidate.name < best.name)) {
        best = candidate;
        bestLoad = load;
      }
    }
    return best;
  }

  #take(change: Change): void {
    if (change.op === 'put') this.#put(change.object);
    else this.#remove(change.object);
  }

  #put(object: StoredObject): void {
    if (object.kind === 'Node') this.#putNode(object);
    else if (object.kind === 'Bay') {
      if (object.deleting) this.#deletingBays.add(object.uid);
      // Its engine never changes.
      if (decode('Bay', object).spec?.containerEngine === ContainerEngine.KUBERNETES) this.#sharedBays.add(object.uid);
    } else if (placedKinds.includes(object.kind)) this.#putPlaced(object);
  }

  #putNode(object: StoredObject): void {
    const { metadata, spec } = decode('Node', object);
    const node: InventoryNode = {
      uid: object.uid,
      name: object.name,
      bayUid: object.bayUid,
      bay: metadata?.bay ?? '',
      project: object.project,
      publicKey: spec?.publicKey ?? '',
      schedulable: !object.deleting && !spec?.revoked && !spec?.unschedulable,
      deleting: object.deleting,
    };
    this.#nodes.set(node.uid, node);
    if (node.deleting) this.#deletingNodes.add(node.uid);
    else this.#deletingNodes.delete(node.uid);
    const siblings = this.#nodesOfBay.get(node.bayUid) ?? new Map<string, InventoryNode>();
    this.#nodesOfBay.set(node.bayUid, siblings.set(node.uid, node));
    if (node.publicKey) this.#nodeOfKey.set(node.publicKey, node.uid);
  }

  #putPlaced(object: StoredObject): void {
    this.#count(object.uid, object.assigneeUid);
    if (object.assigneeUid || object.deleting) this.#forgetUnplaced(object);
    else {
      const waiting = this.#unplaced.get(object.bayUid) ?? new Map<string, Unplaced>();
      if (waiting.has(object.uid)) return;
      const node = decode('Container', object).spec?.node ?? '';
      this.#unplaced.set(object.bayUid, waiting.set(object.uid, { uid: object.uid, bayUid: object.bayUid, node }));
    }
  }

  #remove(object: StoredObject): void {
    if (object.kind === 'Node') {
      const node = this.#nodes.get(object.uid);
      this.#nodes.delete(object.uid);
      this.#deletingNodes.delete(object.uid);
      this.#load.delete(object.uid);
      this.#nodesOfBay.get(object.bayUid)?.delete(object.uid);
      if (this.#nodesOfBay.get(object.bayUid)?.size === 0) this.#nodesOfBay.delete(object.bayUid);
      if (node?.publicKey) this.#nodeOfKey.delete(node.publicKey);
    } else if (object.kind === 'Bay') {
      this.#deletingBays.delete(object.uid);
      this.#sharedBays.delete(object.uid);
    } else {
      this.#count(object.uid, '');
      this.#forgetUnplaced(object);
    }
  }

  #forgetUnplaced({ uid, bayUid }: StoredObject): void {
    const waiting = this.#unplaced.get(bayUid);
    waiting?.delete(uid);
    if (waiting?.size === 0) this.#unplaced.delete(bayUid);
  }

  #count(objectUid: string, nodeUid: string): void {
    const was = this.#nodeOfObject.get(objectUid) ?? '';
    if (was === nodeUid) return;
    if (was) this.#load.set(was, (this.#load.get(was) ?? 1) - 1);
    if (nodeUid) {
      this.#load.set(nodeUid, (this.#load.get(nodeUid) ?? 0) + 1);
      this.#nodeOfObject.set(objectUid, nodeUid);
    } else this.#nodeOfObject.delete(objectUid);
  }
}

/** Every object of a kind, or those in one bay, in pages. */
export async function* everyObject(store: Store, kind: string, bayUid?: string): AsyncIterable<StoredObject> {
  let after: StoredObject | undefined;
  for (;;) {
    const page = await store.list({ kind, bayUid, orderBy: 'name', descending: false, after, limit: 500 });
    yield* page.objects;
    after = page.objects.at(-1);
    if (!page.more || !after) return;
  }
}
