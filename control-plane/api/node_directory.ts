import { NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { NodeFacts } from '../domain/present.ts';
import { decode } from '../domain/record.ts';
import type { Change, Store, StoredObject } from '../store/port.ts';

/** A node, as far as bays and enrolment need it. */
export interface NodeRef extends NodeFacts {
  readonly bayUid: string;
  readonly name: string;
  readonly publicKey: string;
}

const pageSize = 500;

/** The nodes of every bay, kept from the change feed: a bay's status is computed from them at each answer. */
export class NodeDirectory {
  readonly #byBay = new Map<string, Map<string, NodeRef>>();
  readonly #bayOf = new Map<string, string>();
  readonly #removed = new Set<string>();
  #end: () => void = () => undefined;
  #loading = true;

  /** Reads what is there, and follows the feed from then on. */
  static async open(store: Store): Promise<NodeDirectory> {
    const directory = new NodeDirectory();
    const revisions = new Map<string, number>();
    directory.#end = store.subscribe(
      (changes) => {
        for (const change of changes) {
          if (directory.#loading) revisions.set(change.object.uid, change.revision);
          directory.#take(change);
        }
      },
      { kind: 'Node' },
    );
    let after: StoredObject | undefined;
    for (;;) {
      const page = await store.list({ kind: 'Node', orderBy: 'name', descending: false, after, limit: pageSize });
      for (const stored of page.objects) {
        // The feed may have said something newer meanwhile.
        if ((revisions.get(stored.uid) ?? 0) <= stored.revision && !directory.#removed.has(stored.uid))
          directory.#put(stored);
      }
      after = page.objects.at(-1);
      if (!page.more || !after) break;
    }
    directory.#loading = false;
    directory.#removed.clear();
    return directory;
  }

  close(): void {
    this.#end();
  }

  nodesOf(bayUid: string): readonly NodeRef[] {
    return [...(this.#byBay.get(bayUid)?.values() ?? [])];
  }

  /** Uid of the bay that a node is in. */
  bayOf(nodeUid: string): string | undefined {
    return this.#bayOf.get(nodeUid);
  }

  #take(change: Change): void {
    if (change.op === 'put') this.#put(change.object);
    else {
      const { uid, bayUid } = change.object;
      const nodes = this.#byBay.get(bayUid);
      nodes?.delete(uid);
      if (nodes?.size === 0) this.#byBay.delete(bayUid);
      this.#bayOf.delete(uid);
      if (this.#loading) this.#removed.add(uid);
    }
  }

  #put(stored: StoredObject): void {
    const { spec, status } = decode('Node', stored);
    const nodes = this.#byBay.get(stored.bayUid) ?? new Map<string, NodeRef>();
    this.#byBay.set(stored.bayUid, nodes);
    this.#bayOf.set(stored.uid, stored.bayUid);
    nodes.set(stored.uid, {
      uid: stored.uid,
      bayUid: stored.bayUid,
      name: stored.name,
      publicKey: spec?.publicKey ?? '',
      revoked: spec?.revoked ?? false,
      deleting: stored.deleting,
      heard: stored.epoch > 0,
      docker: status?.info?.dockerVersion !== undefined && status.info.dockerVersion !== '',
      reported: status && spec?.publicKey === '' ? { ready: status.phase === NodePhase.READY } : undefined,
    });
  }
}
