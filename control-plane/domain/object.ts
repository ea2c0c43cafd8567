import type { DescMessage, Message } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { ClusterEvent } from '../../proto/gen/baykeeper/v1/cluster_pb.js';
import type { Delivery } from '../../proto/gen/baykeeper/v1/delivery_pb.js';
import type { Metadata } from '../../proto/gen/baykeeper/v1/metadata_pb.js';
import { InvalidError } from './errors.ts';
import { type AssignedKind, type KindName, kinds } from './kinds.ts';

/** What every object looks like, whatever its kind: the shared rules need no more. */
export interface ObjectMessage extends Message {
  metadata?: Metadata;
  spec?: Message;
  status?: Message;
}

/** Status of the kinds that an agent reports on, as far as the shared rules need it. */
export interface AssignedStatus extends Message {
  phase: number;
  reason: string;
  message: string;
  lastKnownPhase: number;
  node: string;
  /** When the agent tries again, while it backs off. */
  retryTime?: Timestamp;
  /** Of the kinds that a cluster has. */
  events?: ClusterEvent[];
  delivery?: Delivery;
}

/** Of a kind that an agent reports on. */
export function statusSchema(kind: AssignedKind): DescMessage {
  const field = kinds[kind].schema.field.status;
  if (field?.fieldKind !== 'message') throw new Error(`${kind} has no status`);
  return field.message;
}

/** What is its user's of an object that a user sends: all but the status, which is ignored, whatever is in it. */
export const ownPart = (object: ObjectMessage): ObjectMessage => ({ ...object, status: undefined });

/** The object's metadata. Throws InvalidError when it has none. */
export function metadataOf(kind: KindName, object: ObjectMessage): Metadata {
  if (!object.metadata) throw new InvalidError(fieldOf(kind, 'metadata'), 'is required');
  return object.metadata;
}

/** Path of a field of an object, as callers know it: `container.spec.image`. */
export const fieldOf = (kind: KindName, path: string): string => `${fieldName[kind]}.${path}`;

/** The name of the field that holds an object of this kind in requests. */
export const fieldName: Readonly<Record<KindName, string>> = {
  BayModel: 'bay_model',
  Bay: 'bay',
  Node: 'node',
  Pod: 'pod',
  Service: 'service',
  ReplicationController: 'replication_controller',
  Container: 'container',
};

/** An object as messages name it: `container "web" in bay "local"`. The namespace is named when it is not the usual one. */
export function describe(kind: KindName, at: { bay: string; namespace: string; name: string }): string {
  const { scope, singular } = kinds[kind];
  if (scope === 'project') return `${singular} "${at.name}"`;
  const namespace = scope === 'namespace' && at.namespace !== 'default' ? ` of namespace "${at.namespace}"` : '';
  return `${singular} "${at.name}"${namespace} in bay "${at.bay}"`;
}
