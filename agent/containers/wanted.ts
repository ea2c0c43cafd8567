import { type Assignment, AssignmentOp } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { ContainerSpec } from '../../proto/gen/baykeeper/v1/container_pb.js';
import type { DesiredState } from '../ports.ts';
import { specHash, stopTimeoutSeconds } from './container_spec.ts';

/** What should become of one object. */
export type Wanted = { readonly uid: string } & (
  | {
      readonly kind: 'present';
      readonly namespace: string;
      readonly name: string;
      readonly generation: bigint;
      readonly spec: ContainerSpec;
      readonly hash: string;
    }
  /** `stopTimeoutSeconds` unset: as its container was made with. */
  | { readonly kind: 'absent'; readonly stopTimeoutSeconds: number | undefined }
  /** Nothing is known of it: hands off. */
  | { readonly kind: 'untouched' }
  /** It is to be there, and this agent cannot read how. */
  | { readonly kind: 'unusable'; readonly message: string }
);

export type Present = Extract<Wanted, { kind: 'present' }>;

export function wantedOf(desired: DesiredState, uid: string): Wanted {
  const assignment = desired.objects.get(uid)?.assignment;
  if (assignment?.op === AssignmentOp.DELETE)
    return { kind: 'absent', uid, stopTimeoutSeconds: stopTimeoutOf(assignment) };
  if (assignment?.op === AssignmentOp.PUT) {
    if (assignment.spec.case !== 'container') {
      return {
        kind: 'unusable',
        uid,
        message: 'this agent knows no such kind of object: it is older than the control plane',
      };
    }
    const spec = assignment.spec.value;
    try {
      const { namespace, name, generation } = assignment;
      return { kind: 'present', uid, namespace, name, generation, spec, hash: specHash(spec) };
    } catch (error) {
      return {
        kind: 'unusable',
        uid,
        message: `the spec cannot be read: ${error instanceof Error ? error.message : error}`,
      };
    }
  }
  // A uid both in the set and in a grave was handled above: the set says more.
  if (desired.graves.has(uid)) return { kind: 'absent', uid, stopTimeoutSeconds: undefined };
  if (assignment === undefined && desired.complete) return { kind: 'absent', uid, stopTimeoutSeconds: undefined };
  return { kind: 'untouched', uid };
}

const stopTimeoutOf = (assignment: Assignment): number | undefined =>
  assignment.spec.case === 'container' && assignment.spec.value.stopTimeout
    ? stopTimeoutSeconds(assignment.spec.value)
    : undefined;
