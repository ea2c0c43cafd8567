import { create, equals, type Message } from '@bufbuild/protobuf';
import type { ObjectReport, Report } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { ContainerStatus } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { DeliverySchema } from '../../proto/gen/baykeeper/v1/delivery_pb.js';
import type { PodStatus } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import type { ReplicationControllerStatus } from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import type { ServiceStatus } from '../../proto/gen/baykeeper/v1/service_pb.js';
import { noObject } from '../audit/port.ts';
import { effectOn } from '../domain/effect.ts';
import type { AssignedKind } from '../domain/kinds.ts';
import { firstStatus } from '../domain/lifecycle.ts';
import { type AssignedStatus, statusSchema } from '../domain/object.ts';
import { phasesOf } from '../domain/present.ts';
import { decode, encode } from '../domain/record.ts';
import { showsContainer } from '../domain/refusal.ts';
import type { StoredObject, WriteView } from '../store/port.ts';
import type { ReportedEffect } from './effects.ts';

/** Which word on an object is the newer one. */
export interface Fence {
  readonly epoch: number;
  readonly sequence: number;
}

/** The newest word on an object that was heard and not written. */
export interface UnwrittenFence extends Fence {
  /** What the object was assigned to: another's word counts from the beginning. */
  readonly assigneeUid: string;
}

export type Outcome = 'unknown' | 'stale' | 'unchanged' | 'taken';

/** What a report came to. */
export interface Taken {
  readonly outcome: Outcome;
  /** What it says for the first time that was done about the object's newest generation. */
  readonly effect?: ReportedEffect;
}

const textLimit = 4096;
const eventLimit = 16;
const endpointLimit = 100;
/** A larger status of the engine's own is left out: what is shown in tables is in fields of its own. */
const manifestBytes = 64 * 1024;

export const isNewer = (a: Fence, b: Fence): boolean =>
  a.epoch > b.epoch || (a.epoch === b.epoch && a.sequence > b.sequence);

/** The kind that a report speaks of; undefined when it has no status. */
export const kindOfCase = {
  pod: 'Pod',
  service: 'Service',
  replicationController: 'ReplicationController',
  container: 'Container',
} as const satisfies Readonly<Record<NonNullable<ObjectReport['status']['case']>, AssignedKind>>;

/**
 * Takes one report into the store. `node`: whose agent says so. `leads`: that agent speaks for its whole bay. `bay`: its name. `unwritten`: of the object.
 */
export function takeObject(
  view: WriteView,
  node: StoredObject,
  leads: boolean,
  report: Report,
  object: ObjectReport,
  bay: string,
  unwritten: UnwrittenFence | undefined,
): Taken {
  const stored = view.get({ uid: object.uid });
  if (!stored || !(stored.assigneeUid === node.uid || (leads && stored.assigneeUid === node.bayUid)))
    return { outcome: 'unknown' };
  const fence = { epoch: Number(report.epoch), sequence: Number(report.sequence) };
  if (!isNewer(fence, stored)) return { outcome: 'stale' };
  if (unwritten?.assigneeUid === stored.assigneeUid && !isNewer(fence, unwritten)) return { outcome: 'stale' };
  if (object.removed) {
    // "It is not there" ends only what was to end: an agent that lost a workload makes it again.
    if (!stored.deleting) return { outcome: 'unchanged' };
    view.remove(stored.uid, stored.assigneeUid);
    return { outcome: 'taken', effect: effectIn(stored, node.name, bay, 'removed', '') };
  }
  const { status } = object;
  if (status.case === undefined) return { outcome: 'unchanged' };
  const kind = kindOfCase[status.case];
  if (kind !== stored.kind) return { outcome: 'unknown' };
  const message = decode(kind, stored);
  const next = cleaned(kind, status.value, message.status, node.name, stored);
  if (message.status && equals(statusSchema(kind), message.status, next)) return { outcome: 'unchanged' };
  const newest = BigInt(stored.generation);
  const before = effectOn(kind, message.status, newest);
  const what = effectOn(kind, next, newest);
  Object.assign(message, { status: next });
  const put = view.put(encode(kind, message, { ...stored, ...fence }), '');
  const isNews = what !== before && what !== 'waiting';
  return { outcome: 'taken', effect: isNews ? effectIn(put, node.name, bay, what, next.reason) : undefined };
}

function effectIn(
  { kind, uid, project, namespace, name, revision, generation }: StoredObject,
  node: string,
  bay: string,
  what: ReportedEffect['what'],
  reason: string,
): ReportedEffect {
  const object = { ...noObject, kind, bay, namespace, name, uid, revision, generation };
  return { what, project, node, reason, object };
}

/** A status as the agent may set it: what the control plane says itself is not the agent's to say. */
function cleaned(
  kind: AssignedKind,
  status: AssignedStatus,
  was: AssignedStatus | undefined,
  nodeName: string,
  stored: StoredObject,
): AssignedStatus {
  const delivery = status.delivery ?? create(DeliverySchema);
  const newest = BigInt(stored.generation);
  const atMost = (generation: bigint) => (generation > newest ? newest : generation < 0n ? 0n : generation);
  const { unknown } = phasesOf(kind);
  const says = status.phase !== 0 && status.phase !== unknown;
  return {
    ...status,
    ...bounded[kind](status, was),
    phase: says ? status.phase : (was ?? (firstStatus(kind) as AssignedStatus)).phase,
    lastKnownPhase: 0,
    reason: status.reason.slice(0, 128),
    message: status.message.slice(0, textLimit),
    node: nodeName,
    delivery: {
      ...delivery,
      receivedGeneration: atMost(delivery.receivedGeneration),
      appliedGeneration: atMost(delivery.appliedGeneration),
      observedGeneration: atMost(delivery.observedGeneration),
      confirmTime: undefined,
      trustUntil: undefined,
    },
  };
}

/** An agent is not to fill the store: whatever can grow is cut. */
const bounded: Readonly<Record<AssignedKind, (status: Message, was: Message | undefined) => object>> = {
  Container(message, before) {
    const status = message as ContainerStatus;
    const was = before as ContainerStatus | undefined;
    return {
      containerId: status.containerId.slice(0, 128),
      imageId: status.imageId.slice(0, 256),
      ports: status.ports.slice(0, 512),
      refusedBy: was?.refusedBy ?? [],
      made: was?.made === true || showsContainer(status),
    };
  },
  Pod: (message) => boundedCluster(message as PodStatus),
  Service(message) {
    const status = message as ServiceStatus;
    return {
      ...boundedCluster(status),
      ports: status.ports.slice(0, endpointLimit),
      endpointsReady: status.endpointsReady.slice(0, endpointLimit),
      endpointsNotReady: status.endpointsNotReady.slice(0, endpointLimit),
    };
  },
  ReplicationController: (message) => boundedCluster(message as ReplicationControllerStatus),
};

function boundedCluster(status: PodStatus | ServiceStatus | ReplicationControllerStatus) {
  const { manifest } = status;
  const events = status.events.slice(-eventLimit).map((event) => ({
    ...event,
    reason: event.reason.slice(0, 128),
    message: event.message.slice(0, 1024),
    source: event.source.slice(0, 253),
  }));
  const fits = !manifest || sizeOf(manifest) <= manifestBytes;
  return { clusterUid: status.clusterUid.slice(0, 64), events, manifest: fits ? manifest : undefined };
}

const sizeOf = (manifest: object): number => Buffer.byteLength(JSON.stringify(manifest));
