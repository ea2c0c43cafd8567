import { create } from '@bufbuild/protobuf';
import test from 'ava';
import fc from 'fast-check';
import { BayPhase, BaySchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerPhase, ContainerSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ConditionStatus, NodePhase, NodeSchema, NodeStatusSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { Freshness } from './freshness.ts';
import { type NodeFacts, presentMessage, type Surroundings } from './present.ts';

const live = (over: Partial<Freshness> = {}, ready = true): Freshness => ({
  fresh: true,
  connected: true,
  confirmTimeMs: 1_000,
  trustUntilMs: 31_000,
  appliedRevision: 1,
  assignedRevision: 2,
  status: create(NodeStatusSchema, {
    conditions: [{ type: 'Ready', status: ready ? ConditionStatus.TRUE : ConditionStatus.FALSE, reason: 'Why' }],
  }),
  ...over,
});
const around = (nodes: Record<string, Freshness | undefined>, facts: readonly NodeFacts[] = []): Surroundings => ({
  liveness: (uid) => nodes[uid],
  leaderOf: () => undefined,
  nodesOf: () => facts,
});
const stored = { uid: 'u', bayUid: 'b', assigneeUid: 'n', epoch: 1, deleting: false };
const container = (phase: ContainerPhase, observed = 1n) =>
  create(ContainerSchema, {
    metadata: { name: 'web', generation: 2n },
    status: { phase, node: 'n1', reason: 'Before', delivery: { observedGeneration: observed } },
  });

test('a phase is shown as reported exactly while its node may be believed', (t) => {
  const phases = fc.integer({ min: ContainerPhase.PENDING, max: ContainerPhase.DELETING });
  fc.assert(
    fc.property(phases, fc.boolean(), fc.boolean(), (phase, fresh, heard) => {
      const node = heard ? live({ fresh, connected: fresh }) : undefined;
      const { status } = presentMessage('Container', container(phase), stored, around({ n: node }));
      if (heard && fresh) {
        t.is(status?.phase, phase);
        t.is(status?.reason, 'Before');
        t.is(status?.lastKnownPhase, ContainerPhase.UNSPECIFIED);
      } else {
        t.is(status?.phase, ContainerPhase.UNKNOWN);
        t.is(status?.lastKnownPhase, phase);
        t.is(status?.reason, 'NodeSilent');
      }
      t.is(status?.delivery?.trustUntil !== undefined, heard);
      // A generation that nobody has spoken of yet is told by these two, not hidden.
      t.is(status?.delivery?.observedGeneration, 1n);
    }),
  );
});

test('what only the control plane has said of an object stays true while its node is silent', (t) => {
  const waiting = presentMessage('Container', container(ContainerPhase.PENDING, 0n), stored, around({}));
  t.is(waiting.status?.phase, ContainerPhase.PENDING);
  t.is(waiting.status?.reason, 'NodeSilent');
  t.regex(waiting.status?.message ?? '', /Node "n1" has not been heard from/);
  const unplaced = presentMessage(
    'Container',
    container(ContainerPhase.PENDING, 0n),
    { ...stored, assigneeUid: '' },
    around({}),
  );
  t.is(unplaced.status?.reason, 'Before');
});

test('a deletion shows at once, and as UNKNOWN while the node is silent', (t) => {
  const deleting = { ...stored, deleting: true };
  const known = presentMessage('Container', container(ContainerPhase.RUNNING), deleting, around({ n: live() }));
  t.is(known.status?.phase, ContainerPhase.DELETING);
  const silent = presentMessage('Container', container(ContainerPhase.RUNNING), deleting, around({}));
  t.is(silent.status?.phase, ContainerPhase.UNKNOWN);
  t.is(silent.status?.lastKnownPhase, ContainerPhase.DELETING);
});

test('a node is what its agent says while it speaks', (t) => {
  const phase = (node: Freshness | undefined, epoch = 1, revoked = false) =>
    presentMessage(
      'Node',
      create(NodeSchema, { metadata: { name: 'n1' }, spec: { revoked } }),
      { ...stored, uid: 'n', epoch },
      around({ n: node }),
    ).status;
  t.is(phase(live())?.phase, NodePhase.READY);
  t.is(phase(live({}, false))?.phase, NodePhase.NOT_READY);
  t.is(phase(live({}, false))?.reason, 'Why');
  t.is(phase(undefined, 0)?.phase, NodePhase.PENDING);
  t.is(phase(undefined)?.phase, NodePhase.UNKNOWN);
  const silent = phase(live({ fresh: false }));
  t.is(silent?.phase, NodePhase.UNKNOWN);
  t.is(silent?.conditions[0]?.status, ConditionStatus.UNKNOWN);
  t.is(phase(live(), 1, true)?.phase, NodePhase.REVOKED);
  // What is shown is a copy: the heartbeat itself is everybody's.
  const shared = live({ fresh: false });
  phase(shared);
  t.is(shared.status.conditions[0]?.status, ConditionStatus.TRUE);
});

test('a bay is what its nodes are together', (t) => {
  const fact = (uid: string, over: Partial<NodeFacts> = {}): NodeFacts => ({
    uid,
    revoked: false,
    deleting: false,
    heard: true,
    docker: true,
    reported: undefined,
    ...over,
  });
  const status = (nodes: Record<string, Freshness | undefined>, facts: readonly NodeFacts[]) =>
    presentMessage('Bay', create(BaySchema, { metadata: { name: 'b' } }), stored, around(nodes, facts)).status;
  t.is(status({}, [])?.phase, BayPhase.PENDING);
  t.is(status({}, [fact('a', { heard: false })])?.phase, BayPhase.PENDING);
  t.is(status({ a: live(), b: live() }, [fact('a'), fact('b')])?.phase, BayPhase.READY);
  t.is(status({ a: live(), b: live({ fresh: false }) }, [fact('a'), fact('b')])?.phase, BayPhase.DEGRADED);
  t.is(status({ a: live({}, false) }, [fact('a')])?.phase, BayPhase.DEGRADED);
  t.is(status({ a: live({ fresh: false }) }, [fact('a'), fact('b')])?.phase, BayPhase.UNKNOWN);
  t.is(status({ a: live() }, [fact('a'), fact('b', { revoked: true })])?.phase, BayPhase.READY);
});
