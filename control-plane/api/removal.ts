import type { ContainerSpec } from '../../proto/gen/baykeeper/v1/container_pb.js';
import type { Access } from '../broker/port.ts';
import { PreconditionError } from '../domain/errors.ts';
import { decodeJoinToken, joinTokenKind } from '../domain/join_token.ts';
import { assignedKinds, type KindName, type Kinds } from '../domain/kinds.ts';
import { deleteObject, firstStatus, place, undelete } from '../domain/lifecycle.ts';
import type { AssignedStatus, ObjectMessage } from '../domain/object.ts';
import { presentMessage, type Surroundings } from '../domain/present.ts';
import type { Principal } from '../domain/principal.ts';
import { decode, encode } from '../domain/record.ts';
import type { Liveness } from '../reconcile/port.ts';
import type { ListPosition, Store, StoredObject } from '../store/port.ts';
import type { DeleteHow } from './kind_services.ts';
import type { NodeDirectory } from './node_directory.ts';
import { refuseReported } from './nodes.ts';
import type { ObjectRef } from './object_location.ts';
import type { Objects } from './objects.ts';

/** What ending nodes and bays needs. */
export interface RemovalOptions {
  readonly store: Store;
  readonly objects: Objects;
  readonly nodes: NodeDirectory;
  readonly access: Access;
  readonly liveness: Liveness;
  readonly around: Surroundings;
  readonly clock: { now(): number };
}

const pageSize = 500;

/**
 * Ends what other objects are on or in. Each begins by asking for the end, after which nothing new comes in; each step can be repeated, so
 * that whoever finds it half done goes on.
 */
export class Removal {
  readonly #options: RemovalOptions;

  constructor(options: RemovalOptions) {
    this.#options = options;
  }

  /**
   * Ends a node: its key is cut off; with force, what is on it goes or is placed anew. Rejects with PreconditionError while anything is on it, and
   * with UnavailableError when the broker cannot be told; it is to be repeated then.
   */
  async deleteNode(principal: Principal, ref: ObjectRef, how: DeleteHow): Promise<Kinds['Node'] | undefined> {
    const { store, access } = this.#options;
    const stored = await this.#find(principal, 'Node', ref, how);
    if (!stored) return undefined;
    refuseReported(decode('Node', stored));
    const refuse = async (): Promise<void> => {
      const count = (await store.assigned(stored.uid)).objects.length;
      if (count === 0 || how.force) return;
      const what = count === 1 ? 'is 1 object' : `are ${count} objects`;
      throw new PreconditionError(
        `there ${what} on node "${stored.name}": delete them first, or use force to have them placed on other nodes`,
      );
    };
    await refuse();
    if (how.validateOnly) return this.#ended('Node', stored, how);
    const marked = await this.#mark('Node', stored, how, refuse);
    if (!marked) return undefined;

    const node = decode('Node', marked);
    for (const object of (await store.assigned(stored.uid)).objects)
      await this.#unassign(object, node.metadata?.bay ?? '');
    // Cut off before it is forgotten: afterwards nobody knows which key it was.
    if (node.spec?.publicKey) await access.revoke([node.spec.publicKey]);
    await this.#remove(stored.uid);
    return presentMessage('Node', node, marked, this.#options.around);
  }

  /**
   * Ends a bay. An empty one goes at once. With force all that is in it goes first: what its node can still remove is removed there, what is on a
   * silent node is given up; then the reconciler ends the nodes and the bay. Rejects with PreconditionError when it is not empty.
   */
  async deleteBay(principal: Principal, ref: ObjectRef, how: DeleteHow): Promise<Kinds['Bay'] | undefined> {
    const { store, nodes, around } = this.#options;
    const stored = await this.#find(principal, 'Bay', ref, how);
    if (!stored) return undefined;
    let empty = false;
    const refuse = async (): Promise<void> => {
      const objects = await store.countInBay(stored.uid);
      const machines = nodes.nodesOf(stored.uid).length;
      empty = objects + machines === 0;
      if (empty || how.force) return;
      throw new PreconditionError(
        `bay "${stored.name}" is not empty: it has ${machines} ${machines === 1 ? 'node' : 'nodes'} and ${objects} other ` +
          `${objects === 1 ? 'object' : 'objects'}. Delete them first, or use force to have them deleted with it`,
      );
    };
    await refuse();
    if (how.validateOnly) return this.#ended('Bay', stored, how);
    const marked = await this.#mark('Bay', stored, how, refuse);
    if (!marked) return undefined;

    const bay = presentMessage('Bay', decode('Bay', marked), marked, around);
    await this.#removeTokens(stored);
    if (empty) await this.#remove(stored.uid);
    else await this.#endContents(stored);
    return bay;
  }

  async #find(
    principal: Principal,
    kind: 'Node' | 'Bay',
    ref: ObjectRef,
    how: DeleteHow,
  ): Promise<StoredObject | undefined> {
    const { key } = await this.#options.objects.locate(principal, kind, ref);
    const stored = await this.#options.store.get(key);
    if (stored) return stored;
    if (how.allowMissing) return undefined;
    return this.#options.objects.find(principal, kind, ref);
  }

  #ended<K extends 'Node' | 'Bay'>(kind: K, stored: StoredObject, how: DeleteHow): Kinds[K] {
    const request = { etag: how.etag, force: false, assigned: true, nowMs: this.#options.clock.now() };
    const { object } = deleteObject<Kinds[K]>(kind, decode(kind, stored), request);
    return presentMessage(kind, object, { ...stored, deleting: true }, this.#options.around);
  }

  /**
   * Asks for the end, so that nothing new comes in; then looks once more whether it may be, and takes it back if not. Undefined when somebody else
   * has ended it meanwhile.
   */
  async #mark(
    kind: 'Node' | 'Bay',
    { uid, deleting }: StoredObject,
    how: DeleteHow,
    refuse: () => Promise<void>,
  ): Promise<StoredObject | undefined> {
    const { store } = this.#options;
    const marked = await store.write({
      reads: [{ uid }],
      apply: (view) => {
        const stored = view.get({ uid });
        if (!stored) return undefined;
        const request = { etag: how.etag, force: false, assigned: true, nowMs: this.#options.clock.now() };
        const { object, changed } = deleteObject(kind, decode(kind, stored), request);
        return changed ? view.put(encode(kind, object, stored), '') : stored;
      },
    });
    try {
      await refuse();
    } catch (error) {
      // It was marked before by somebody who may: that stands.
      if (!deleting) await this.#unmark(kind, uid);
      throw error;
    }
    return marked;
  }

  async #unmark(kind: 'Node' | 'Bay', uid: string): Promise<void> {
    await this.#options.store.write({
      reads: [{ uid }],
      apply: (view) => {
        const stored = view.get({ uid });
        if (!stored?.deleting) return;
        const object = decode(kind, stored);
        undelete(kind, object);
        view.put(encode(kind, object, stored), '');
      },
    });
  }

  async #remove(uid: string): Promise<void> {
    await this.#options.store.write({
      reads: [{ uid }],
      apply: (view) => {
        const stored = view.get({ uid });
        if (stored) view.remove(uid, stored.assigneeUid);
      },
    });
  }

  /** Takes an object off its node: what was to go is gone, the rest waits for another node. */
  async #unassign({ uid, assigneeUid: nodeUid, bayUid }: StoredObject, bay: string): Promise<void> {
    await this.#options.store.write({
      reads: [{ uid }],
      apply: (view) => {
        const stored = view.get({ uid });
        if (!stored || stored.assigneeUid !== nodeUid || stored.bayUid !== bayUid) return;
        if (stored.deleting) {
          view.remove(uid, nodeUid);
          return;
        }
        const kind = stored.kind as KindName;
        const fresh = unreported<ObjectMessage>(kind, decode(kind, stored), bay);
        view.put(encode(kind, fresh, { bayUid, assigneeUid: '', epoch: 0, sequence: 0 }), nodeUid);
      },
    });
  }

  async #endContents(bay: StoredObject): Promise<void> {
    const { store, liveness, clock } = this.#options;
    for await (const { uid, kind } of this.#inBay(bay)) {
      await store.write({
        reads: [{ uid }],
        apply: (view) => {
          const stored = view.get({ uid });
          if (!stored) return;
          const assigned = stored.assigneeUid !== '' && liveness.node(stored.assigneeUid)?.fresh === true;
          const request = { etag: '', force: false, assigned, nowMs: clock.now() };
          const { object, changed, remove } = deleteObject(kind, decode(kind, stored), request);
          if (remove) view.remove(uid, stored.assigneeUid);
          else if (changed) view.put(encode(kind, object, stored), stored.assigneeUid);
        },
      });
    }
  }

  async *#inBay(bay: StoredObject): AsyncGenerator<{ readonly uid: string; readonly kind: KindName }> {
    for (const kind of assignedKinds) {
      for await (const { uid } of this.#every(kind, bay.project, bay.uid)) yield { uid, kind };
    }
  }

  async #removeTokens(bay: StoredObject): Promise<void> {
    for await (const stored of this.#every(joinTokenKind, bay.project)) {
      if (decodeJoinToken(stored).bayUid === bay.uid) await this.#remove(stored.uid);
    }
  }

  async *#every(kind: string, project: string, bayUid?: string): AsyncGenerator<StoredObject> {
    let after: ListPosition | undefined;
    for (;;) {
      const page = await this.#options.store.list({
        kind,
        project,
        bayUid,
        orderBy: 'name',
        descending: false,
        after,
        limit: pageSize,
      });
      yield* page.objects;
      after = page.objects.at(-1);
      if (!page.more || !after) return;
    }
  }
}

/** The object as if no agent had ever spoken of it. */
function unreported<T extends ObjectMessage>(kind: KindName, object: T, bay: string): T {
  object.status = firstStatus(kind);
  place(
    object.status as AssignedStatus,
    undefined,
    bay,
    (object.spec as Partial<ContainerSpec> | undefined)?.node ?? '',
  );
  return object;
}
