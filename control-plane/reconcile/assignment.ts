import { create } from '@bufbuild/protobuf';
import { type Assignment, AssignmentOp, AssignmentSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { decode } from '../domain/record.ts';
import type { Change, StoredObject } from '../store/port.ts';

/** What a node's agent is told of an object that is assigned to it. */
export function assignmentOf(object: StoredObject): Assignment {
  if (object.kind !== 'Container') throw new Error(`a ${object.kind} cannot be assigned to a node yet`);
  const assignment = create(AssignmentSchema, {
    uid: object.uid,
    kind: Kind.CONTAINER,
    namespace: object.namespace,
    name: object.name,
    generation: BigInt(object.generation),
    revision: BigInt(object.revision),
    op: object.deleting ? AssignmentOp.DELETE : AssignmentOp.PUT,
  });
  const { spec } = decode('Container', object);
  if (spec) assignment.spec = { case: 'container', value: spec };
  return assignment;
}

/** What a link of a node's chain tells its agent. An object that went to another node, or is gone, is to be forgotten. */
export function assignmentOfChange(change: Change): Assignment {
  const { object } = change;
  if (change.op === 'put' && object.nodeUid === change.chain) return assignmentOf(object);
  return create(AssignmentSchema, {
    uid: object.uid,
    kind: Kind.CONTAINER,
    namespace: object.namespace,
    name: object.name,
    generation: BigInt(object.generation),
    revision: BigInt(change.revision),
    op: AssignmentOp.FORGET,
  });
}
