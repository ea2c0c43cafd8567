import { create } from '@bufbuild/protobuf';
import test from 'ava';
import { NodePhase, NodeStatusSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { LivenessTracker } from './liveness.ts';

function tracker() {
  const clock = { timeMs: 1_000_000, now: () => clock.timeMs };
  const liveness = new LivenessTracker({ trustMs: 30_000, reconnectGraceMs: 2_000, clock });
  const changes: string[] = [];
  liveness.subscribe((nodeUid) => changes.push(`${nodeUid} ${liveness.node(nodeUid)?.fresh ?? 'gone'}`));
  const heartbeat = (nodeUid: string, appliedRevision = 1) => {
    liveness.describe(nodeUid, { appliedRevision, status: create(NodeStatusSchema) });
    liveness.confirm(nodeUid);
  };
  return { clock, liveness, changes, heartbeat };
}

test('nothing is known of a node that has not spoken', (t) => {
  t.is(tracker().liveness.node('a'), undefined);
});

test('a node is believed for its trust window after its last word, and not a moment longer', (t) => {
  const { clock, liveness, heartbeat } = tracker();
  heartbeat('a');
  clock.timeMs += 30_000;
  t.true(liveness.node('a')?.fresh);
  clock.timeMs += 1;
  // Also before a sweep has come by.
  t.false(liveness.node('a')?.fresh);
});

test('listeners hear once of each turn', (t) => {
  const { clock, liveness, changes, heartbeat } = tracker();
  heartbeat('a');
  heartbeat('b');
  clock.timeMs += 20_000;
  heartbeat('b');
  liveness.sweep();
  t.deepEqual(changes, ['a true', 'b true']);
  clock.timeMs += 11_000;
  liveness.sweep();
  liveness.sweep();
  t.deepEqual(changes, ['a true', 'b true', 'a false']);
  heartbeat('a');
  t.deepEqual(changes, ['a true', 'b true', 'a false', 'a true']);
});

test('a dropped connection makes it stale after the grace, unless the agent is back by then', (t) => {
  const { clock, liveness, changes, heartbeat } = tracker();
  heartbeat('a');
  heartbeat('b');
  liveness.disconnected('a');
  liveness.disconnected('b');
  t.false(liveness.node('a')?.connected);
  clock.timeMs += 1_000;
  liveness.connected('b');
  clock.timeMs += 1_500;
  liveness.sweep();
  t.deepEqual(changes, ['a true', 'b true', 'a false']);
  t.true(liveness.node('b')?.fresh);
  // Connected is not enough to be believed again: it has to speak.
  liveness.connected('a');
  t.false(liveness.node('a')?.fresh);
  heartbeat('a');
  t.true(liveness.node('a')?.fresh);
});

test('a word of the agent after its connection dropped counts', (t) => {
  const { clock, liveness, heartbeat } = tracker();
  heartbeat('a');
  liveness.disconnected('a');
  heartbeat('a');
  clock.timeMs += 10_000;
  liveness.sweep();
  t.true(liveness.node('a')?.fresh);
});

test('what an agent says of its node is shown at once, also while its objects are not confirmed', (t) => {
  const { clock, liveness, heartbeat } = tracker();
  const status = create(NodeStatusSchema, { phase: NodePhase.NOT_READY });
  liveness.describe('new', { appliedRevision: 1, status });
  t.false(liveness.node('new')?.fresh);
  heartbeat('a');
  const { confirmTimeMs } = liveness.node('a') ?? {};
  clock.timeMs += 1_000;
  liveness.describe('a', { appliedRevision: 2, status });
  t.like(liveness.node('a'), { confirmTimeMs, appliedRevision: 2, status });
});
