import type { ContainerSpec } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { type KindName, kinds } from '../domain/kinds.ts';
import { place } from '../domain/lifecycle.ts';
import type { AssignedStatus, ObjectMessage } from '../domain/object.ts';
import type { Surroundings } from '../domain/present.ts';
import { newRecord } from '../domain/record.ts';
import type { Placement, PlacementChoice } from '../reconcile/port.ts';
import type { StoredObject, WriteView } from '../store/port.ts';
import type { BayDirectory, BayRef } from './bay_directory.ts';
import { completeBay, type ModelRef, modelOf } from './bay_from_model.ts';
import { checkDocker } from './kind_support.ts';
import { putFitting } from './object_writes.ts';
import type { Quotas } from './quotas.ts';

/** What placing new objects needs. */
export interface PlacingOptions {
  readonly bays: BayDirectory;
  readonly placement: Placement;
  readonly around: Surroundings;
  readonly quotas: Quotas;
}

/** Gives new objects their place: a node, or the bay where its agents share the work. */
export class Placing {
  readonly #options: PlacingOptions;

  constructor(options: PlacingOptions) {
    this.#options = options;
  }

  /** Where a new object could go. */
  choose(kind: KindName, object: ObjectMessage, bay: BayRef | undefined): PlacementChoice | undefined {
    if (!kinds[kind].assigned || !bay) return undefined;
    return this.#options.placement.choose(bay.uid, wantedNode(object));
  }

  /** Chooses a node for a new object, and says in its status which, or why none. */
  place(kind: KindName, object: ObjectMessage, bay: BayRef | undefined): PlacementChoice | undefined {
    if (!kinds[kind].assigned || !bay) return undefined;
    checkDocker(bay, kind, wantedNode(object), this.#options.around);
    const node = this.choose(kind, object, bay);
    place(object.status as AssignedStatus, node, bay.name, wantedNode(object));
    return node;
  }

  /** Within a write: stores a new object, in its bay and on its node if those are still there. */
  insert(
    view: WriteView,
    kind: KindName,
    object: ObjectMessage,
    bay: BayRef | undefined,
    node: PlacementChoice | undefined,
    model: ModelRef | undefined,
  ): StoredObject {
    if (bay) {
      this.#options.bays.check(view, bay);
      checkDocker(bay, kind, wantedNode(object), this.#options.around);
    }
    completeBay(kind, object, model && modelOf(model, (key) => view.get(key)));
    const there = node && view.get({ uid: node.uid });
    const nodeUid = there && !there.deleting ? there.uid : '';
    if (bay && kinds[kind].assigned) {
      place(object.status as AssignedStatus, nodeUid ? node : undefined, bay.name, wantedNode(object));
    }
    const stored = putFitting(view, kind, object, newRecord(bay?.uid ?? '', nodeUid), nodeUid);
    this.#options.quotas.checkNew(view, stored);
    return stored;
  }
}

const wantedNode = (object: ObjectMessage): string => (object.spec as Partial<ContainerSpec> | undefined)?.node ?? '';
