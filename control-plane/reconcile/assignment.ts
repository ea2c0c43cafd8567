import { create } from '@bufbuild/protobuf';
import { type Assignment, AssignmentOp, AssignmentSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import type { AssignedKind } from '../domain/kinds.ts';
import type { ObjectMessage } from '../domain/object.ts';
import { decode } from '../domain/record.ts';
import type { Change, StoredObject } from '../store/port.ts';

const kindNumbers: Readonly<Record<AssignedKind, Kind>> = {
  Pod: Kind.POD,
  Service: Kind.SERVICE,
  ReplicationController: Kind.REPLICATION_CONTROLLER,
  Container: Kind.CONTAINER,
};
const specCases = {
  Pod: 'pod',
  Service: 'service',
  ReplicationController: 'replicationController',
  Container: 'container',
} as const satisfies Readonly<Record<AssignedKind, Assignment['spec']['case']>>;

/** What a node's agent is told of an object that is assigned to it. */
export function assignmentOf(object: StoredObject): Assignment {
  const kind = object.kind as AssignedKind;
  return assignmentOfMessage(kind, decode(kind, object), object);
}

/** The same, of an object that is decoded, or not in the store at all. */
export function assignmentOfMessage(
  kind: AssignedKind,
  { metadata, spec }: ObjectMessage,
  at: Pick<StoredObject, 'uid' | 'namespace' | 'name' | 'generation' | 'revision' | 'deleting'>,
): Assignment {
  const assignment = create(AssignmentSchema, {
    uid: at.uid,
    kind: kindNumbers[kind],
    namespace: at.namespace,
    name: at.name,
    generation: BigInt(at.generation),
    revision: BigInt(at.revision),
    op: at.deleting ? AssignmentOp.DELETE : AssignmentOp.PUT,
  });
  if (spec) assignment.spec = { case: specCases[kind], value: spec } as Assignment['spec'];
  // Docker's labels are part of a container's spec.
  if (kind !== 'Container') {
    assignment.labels = { ...metadata?.labels };
    assignment.annotations = { ...metadata?.annotations };
  }
  return assignment;
}

/** What a link of a chain tells the agents that follow it. An object that went to another node, or is gone, is to be forgotten. */
export function assignmentOfChange(change: Change): Assignment {
  const { object } = change;
  if (change.op === 'put' && object.assigneeUid === change.chain) return assignmentOf(object);
  return create(AssignmentSchema, {
    uid: object.uid,
    kind: kindNumbers[object.kind as AssignedKind],
    namespace: object.namespace,
    name: object.name,
    generation: BigInt(object.generation),
    revision: BigInt(change.revision),
    op: AssignmentOp.FORGET,
  });
}
