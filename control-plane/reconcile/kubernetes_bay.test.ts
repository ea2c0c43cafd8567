import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import {
  CheckReplySchema,
  CheckRequestSchema,
  ErrorReason,
  type NodeReportSchema,
  SignedSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { BaySchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { ConditionStatus, NodePhase, NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { PodPhase, PodSchema } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { downSubject } from '../../proto/subjects.ts';
import { testSigner } from '../../test/harness/signing.ts';
import type { Access } from '../broker/port.ts';
import { deleteObject, newObject } from '../domain/lifecycle.ts';
import { decode, encode } from '../domain/record.ts';
import { openSqliteStore } from '../store/sqlite.ts';
import type { LivenessTracker } from './liveness.ts';
import { startReconciler } from './reconciler.ts';
import { LocalBus, ScriptedAgent } from './scripted_agent.ts';

const log = pino({ level: 'silent' });
const uidOf = (index: number) => `00000000-0000-7000-8000-${String(index).padStart(12, '0')}`;
const bayUid = uidOf(1);
const [masterA, masterB] = [uidOf(2), uidOf(3)];
const podUid = uidOf(100);
const nameKey = (kind: string, name: string, bay: string, namespace = '') => ({
  kind,
  project: 'default',
  bayUid: bay,
  namespace,
  name,
});

async function fixture(t: ExecutionContext, containerEngine = ContainerEngine.KUBERNETES) {
  const dir = await mkdtemp(join(tmpdir(), 'kubernetes-bay-'));
  const clock = { offsetMs: 0, now: () => Date.now() + clock.offsetMs };
  const store = await openSqliteStore({ file: join(dir, 'store.db'), clock, log });
  const bus = new LocalBus();
  const access: Access = {
    urls: [],
    issue: async () => ({ userJwt: 'jwt', issueTimeMs: 0, expireTimeMs: 1 }),
    revoke: async () => undefined,
    onConnection: () => () => undefined,
  };
  const made = { project: 'default', bay: '', nowMs: clock.now() };
  await store.write({
    reads: [
      ...[bayUid, masterA, masterB].map((uid) => ({ uid })),
      nameKey('Bay', 'kube', ''),
      nameKey('Node', 'a', bayUid),
      nameKey('Node', 'b', bayUid),
    ],
    apply(view) {
      const spec = { containerEngine };
      const bay = newObject('Bay', create(BaySchema, { metadata: { name: 'kube' }, spec }), { ...made, uid: bayUid });
      view.put(encode('Bay', bay, { bayUid: '', assigneeUid: '', epoch: 0, sequence: 0 }), '');
      for (const [uid, name] of [
        [masterA, 'a'],
        [masterB, 'b'],
      ] as const) {
        const input = create(NodeSchema, { metadata: { name, bay: 'kube' }, spec: { publicKey: `U${name}` } });
        const node = newObject('Node', input, { ...made, bay: 'kube', uid });
        view.put(encode('Node', node, { bayUid, assigneeUid: '', epoch: 0, sequence: 0 }), '');
      }
    },
  });
  const reconciler = await startReconciler({ store, bus, signer: testSigner, access, clock, log, heartbeatMs: 200 });
  t.teardown(async () => {
    await reconciler.close();
    await store.close();
    await rm(dir, { recursive: true });
  });
  const agent = async (nodeUid: string, leader: boolean) => {
    const one = new ScriptedAgent(bus, { bayUid, nodeUid });
    await one.hello({ leader });
    await one.sync();
    return one;
  };
  const pod = async () => {
    const stored = await store.get({ uid: podUid });
    if (!stored) throw new Error('the pod is gone');
    return decode('Pod', stored);
  };
  return { store, bus, clock, reconciler, agent, pod, sweep: () => (reconciler.liveness as LivenessTracker).sweep() };
}
type Fixture = Awaited<ReturnType<typeof fixture>>;

async function putPod({ store, reconciler, clock }: Fixture): Promise<void> {
  const assignee = reconciler.placement.choose(bayUid, '')?.uid ?? '';
  await store.write({
    reads: [{ uid: podUid }, nameKey('Pod', 'web', bayUid, 'default')],
    apply(view) {
      const input = create(PodSchema, {
        metadata: { name: 'web', bay: 'kube', labels: { app: 'web' }, annotations: { note: 'n' } },
        spec: { manifest: { containers: [{ name: 'main', image: 'busybox' }] }, createNamespace: true },
      });
      const made = { uid: podUid, project: 'default', bay: 'kube', nowMs: clock.now() };
      const record = { bayUid, assigneeUid: assignee, epoch: 0, sequence: 0 };
      view.put(encode('Pod', newObject('Pod', input, made), record), assignee);
    },
  });
}

async function deletePod({ store, clock }: Fixture): Promise<void> {
  await store.write({
    reads: [{ uid: podUid }],
    apply(view) {
      const stored = view.get({ uid: podUid });
      if (!stored) return;
      const request = { etag: '', force: false, assigned: true, nowMs: clock.now() };
      const { object } = deleteObject('Pod', decode('Pod', stored), request);
      view.put(encode('Pod', object, stored), stored.assigneeUid);
    },
  });
}

const running = (ip: string) => ({
  uid: podUid,
  status: {
    case: 'pod' as const,
    value: {
      phase: PodPhase.RUNNING,
      podIp: ip,
      delivery: { receivedGeneration: 1n, appliedGeneration: 1n, observedGeneration: 1n },
    },
  },
});

test('every master is given all of the bay; the word of the newest leader counts, and of no other', async (t) => {
  const f = await fixture(t);
  const a = await f.agent(masterA, true);
  const b = await f.agent(masterB, false);
  await putPod(f);
  for (const one of [a, b]) {
    const assignment = one.objects.get(podUid);
    t.is(assignment?.spec.case, 'pod');
    t.deepEqual(assignment?.labels, { app: 'web' });
    t.deepEqual(assignment?.annotations, { note: 'n' });
    t.true(assignment?.spec.case === 'pod' && assignment.spec.value.createNamespace);
  }
  t.deepEqual((await b.report([running('10.0.0.9')])).unknownUids, [podUid], 'a standby speaks for nobody');
  t.deepEqual((await a.report([running('10.0.0.1')])).unknownUids, []);
  t.like((await f.pod()).status, { phase: PodPhase.RUNNING, podIp: '10.0.0.1', node: 'a' });

  // B takes over; what A says from before that, and repeats, changes nothing any more.
  const epochOfA = a.epoch;
  await b.hello({ leader: true });
  t.true(b.epoch > epochOfA, 'a newer session has a greater epoch, whichever node it is of');
  await b.report([running('10.0.0.2')]);
  await a.report([running('10.0.0.3')]);
  t.like((await f.pod()).status, { podIp: '10.0.0.2', node: 'b' });

  // A deletion is confirmed by whoever leads now, and both forget it.
  await deletePod(f);
  await a.report([{ uid: podUid, removed: true }]);
  t.truthy(await f.store.get({ uid: podUid }), 'who led before cannot confirm it');
  await b.report([{ uid: podUid, removed: true }]);
  t.is(await f.store.get({ uid: podUid }), undefined);
  t.deepEqual([a.objects.size, b.objects.size], [0, 0]);
});

test('the bay is as fresh as the word of its leader', async (t) => {
  const f = await fixture(t);
  const { liveness } = f.reconciler;
  const told: string[] = [];
  liveness.subscribe((uid) => told.push(uid));
  const a = await f.agent(masterA, true);
  await putPod(f);
  t.falsy(liveness.node(bayUid)?.fresh, 'it leads, and has said nothing of the bay yet');
  await a.report([running('10.0.0.1')]);
  t.true(liveness.node(bayUid)?.fresh);
  t.is(liveness.agentOf(bayUid), masterA);
  t.true(told.includes(bayUid));

  const b = await f.agent(masterB, false);
  b.heartbeat();
  await b.report([]);
  f.clock.offsetMs += 10_000;
  f.sweep();
  await b.report([]);
  t.false(liveness.node(bayUid)?.fresh, 'that a standby speaks says nothing of the bay');
  await b.hello({ leader: true });
  t.false(liveness.node(bayUid)?.fresh, 'nor does a new leader before it has looked');
  await b.report([running('10.0.0.2')]);
  t.true(liveness.node(bayUid)?.fresh);
  t.is(liveness.agentOf(bayUid), masterB);
  await b.hello({ leader: false });
  t.falsy(liveness.node(bayUid)?.fresh, 'nobody leads');
});

test('a report with others still to come confirms nobody', async (t) => {
  const f = await fixture(t);
  const { liveness } = f.reconciler;
  const a = await f.agent(masterA, true);
  await putPod(f);
  await a.report([], { pending: 1 });
  t.falsy(liveness.node(masterA)?.fresh);
  t.falsy(liveness.node(bayUid)?.fresh, 'the pod is among what is still to come');
  await a.report([running('10.0.0.1')]);
  t.true(liveness.node(masterA)?.fresh);
  t.true(liveness.node(bayUid)?.fresh);
});

test('nodes of the cluster come, change and go as the leader says', async (t) => {
  const f = await fixture(t);
  const a = await f.agent(masterA, true);
  const status = (ready: boolean, cpu = '2'): MessageInitShape<typeof NodeReportSchema>['status'] => ({
    phase: ready ? NodePhase.READY : NodePhase.NOT_READY,
    conditions: [{ type: 'Ready', status: ready ? ConditionStatus.TRUE : ConditionStatus.FALSE }],
    cluster: { roles: ['worker'], capacity: { cpu }, kubeletVersion: 'v1.20.2' },
  });
  const nodes = async () => {
    const page = await f.store.list({ kind: 'Node', bayUid, orderBy: 'name', descending: false, limit: 10 });
    return page.objects.map((stored) => decode('Node', stored));
  };
  await a.report([], {
    nodes: [
      { name: 'a', status: status(true) },
      { name: 'w1', status: status(true) },
      { name: 'w2', status: status(false) },
      { name: 'Not_A_Name', status: status(true) },
    ],
    allNodes: { names: ['a', 'w1', 'w2', 'Not_A_Name'] },
  });
  const first = await nodes();
  t.deepEqual(
    first.map(({ metadata, status: is }) => [metadata?.name, is?.reportedBy, is?.cluster?.roles.join()]),
    [
      ['a', '', 'worker'],
      ['b', '', undefined],
      ['w1', 'a', 'worker'],
      ['w2', 'a', 'worker'],
    ],
    'a node with an agent of its own speaks for itself',
  );
  t.like(first[3]?.status, { phase: NodePhase.NOT_READY });

  const long = `${'w'.repeat(60)}.example.org`;
  await a.report([], { nodes: [{ name: long, status: status(true) }] });
  t.true((await nodes()).some(({ metadata }) => metadata?.name === long));
  await a.report([], { nodes: [{ name: long, removed: true }] });

  // Others may be written meanwhile: of those that fall silent.
  const revisionOf = async (name: string) =>
    (await nodes()).find(({ metadata }) => metadata?.name === name)?.metadata?.revision;
  const revision = await revisionOf('w1');
  await a.report([], { nodes: [{ name: 'w1', status: status(true) }] });
  t.is(await revisionOf('w1'), revision, 'what says nothing new is not written');
  await a.report([], { nodes: [{ name: 'w1', status: status(true, '4') }] });
  t.is((await nodes())[2]?.status?.cluster?.capacity.cpu, '4');

  await a.report([], { nodes: [{ name: 'w2', removed: true }] });
  t.deepEqual(
    (await nodes()).map(({ metadata }) => metadata?.name),
    ['a', 'b', 'w1'],
  );
  // Gone while nobody looked: not among all that there are.
  await a.report([], { allNodes: { names: ['a'] } });
  t.deepEqual(
    (await nodes()).map(({ metadata }) => metadata?.name),
    ['a', 'b'],
    'nodes with an agent stay',
  );

  const b = await f.agent(masterB, false);
  await b.report([], { nodes: [{ name: 'x', status: status(true) }] });
  t.is((await nodes()).length, 2, 'a standby speaks for nobody');
  const names = Array.from({ length: 10_001 }, (_, i) => `n${i}`);
  t.is((await a.report([], { allNodes: { names } })).error?.reason, ErrorReason.INVALID);
});

test('a cluster has so many nodes, and no more by reports of a few', async (t) => {
  const f = await fixture(t);
  const a = await f.agent(masterA, true);
  const names = Array.from({ length: 9_997 }, (_, i) => `n${i}`);
  await f.store.write({
    reads: names.map((name) => nameKey('Node', name, bayUid)),
    apply(view) {
      for (const [i, name] of names.entries()) {
        const made = { project: 'default', bay: 'kube', nowMs: 0, uid: uidOf(1000 + i) };
        const node = newObject('Node', create(NodeSchema, { metadata: { name } }), made);
        view.put(encode('Node', node, { bayUid, assigneeUid: '', epoch: 0, sequence: 0 }), '');
      }
    },
  });
  const report = (...names: string[]) =>
    a.report([], { nodes: names.map((name) => ({ name, status: { phase: NodePhase.READY } })) });
  t.is((await report('one-more', 'n5')).error?.reason, undefined);
  t.is((await report('too-many')).error?.reason, ErrorReason.INVALID);
  t.is((await report('n7')).error?.reason, undefined);
  await a.report([], { nodes: [{ name: 'n9', removed: true }] });
  t.is((await report('in-its-place')).error?.reason, undefined);
});

test('on a Docker bay no agent leads, whatever it says', async (t) => {
  const f = await fixture(t, ContainerEngine.DOCKER);
  const a = await f.agent(masterA, true);
  await a.report([], { nodes: [{ name: 'made-up', status: { phase: NodePhase.READY } }] });
  const page = await f.store.list({ kind: 'Node', bayUid, orderBy: 'name', descending: false, limit: 10 });
  t.deepEqual(
    page.objects.map(({ name }) => name),
    ['a', 'b'],
  );
  t.is(f.reconciler.liveness.agentOf(bayUid), undefined);
});

test('a cluster is asked by way of the leader, and its words come back', async (t) => {
  const f = await fixture(t);
  await f.agent(masterA, true);
  const pod = create(PodSchema, {
    metadata: { uid: podUid, name: 'web', namespace: 'default', generation: 3n, labels: { a: 'b' } },
    spec: { manifest: { containers: [] } },
  });
  const replies: MessageInitShape<typeof CheckReplySchema>[] = [
    { refusal: { code: 3, reason: 'Invalid', message: 'spec.containers: Required value', field: 'spec.containers' } },
    { live: { kind: 'Pod' }, merged: { kind: 'Pod', spec: {} } },
    { error: { message: 'the API server does not answer' } },
  ];
  f.bus.subscribe(downSubject({ bayUid, nodeUid: masterA }, 'check'), ({ data, respond }) => {
    const { assignment } = fromBinary(CheckRequestSchema, fromBinary(SignedSchema, data).payload);
    t.is(assignment?.spec.case, 'pod');
    t.deepEqual(assignment?.labels, { a: 'b' });
    respond(toBinary(CheckReplySchema, create(CheckReplySchema, replies.shift())));
  });
  const ask = () => f.reconciler.checks.check({ bayUid, nodeUid: masterA }, 'Pod', pod);
  t.like(await ask(), { refusal: { code: 3, field: 'spec.containers' } });
  t.like(await ask(), { live: { kind: 'Pod' }, merged: { spec: {} } });
  await t.throwsAsync(ask(), { name: 'UnavailableError', message: /API server does not answer/ });

  // Many at a time wait for their turn.
  let [under, most] = [0, 0];
  f.bus.request = async () => {
    under += 1;
    most = Math.max(most, under);
    await new Promise((resolve) => setImmediate(resolve));
    under -= 1;
    return toBinary(CheckReplySchema, create(CheckReplySchema));
  };
  await Promise.all(Array.from({ length: 300 }, ask));
  t.is(most, 16);
  f.bus.request = () => Promise.reject(new Error('nobody listens on bk.v1.x'));
  await t.throwsAsync(ask(), {
    name: 'UnavailableError',
    message: 'the agent that leads the bay does not answer: try again',
  });
});
