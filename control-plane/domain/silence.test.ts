import { create } from '@bufbuild/protobuf';
import test from 'ava';
import { ConditionStatus, NodeStatusSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { Freshness } from './freshness.ts';
import { silenceOf } from './silence.ts';

const heard = (conditions: Record<string, ConditionStatus>, fresh = true): Freshness => ({
  fresh,
  connected: fresh,
  confirmTimeMs: 0,
  trustUntilMs: 1,
  appliedRevision: 1,
  assignedRevision: 1,
  status: create(NodeStatusSchema, {
    conditions: Object.entries(conditions).map(([type, status]) => ({
      type,
      status,
      reason: `${type}Reason`,
      message: `${type} says so`,
    })),
  }),
});

test('of an object of a Kubernetes bay it is said why no agent leads, by those that are there', (t) => {
  const { TRUE, FALSE, UNKNOWN } = ConditionStatus;
  const said = (live: Record<string, Freshness>, more: object = {}, assigneeUid = 'bay') => {
    const node = { uid: 'm1', revoked: false, reported: undefined, ...more };
    const around = { liveness: (uid: string) => live[uid], nodesOf: () => [node] };
    const { reason, message } = silenceOf({ assigneeUid, bayUid: 'bay' }, 'm1', around);
    return `${reason}: ${message}`;
  };
  t.is(said({ m1: heard({ Ready: FALSE }) }), 'ReadyReason: No agent of its bay leads: Ready says so.');
  t.is(
    said({ m1: heard({ Ready: TRUE, LeaderElected: UNKNOWN, DiskPressure: FALSE }) }),
    'LeaderElectedReason: No agent of its bay leads: LeaderElected says so.',
  );
  t.is(said({ m1: heard({ Ready: TRUE, DiskPressure: FALSE }) }), 'NoLeader: No agent of its bay leads yet.');
  // Nobody there has anything to say.
  const never = 'NodeSilent: Node "m1" has not been heard from since the control plane started.';
  t.is(said({}), never);
  t.is(said({ m1: heard({ Ready: FALSE }, false) }), never);
  t.is(said({ m1: heard({ Ready: FALSE }) }, { revoked: true }), never);
  t.is(said({ m1: heard({ Ready: FALSE }) }, { reported: { ready: true } }), never);
  // Somebody leads, or it is of one node.
  t.regex(said({ m1: heard({}), bay: heard({}, false) }), /^NodeSilent: Node "m1" has lost its connection/);
  t.is(said({ m1: heard({ Ready: FALSE }) }, {}, 'm2'), never);
});
