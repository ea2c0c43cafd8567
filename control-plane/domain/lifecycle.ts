import { clone, create, equals, type Message } from '@bufbuild/protobuf';
import { type FieldMask, timestampFromMs } from '@bufbuild/protobuf/wkt';
import { BayModelStatusSchema } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import { BayStatusSchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import {
  ContainerPhase,
  type ContainerSpec,
  type ContainerStatus,
  ContainerStatusSchema,
  PowerState,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { type Metadata, MetadataSchema } from '../../proto/gen/baykeeper/v1/metadata_pb.js';
import { NodePhase, NodeStatusSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { PodPhase, PodStatusSchema } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import {
  ReplicationControllerPhase,
  ReplicationControllerStatusSchema,
} from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ServicePhase, ServiceStatusSchema } from '../../proto/gen/baykeeper/v1/service_pb.js';
import { applyDefaults, defaultNamespace } from './defaults.ts';
import { ConflictError, InvalidError, PreconditionError } from './errors.ts';
import { type KindName, kinds } from './kinds.ts';
import { type AssignedStatus, describe, fieldOf, metadataOf, type ObjectMessage } from './object.ts';
import { checkSpec, keepImmutable } from './spec_rules.ts';
import { applyUpdateMask } from './update_mask.ts';

/**
 * The rules by which users' writes change objects. All pure: what is to be stored goes in and comes out.
 *
 * A write by a user moves `update_time` and the etag; the generation grows only when the spec has changed.
 */

/** What a new object is made with. */
export interface NewObject {
  readonly uid: string;
  readonly project: string;
  /** Name of its bay; empty for kinds that are not in one. */
  readonly bay: string;
  readonly nowMs: number;
}

/**
 * Makes what is to be stored of a create request. The spec of `input` becomes part of the result, with its defaults filled in. What a caller
 * wrote into parts that are not the caller's is dropped. The result has no revision yet.
 */
export function newObject<T extends ObjectMessage>(kind: KindName, input: T, made: NewObject): T {
  const given = metadataOf(kind, input);
  const { maxNameLength } = kinds[kind];
  if (given.name.length > maxNameLength) {
    throw new InvalidError(
      fieldOf(kind, 'metadata.name'),
      `expected at most ${maxNameLength} characters, got ${given.name.length}`,
    );
  }
  const time = timestampFromMs(made.nowMs);
  const metadata = create(MetadataSchema, {
    uid: made.uid,
    project: made.project,
    bay: made.bay,
    namespace: namespaceOf(kind, given),
    name: given.name || `${kinds[kind].singular}-${made.uid.replaceAll('-', '').slice(-12)}`,
    labels: given.labels,
    annotations: given.annotations,
    generation: 1n,
    createTime: time,
    updateTime: time,
    etag: firstEtag(made.uid),
  });
  const object = create(kinds[kind].schema, {
    metadata,
    spec: input.spec,
    status: firstStatus(kind),
  }) as ObjectMessage as T;
  applyDefaults(kind, object);
  checkSpec(kind, object);
  return object;
}

/** The namespace that an object of this kind is in. Throws InvalidError when it is given one that it cannot have. */
export function namespaceOf(kind: KindName, given: { readonly namespace: string }): string {
  if (kinds[kind].scope === 'namespace') return given.namespace || defaultNamespace;
  if (given.namespace)
    throw new InvalidError(fieldOf(kind, 'metadata.namespace'), `a ${kinds[kind].singular} is in none`);
  return '';
}

const firstStatuses: Readonly<Record<KindName, () => Message>> = {
  BayModel: () => create(BayModelStatusSchema),
  Bay: () => create(BayStatusSchema),
  Node: () => create(NodeStatusSchema, { phase: NodePhase.PENDING }),
  Pod: () => create(PodStatusSchema, { phase: PodPhase.PENDING }),
  Service: () => create(ServiceStatusSchema, { phase: ServicePhase.PENDING }),
  ReplicationController: () => create(ReplicationControllerStatusSchema, { phase: ReplicationControllerPhase.PENDING }),
  Container: () => create(ContainerStatusSchema, { phase: ContainerPhase.PENDING }),
};

/** The status of an object that nobody has reported on. */
export const firstStatus = (kind: KindName): Message => firstStatuses[kind]();

/** Says in the object's status which node it was given to, or that none can take it. `wanted`: the only node allowed, or empty. */
export function place(
  status: AssignedStatus,
  node: { readonly name: string } | undefined,
  bay: string,
  wanted: string,
): void {
  status.node = node?.name ?? '';
  status.reason = node ? '' : 'Unschedulable';
  if (node) status.message = '';
  else {
    status.message = wanted
      ? `Bay "${bay}" has no node "${wanted}" that takes new work. It is placed as soon as there is one.`
      : `No node of bay "${bay}" can take it now. It is placed as soon as one can: see \`bayctl get nodes -b ${bay}\`.`;
  }
}

/** What has become of an object by a change. */
export interface Changed<T> {
  readonly object: T;
  /** Whether anything is to be written at all. */
  readonly changed: boolean;
  readonly specChanged: boolean;
}

/** Applies an update. Throws ConflictError, PreconditionError, InvalidError. Neither argument is used afterwards. */
export function updateObject<T extends ObjectMessage>(
  kind: KindName,
  current: T,
  input: T,
  mask: FieldMask | undefined,
  nowMs: number,
): Changed<T> {
  const given = metadataOf(kind, input);
  checkEtag(kind, metadataOf(kind, current), given.etag);
  const next = applyUpdateMask(kind, current, input, mask) as T;
  applyDefaults(kind, next);
  checkSpec(kind, next);
  keepImmutable(kind, current, next);
  return finish(kind, current, next, nowMs);
}

/** Changes the spec by a function, as power operations do. */
export function changeSpec<T extends ObjectMessage>(
  kind: KindName,
  current: T,
  etag: string,
  nowMs: number,
  change: (spec: NonNullable<T['spec']>) => void,
): Changed<T> {
  checkEtag(kind, metadataOf(kind, current), etag);
  const next = clone(kinds[kind].schema, current) as ObjectMessage as T;
  if (next.spec) change(next.spec as NonNullable<T['spec']>);
  return finish(kind, current, next, nowMs);
}

const kubernetesKinds: ReadonlySet<KindName> = new Set(['Pod', 'Service', 'ReplicationController']);

function finish<T extends ObjectMessage>(kind: KindName, current: T, next: T, nowMs: number): Changed<T> {
  const was = metadataOf(kind, current);
  const is = metadataOf(kind, next);
  const described = !sameMap(was.labels, is.labels) || !sameMap(was.annotations, is.annotations);
  // What Kubernetes is given of an object has its labels and annotations in it.
  const specChanged = !sameSpec(kind, current, next) || (described && kubernetesKinds.has(kind));
  const changed = specChanged || described;
  if (!changed) return { object: current, changed, specChanged };
  if (was.deleteTime) {
    throw new PreconditionError(`${describe(kind, was)} is being deleted, and takes no more changes`);
  }
  if (specChanged) is.generation = was.generation + 1n;
  // Whoever refused what was asked for before may take what is asked for now.
  if (specChanged && kind === 'Container' && next.status) (next.status as ContainerStatus).refusedBy = [];
  is.updateTime = timestampFromMs(nowMs);
  is.etag = nextEtag(was.etag);
  return { object: next, changed, specChanged };
}

/** What a delete does. `remove`: nothing is left to wait for, it goes at once. */
export interface Deleted<T> extends Changed<T> {
  readonly remove: boolean;
}

/** Asks for the end of an object. `assigned`: an agent has it. Safe to repeat. Throws ConflictError. */
export function deleteObject<T extends ObjectMessage>(
  kind: KindName,
  current: T,
  request: { readonly etag: string; readonly force: boolean; readonly assigned: boolean; readonly nowMs: number },
): Deleted<T> {
  const metadata = metadataOf(kind, current);
  checkEtag(kind, metadata, request.etag);
  const remove = request.force || !request.assigned;
  if (metadata.deleteTime) return { object: current, changed: remove, specChanged: false, remove };
  metadata.deleteTime = timestampFromMs(request.nowMs);
  metadata.updateTime = metadata.deleteTime;
  metadata.etag = nextEtag(metadata.etag);
  return { object: current, changed: true, specChanged: false, remove };
}

/** Takes back a deletion that turned out to be not allowed, and that nobody has acted on. */
export function undelete(kind: KindName, current: ObjectMessage): void {
  const metadata = metadataOf(kind, current);
  metadata.deleteTime = undefined;
  metadata.etag = nextEtag(metadata.etag);
}

/** Throws ConflictError when the caller meant another state of the object. An empty etag means any. */
export function checkEtag(kind: KindName, metadata: Metadata, etag: string): void {
  if (etag && etag !== metadata.etag) {
    throw new ConflictError(`${describe(kind, metadata)} has changed since it was read: read it again, and try again`);
  }
}

/** What may be asked of a container's power. */
export type PowerOperation = 'start' | 'stop' | 'pause' | 'unpause' | 'reboot';

/** Changes what is asked for of a container's power. Throws PreconditionError when it makes no sense for what is asked for now. */
export function applyPower(spec: ContainerSpec, operation: PowerOperation, name: string): void {
  const asked = spec.powerState || PowerState.RUNNING;
  switch (operation) {
    case 'start':
      spec.powerState = PowerState.RUNNING;
      return;
    case 'stop':
      spec.powerState = PowerState.STOPPED;
      return;
    case 'pause':
      if (asked === PowerState.STOPPED)
        throw new PreconditionError(`container "${name}" is asked to be stopped: start it first`);
      spec.powerState = PowerState.PAUSED;
      return;
    case 'unpause':
      if (asked !== PowerState.PAUSED) throw new PreconditionError(`container "${name}" is not asked to be paused`);
      spec.powerState = PowerState.RUNNING;
      return;
    case 'reboot':
      if (asked !== PowerState.RUNNING) {
        const state = asked === PowerState.PAUSED ? 'paused: unpause' : 'stopped: start';
        throw new PreconditionError(`container "${name}" is asked to be ${state} it first`);
      }
      spec.reboots += 1n;
  }
}

function sameSpec(kind: KindName, a: ObjectMessage, b: ObjectMessage): boolean {
  if (!a.spec || !b.spec) return a.spec === b.spec;
  const field = kinds[kind].schema.field.spec;
  if (field?.fieldKind !== 'message') throw new Error(`${kind} has no spec`);
  return equals(field.message, a.spec, b.spec);
}

function sameMap(a: { readonly [key: string]: string }, b: { readonly [key: string]: string }): boolean {
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && a[key] === b[key]);
}

/*
 * An etag counts the users' writes to one object: the end of its uid, which is random, and the count. So it needs no random numbers in a write
 * that may run twice, and that of an object with the same name is another one.
 */
const firstEtag = (uid: string): string => `${uid.replaceAll('-', '').slice(-12)}-1`;

function nextEtag(etag: string): string {
  const dash = etag.lastIndexOf('-');
  return `${etag.slice(0, dash)}-${Number(etag.slice(dash + 1)) + 1}`;
}
