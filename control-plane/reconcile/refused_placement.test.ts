import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { BaySchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { type Container, ContainerPhase, ContainerSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { testSigner } from '../../test/harness/signing.ts';
import { until } from '../../test/harness/until.ts';
import { changeSpec, newObject } from '../domain/lifecycle.ts';
import { decode, encode, newRecord } from '../domain/record.ts';
import { openSqliteStore } from '../store/sqlite.ts';
import { startReconciler } from './reconciler.ts';
import { LocalBus, ScriptedAgent } from './scripted_agent.ts';

/** Where a container goes that the owner of its node forbids. */

const log = pino({ level: 'silent' });
const uidOf = (index: number) => `00000000-0000-7000-8000-${String(index).padStart(12, '0')}`;
const bayUid = uidOf(1);
const uid = uidOf(2);
/** Of a second container. */
const otherUid = uidOf(3);
const made = { project: 'default', bay: 'b', nowMs: 0 };

async function fixture(t: ExecutionContext) {
  const dir = await mkdtemp(join(tmpdir(), 'placement-'));
  const clock = { now: () => Date.now() };
  const store = await openSqliteStore({ file: join(dir, 'store.db'), clock, log });
  const bus = new LocalBus();
  const access = {
    urls: ['nats://127.0.0.1:1'],
    issue: async () => ({ userJwt: 'jwt', issueTimeMs: 0, expireTimeMs: 1 }),
    revoke: async () => undefined,
    onConnection: () => () => undefined,
  };
  // Nobody falls silent because a machine is slow.
  const start = () => startReconciler({ store, bus, signer: testSigner, access, clock, log, heartbeatMs: 60_000 });
  let reconciler = await start();
  const agents = new Map<string, ScriptedAgent>();
  t.teardown(async () => {
    for (const agent of agents.values()) agent.close();
    await reconciler.close();
    await store.close();
    await rm(dir, { recursive: true });
  });
  const key = (kind: string, name: string, bay: string, namespace = '') => ({
    ...{ kind, project: 'default', bayUid: bay, namespace, name },
  });
  const container = async (of = uid) => decode('Container', (await store.get({ uid: of })) ?? t.fail());
  const self = {
    store,
    container,
    node: async () => (await container()).status?.node,
    restart: async () => {
      await reconciler.close();
      reconciler = await start();
      for (const agent of agents.values()) {
        await agent.hello();
        await agent.sync();
        agent.heartbeat();
      }
    },
    /** An agent joins, and answers. */
    join: async (name: string) => {
      const nodeUid = uidOf(10 + agents.size);
      await store.write({
        reads: [{ uid: nodeUid }, key('Node', name, bayUid)],
        apply: (view) => {
          const input = create(NodeSchema, { metadata: { name, bay: 'b' }, spec: { publicKey: `U${name}` } });
          view.put(encode('Node', newObject('Node', input, { ...made, uid: nodeUid }), newRecord(bayUid, '')), '');
        },
      });
      const agent = new ScriptedAgent(bus, { bayUid, nodeUid });
      agents.set(name, agent);
      await agent.hello();
      await agent.sync();
      agent.heartbeat();
      return agent;
    },
    put: async (node = '', of = uid) => {
      const metadata = { name: `c-${of}`, bay: 'b' };
      await store.write({
        reads: [{ uid: of }, key('Container', metadata.name, bayUid, 'default')],
        apply: (view) => {
          const input = create(ContainerSchema, { metadata, spec: { image: 'i', node } });
          const object = newObject('Container', input, { ...made, uid: of });
          view.put(encode('Container', object, newRecord(bayUid, '')), '');
        },
      });
    },
    change: async () => {
      await store.write({
        reads: [{ uid }],
        apply: (view) => {
          const stored = view.get({ uid });
          if (!stored) throw new Error('not there');
          const before = decode('Container', stored);
          const { object } = changeSpec<Container>('Container', before, '', 0, (spec) => {
            spec.image = `${spec.image}i`;
          });
          view.put(encode('Container', object, stored), stored.assigneeUid);
        },
      });
    },
    /** The agent of a node says that its owner forbids it, and how it is otherwise. */
    refuse: async (name: string, status: object = {}, of = uid) => {
      const agent = agents.get(name) ?? t.fail();
      await until(`${name} has it`, () => agent.objects.has(of));
      const { generation = 0n } = agent.objects.get(of) ?? {};
      const delivery = { receivedGeneration: generation, observedGeneration: generation };
      const value = { phase: ContainerPhase.FAILED, reason: 'ForbiddenByPolicy', message: 'no', delivery, ...status };
      await agent.report([{ uid: of, status: { case: 'container', value } }]);
    },
    isOn: (name: string, of = uid) =>
      until(`it is on ${name}`, async () => (await container(of)).status?.node === name),
  };
  await store.write({
    reads: [{ uid: bayUid }, key('Bay', 'b', '')],
    apply: (view) => {
      const bay = newObject('Bay', create(BaySchema, { metadata: { name: 'b' }, spec: {} }), {
        ...{ ...made, bay: '', uid: bayUid },
      });
      view.put(encode('Bay', bay, newRecord('', '')), '');
    },
  });
  return self;
}

test('a container that its node refuses goes to one that has not refused it, and is forgotten by the first', async (t) => {
  const f = await fixture(t);
  const alpha = await f.join('alpha');
  await f.put();
  await f.isOn('alpha');
  await f.refuse('alpha');
  t.is(await f.node(), 'alpha', 'there is no other');
  t.is((await f.container()).status?.reason, 'ForbiddenByPolicy');
  const beta = await f.join('beta');
  await f.isOn('beta');
  await until('alpha has forgotten it', () => !alpha.objects.has(uid));
  await until('beta has it', () => beta.objects.has(uid));
  t.like((await f.container()).status, { phase: ContainerPhase.PENDING, reason: '', refusedBy: ['alpha'] });
  await beta.obey();
  t.like((await f.container()).status, {
    phase: ContainerPhase.RUNNING,
    node: 'beta',
    refusedBy: ['alpha'],
    made: true,
  });
});

test('it is tried on each node once, also over a restart, and stays where it was tried last until it changes', async (t) => {
  const f = await fixture(t);
  await f.join('alpha');
  await f.join('beta');
  await f.put();
  await f.isOn('alpha');
  await f.refuse('alpha');
  await f.isOn('beta');
  await f.refuse('beta');
  await f.restart();
  await f.refuse('beta', { message: 'no, again' });
  await until('that is said', async () => (await f.container()).status?.message === 'no, again');
  t.is(await f.node(), 'beta');
  await f.join('gamma');
  await f.isOn('gamma');
  await f.refuse('gamma');
  await f.refuse('gamma');
  t.like((await f.container()).status, { node: 'gamma', refusedBy: ['alpha', 'beta'] });
  await f.change();
  t.deepEqual((await f.container()).status?.refusedBy, []);
  t.is(await f.node(), 'gamma', 'nobody has refused it as it is now');
  await f.refuse('gamma');
  await f.isOn('alpha');
  // What gamma said last, in a newer session than that of alpha, does not count any more.
  await f.refuse('alpha');
  await f.isOn('beta');
});

test('what was ever made, or is to be on one node, stays', async (t) => {
  for (const [what, status, node] of [
    ['runs', { startTime: timestampFromMs(1), containerId: 'c1' }, ''],
    ['was applied', { delivery: { receivedGeneration: 1n, appliedGeneration: 1n } }, ''],
    ['is pinned', {}, 'alpha'],
  ] as const) {
    const f = await fixture(t);
    await f.join('alpha');
    await f.put(node);
    await f.put('', otherUid);
    await Promise.all([f.isOn('alpha'), f.isOn('alpha', otherUid)]);
    await f.refuse('alpha', { reason: '', ...status });
    // Somebody has removed its container, and the agent has forgotten that it ever ran.
    await f.refuse('alpha');
    await f.refuse('alpha', {}, otherUid);
    await f.join('beta');
    // It was looked at before the other one.
    await f.isOn('beta', otherUid);
    t.like((await f.container()).status, { node: 'alpha', reason: 'ForbiddenByPolicy', made: node === '' }, what);
  }
});
