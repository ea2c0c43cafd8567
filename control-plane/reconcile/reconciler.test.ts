import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, toJson } from '@bufbuild/protobuf';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { pino } from 'pino';
import { ErrorReason } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { BaySchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerPhase, ContainerSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { NodePhase, NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { downSubject, upSubject } from '../../proto/subjects.ts';
import { testSigner, testVerifier } from '../../test/harness/signing.ts';
import type { AuditEntry } from '../audit/port.ts';
import type { Access, ConnectionEvent } from '../broker/port.ts';
import { deleteObject, newObject } from '../domain/lifecycle.ts';
import { decode, encode } from '../domain/record.ts';
import type { Store } from '../store/port.ts';
import { openSqliteStore } from '../store/sqlite.ts';
import type { LivenessTracker } from './liveness.ts';
import { type Reconciler, startReconciler } from './reconciler.ts';
import { LocalBus, ScriptedAgent } from './scripted_agent.ts';

const log = pino({ level: 'silent' });
const bayUid = '00000000-0000-7000-8000-00000000000b';
const nodeUid = '00000000-0000-7000-8000-00000000000a';

async function until(t: ExecutionContext, what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 2000; i += 1) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  t.fail(`did not come true: ${what}`);
}

/** What the reconciler itself does every second. */
const trackerOf = (reconciler: Reconciler) => reconciler.liveness as LivenessTracker;

async function fixture(t: ExecutionContext) {
  const dir = await mkdtemp(join(tmpdir(), 'reconciler-'));
  const clock = { offsetMs: 0, now: () => Date.now() + clock.offsetMs };
  const store = await openSqliteStore({ file: join(dir, 'store.db'), clock, log });
  const bus = new LocalBus();
  const listeners = new Set<(event: ConnectionEvent) => void>();
  const revoked: string[] = [];
  const access: Access = {
    urls: ['nats://127.0.0.1:1'],
    issue: async () => ({ userJwt: 'jwt', issueTimeMs: 0, expireTimeMs: 1 }),
    revoke: async (keys) => {
      revoked.push(...keys);
    },
    onConnection: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  const notes: AuditEntry[] = [];
  const audit = { note: (entry: AuditEntry) => void notes.push(entry) };
  const start = () => startReconciler({ store, bus, signer: testSigner, access, clock, log, audit, heartbeatMs: 200 });
  const self = {
    t,
    clock,
    store,
    bus,
    notes,
    revoked,
    reconciler: await start(),
    restart: async () => {
      await self.reconciler.close();
      self.reconciler = await start();
    },
    sweep: () => trackerOf(self.reconciler).sweep(),
    connection: (connected: boolean, connectionId: string) => {
      for (const listener of listeners) listener({ publicKey: 'UNODE', connected, connectionId, timeMs: clock.now() });
    },
  };
  t.teardown(async () => {
    await self.reconciler.close();
    await store.close();
    await rm(dir, { recursive: true });
  });
  await store.write({
    reads: [{ uid: bayUid }, { uid: nodeUid }, ...names('Bay', 'b', ''), ...names('Node', 'n', bayUid)],
    apply: (view) => {
      const made = { project: 'default', bay: '', nowMs: clock.now() };
      const bay = newObject('Bay', create(BaySchema, { metadata: { name: 'b' }, spec: {} }), { ...made, uid: bayUid });
      view.put(encode('Bay', bay, { bayUid: '', assigneeUid: '', epoch: 0, sequence: 0 }), '');
      const input = create(NodeSchema, { metadata: { name: 'n', bay: 'b' }, spec: { publicKey: 'UNODE' } });
      const node = newObject('Node', input, { ...made, bay: 'b', uid: nodeUid });
      view.put(encode('Node', node, { bayUid, assigneeUid: '', epoch: 0, sequence: 0 }), '');
    },
  });
  return self;
}

const names = (kind: string, name: string, bay: string, namespace = '') => [
  { kind, project: 'default', bayUid: bay, namespace, name },
];
const uidOf = (index: number) => `00000000-0000-7000-8000-${String(index).padStart(12, '0')}`;

/** Makes, or changes, container `index`. */
async function put(store: Store, index: number, node = nodeUid, generation = 1): Promise<void> {
  const uid = uidOf(index);
  await store.write({
    reads: [{ uid }, ...names('Container', `c${index}`, bayUid, 'default')],
    apply: (view) => {
      const stored = view.get({ uid });
      if (stored?.deleting) return;
      const container = stored
        ? decode('Container', stored)
        : newObject(
            'Container',
            create(ContainerSchema, { metadata: { name: `c${index}`, bay: 'b' }, spec: { image: 'i' } }),
            {
              uid,
              project: 'default',
              bay: 'b',
              nowMs: Date.now(),
            },
          );
      if (container.metadata) container.metadata.generation = BigInt(stored ? stored.generation + 1 : generation);
      view.put(
        encode('Container', container, stored ?? { bayUid, assigneeUid: node, epoch: 0, sequence: 0 }),
        stored?.assigneeUid ?? node,
      );
    },
  });
}

async function remove(store: Store, index: number): Promise<void> {
  const uid = uidOf(index);
  await store.write({
    reads: [{ uid }],
    apply: (view) => {
      const stored = view.get({ uid });
      if (!stored || stored.deleting) return;
      const { object } = deleteObject('Container', decode('Container', stored), {
        etag: '',
        force: false,
        assigned: true,
        nowMs: Date.now(),
      });
      view.put(encode('Container', object, stored), stored.assigneeUid);
    },
  });
}

/** What the agent has against what the store says it should have. */
async function agrees(store: Store, agent: ScriptedAgent): Promise<boolean> {
  const set = await store.assigned(nodeUid);
  return (
    agent.revision === set.head &&
    agent.objects.size === set.objects.length &&
    set.objects.every(({ uid, generation }) => Number(agent.objects.get(uid)?.generation) === generation)
  );
}

async function joined(f: Awaited<ReturnType<typeof fixture>>): Promise<ScriptedAgent> {
  const agent = new ScriptedAgent(f.bus, { bayUid, nodeUid });
  await agent.hello();
  await agent.sync();
  agent.heartbeat();
  await until(f.t, 'fresh', () => f.reconciler.liveness.node(nodeUid)?.fresh === true);
  return agent;
}

const containerOf = async (store: Store, index: number) => {
  const stored = await store.get({ uid: uidOf(index) });
  return stored && decode('Container', stored);
};

test('each commit reaches the agent as a delta on the one before', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  for (let i = 0; i < 20; i += 1) await put(f.store, i);
  await remove(f.store, 3);
  await until(t, 'agent has all', () => agrees(f.store, agent));
  t.is(agent.snapshots, 1, 'the empty one at the start');
  t.false(agent.lost);
  await agent.obey();
  await until(
    t,
    'the deleted one is gone on both sides',
    async () => agent.objects.size === 19 && (await agrees(f.store, agent)),
  );
});

test('what an agent has done about each change is recorded once, when it says so', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  const told = () =>
    f.notes.splice(0).map(({ kind, code, subject, project, message, objects }) => {
      const { bay, name, generation } = objects[0] ?? {};
      return [kind, code, subject, project, bay, name, generation, message].join(' ');
    });
  const fails = (phase: ContainerPhase, reason: string) =>
    agent.report([
      {
        uid: uidOf(1),
        status: { case: 'container', value: { phase, reason, delivery: { observedGeneration: 1n } } },
      },
    ]);
  await put(f.store, 1);
  await until(t, 'agent has it', () => agrees(f.store, agent));
  await fails(ContainerPhase.PULLING, '');
  t.deepEqual(told(), []);
  await fails(ContainerPhase.PENDING, 'ImagePullFailed');
  t.deepEqual(told(), ['effect failed node/n default b c1 1 ImagePullFailed']);
  // To and fro, and for another reason: of the same generation that is no news.
  await fails(ContainerPhase.PULLING, '');
  await fails(ContainerPhase.PENDING, 'NoSuchImage');
  t.deepEqual(told(), []);
  await agent.obey();
  await agent.obey();
  t.deepEqual(told(), ['effect applied node/n default b c1 1 ']);
  await put(f.store, 1);
  await until(t, 'agent has that, too', () => agrees(f.store, agent));
  await agent.obey();
  t.deepEqual(told(), ['effect applied node/n default b c1 2 ']);
  await remove(f.store, 1);
  await until(t, 'agent is to remove it', () => agrees(f.store, agent));
  await agent.obey();
  t.deepEqual(told(), ['effect removed node/n default b c1 2 ']);
});

test('an agent that was away gets what it missed as a delta', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  f.bus.lose = () => true;
  for (let i = 2; i < 10; i += 1) await put(f.store, i);
  await remove(f.store, 1);
  f.bus.lose = () => false;
  await agent.hello();
  await agent.sync();
  t.true(await agrees(f.store, agent));
  t.is(agent.snapshots, 1);
});

test('one that is behind what the feed keeps, or ahead of a restored store, gets everything', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  f.bus.lose = () => true;
  for (let i = 1; i < 10; i += 1) await put(f.store, i);
  await f.store.compact(f.store.revision, 0);
  f.bus.lose = () => false;
  agent.revision = 1;
  await agent.sync();
  t.true(await agrees(f.store, agent));
  agent.revision += 1000;
  agent.objects.clear();
  await agent.sync();
  t.true(await agrees(f.store, agent));
});

test('a snapshot larger than a message comes in pieces', async (t) => {
  const f = await fixture(t);
  f.bus.maxPayloadBytes = 8192;
  for (let i = 0; i < 200; i += 1) await put(f.store, i);
  const agent = await joined(f);
  t.true(await agrees(f.store, agent));
});

test('a delta larger than a message comes in pieces that chain', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  f.bus.lose = () => true;
  for (let i = 0; i < 200; i += 1) await put(f.store, i);
  f.bus.lose = () => false;
  f.bus.maxPayloadBytes = 8192;
  agent.revision = Math.max(agent.revision, 0);
  await put(f.store, 1);
  agent.lost = false;
  await agent.sync();
  t.true(await agrees(f.store, agent));
});

test('whatever is lost, and whoever restarts, heartbeats bring both sides together', async (t) => {
  const f = await fixture(t);
  let agent = await joined(f);
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.record({ do: fc.constant('put' as const), index: fc.nat(8) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('remove' as const), index: fc.nat(8) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('lose' as const, 'obey' as const), index: fc.nat(8) }) },
    {
      weight: 1,
      arbitrary: fc.record({
        do: fc.constantFrom('restart' as const, 'wipe' as const, 'hello' as const),
        index: fc.nat(8),
      }),
    },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
      for (const { do: what, index } of steps) {
        if (what === 'put') await put(f.store, index);
        if (what === 'remove') await remove(f.store, index);
        if (what === 'lose') f.bus.lose = f.bus.lose('') ? () => false : () => true;
        if (what === 'obey') await agent.obey();
        if (what === 'restart') await f.restart();
        if (what === 'hello') await agent.hello();
        if (what === 'wipe') {
          agent.close();
          agent = new ScriptedAgent(f.bus, { bayUid, nodeUid });
          await agent.hello();
          await agent.sync();
        }
      }
      f.bus.lose = () => false;
      await until(t, 'both agree', async () => {
        agent.heartbeat();
        return agrees(f.store, agent);
      });
      return true;
    }),
    { numRuns: 25 },
  );
  t.pass();
});

test('a report of an older session or sequence changes nothing', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  const say = (exitCode: number, fence: { epoch?: bigint; sequence?: bigint } = {}) =>
    agent.report(
      [{ uid: uidOf(1), status: { case: 'container', value: { phase: ContainerPhase.RUNNING, exitCode } } }],
      fence,
    );
  await say(1, { sequence: 10n });
  await say(2, { sequence: 9n });
  await say(3, { sequence: 10n });
  t.is((await containerOf(f.store, 1))?.status?.exitCode, 1);
  const old = agent.epoch;
  await agent.hello();
  t.is((await say(4, { epoch: old, sequence: 11n })).error?.reason, ErrorReason.FENCED);
  t.is((await containerOf(f.store, 1))?.status?.exitCode, 1);
  await say(5);
  t.is((await containerOf(f.store, 1))?.status?.exitCode, 5);
});

test('a report that says nothing new is not written', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  await agent.obey();
  const { revision } = f.store;
  await agent.obey();
  t.is(f.store.revision, revision);
});

test('an object is ended only by a report on one whose end was asked for', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  await agent.report([{ uid: uidOf(1), removed: true }]);
  t.truthy(await containerOf(f.store, 1));
  await remove(f.store, 1);
  await agent.report([{ uid: uidOf(1), removed: true }]);
  t.is(await containerOf(f.store, 1), undefined);
});

test('nobody reports on what is not theirs', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1, uidOf(98));
  const running = { case: 'container' as const, value: { phase: ContainerPhase.RUNNING } };
  const reply = await agent.report([
    { uid: uidOf(1), status: running },
    { uid: uidOf(77), removed: true },
  ]);
  t.deepEqual(reply.unknownUids, [uidOf(1), uidOf(77)]);
  t.is((await containerOf(f.store, 1))?.status?.phase, ContainerPhase.PENDING);
});

test('a second agent with the same identity is turned away while the first is at work', async (t) => {
  const f = await fixture(t);
  f.connection(true, '1');
  const first = await joined(f);
  const second = new ScriptedAgent(f.bus, { bayUid, nodeUid });
  f.connection(true, '2');
  t.is((await second.hello()).error?.reason, ErrorReason.RETRY);
  await until(t, 'turned away', async () => {
    first.heartbeat();
    return (await second.hello()).error?.reason === ErrorReason.DUPLICATE;
  });
  const node = await f.store.get({ uid: nodeUid });
  t.true(node && decode('Node', node).status?.conditions.some((c) => c.type === 'DuplicateIdentity'));
  // The first has gone: the other may have the node.
  f.connection(false, '1');
  t.is((await second.hello()).error, undefined);
});

test('nor does it get the node when the control plane has restarted and knows nobody', async (t) => {
  const f = await fixture(t);
  f.connection(true, '1');
  const first = await joined(f);
  const second = new ScriptedAgent(f.bus, { bayUid, nodeUid });
  f.connection(true, '2');
  for (const firstSpeaks of [true, false]) {
    await f.restart();
    f.connection(true, '1');
    f.connection(true, '2');
    if (firstSpeaks) {
      first.heartbeat();
      await until(t, 'heard', () => f.reconciler.liveness.node(nodeUid)?.fresh === true);
    }
    t.is((await second.hello()).error?.reason, ErrorReason.RETRY);
    await until(t, 'turned away', async () => {
      first.heartbeat();
      return (await second.hello()).error?.reason === ErrorReason.DUPLICATE;
    });
  }
  const { epoch } = first;
  first.heartbeat();
  await until(t, 'the first is believed', () => f.reconciler.liveness.node(nodeUid)?.fresh === true);
  t.is((await f.store.get({ uid: nodeUid }))?.epoch, Number(epoch), 'its session goes on');
});

test('a report that was overtaken by one that changed nothing is not taken either', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  const say = (exitCode: number, sequence: bigint) =>
    agent.report(
      [{ uid: uidOf(1), status: { case: 'container', value: { phase: ContainerPhase.RUNNING, exitCode } } }],
      {
        sequence,
      },
    );
  await say(1, 3n);
  // Nothing new in it, so nothing is written; but it is the newest word.
  await say(1, 5n);
  await say(2, 4n);
  t.is((await containerOf(f.store, 1))?.status?.exitCode, 1);
  await say(2, 6n);
  t.is((await containerOf(f.store, 1))?.status?.exitCode, 2);
});

test('a report or heartbeat with times that cannot be shown is refused', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  const never = { seconds: 10n ** 15n, nanos: 0 };
  const reply = await agent.report([
    { uid: uidOf(1), status: { case: 'container', value: { phase: ContainerPhase.RUNNING, startTime: never } } },
  ]);
  t.is(reply.error?.reason, ErrorReason.INVALID);
  t.is((await containerOf(f.store, 1))?.status?.startTime, undefined);
  const conditions = [{ type: 'Ready', lastTransitionTime: never }];
  agent.heartbeat({ phase: NodePhase.NOT_READY, conditions });
  agent.heartbeat({ phase: NodePhase.READY, info: { bootTime: never } });
  agent.heartbeat({ phase: NodePhase.READY });
  await until(t, 'the good one was taken', async () => {
    const node = await f.store.get({ uid: nodeUid });
    return (node && decode('Node', node).status?.phase) === NodePhase.READY;
  });
  const node = await f.store.get({ uid: nodeUid });
  t.notThrows(() => node && toJson(NodeSchema, decode('Node', node)));
});

test('a node that speaks while its silence is being written is not left silent', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  const phase = async () => {
    const node = await f.store.get({ uid: nodeUid });
    return node && decode('Node', node).status?.phase;
  };
  await until(t, 'ready', async () => (await phase()) === NodePhase.READY);
  for (let round = 0; round < 20; round += 1) {
    // Its state changes, and is being written, at the moment at which it counts as silent.
    agent.heartbeat({ phase: round % 2 ? NodePhase.READY : NodePhase.NOT_READY });
    f.clock.offsetMs += 601;
    f.sweep();
    agent.heartbeat({ phase: round % 2 ? NodePhase.READY : NodePhase.NOT_READY });
    const expected = round % 2 ? NodePhase.READY : NodePhase.NOT_READY;
    await until(t, `round ${round}`, async () => {
      agent.heartbeat({ phase: expected });
      return (await phase()) === expected;
    });
  }
  t.pass();
});

test('a restarted agent gets its node at once, and one whose predecessor hangs, after a while', async (t) => {
  const f = await fixture(t);
  f.connection(true, '1');
  await joined(f);
  f.connection(false, '1');
  f.connection(true, '2');
  const second = new ScriptedAgent(f.bus, { bayUid, nodeUid });
  t.is((await second.hello()).error, undefined);
  f.connection(true, '3');
  const third = new ScriptedAgent(f.bus, { bayUid, nodeUid });
  t.is((await third.hello()).error?.reason, ErrorReason.RETRY);
  f.clock.offsetMs += 301;
  t.is((await third.hello()).error, undefined);
});

test('sessions go on when the control plane restarts', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await f.restart();
  t.is(f.reconciler.liveness.node(nodeUid), undefined);
  agent.heartbeat();
  await until(t, 'fresh again', () => f.reconciler.liveness.node(nodeUid)?.fresh === true);
  await put(f.store, 1);
  await until(t, 'delta arrives', () => agrees(f.store, agent));
});

test('a dropped connection is written once, as is the return', async (t) => {
  const f = await fixture(t);
  f.connection(true, '1');
  const agent = await joined(f);
  const phase = async () => {
    const node = await f.store.get({ uid: nodeUid });
    return node && decode('Node', node).status?.phase;
  };
  await until(t, 'ready', async () => (await phase()) === NodePhase.READY);
  const { revision } = f.store;
  f.connection(false, '1');
  f.clock.offsetMs += 2_001;
  await until(t, 'unknown', async () => (await phase()) === NodePhase.UNKNOWN);
  t.is(f.store.revision, revision + 1);
  agent.heartbeat();
  await until(t, 'ready again', async () => (await phase()) === NodePhase.READY);
  t.is(f.store.revision, revision + 2);
});

test('a session that goes on where the one before it ended is written once, and no more', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  const conditions = [{ type: 'Ready', reason: 'EngineAnswers' }];
  agent.heartbeat({ phase: NodePhase.READY, conditions });
  const node = async () => {
    const stored = await f.store.get({ uid: nodeUid });
    return stored && decode('Node', stored).status;
  };
  await until(t, 'written', async () => (await node())?.conditions.length === 1);
  const { revision } = f.store;
  for (const restarted of [false, true]) {
    if (restarted) await f.restart();
    await agent.hello();
    await agent.sync();
    agent.heartbeat({ phase: NodePhase.READY, conditions });
    await until(t, 'fresh', () => f.reconciler.liveness.node(nodeUid)?.fresh === true);
  }
  agent.heartbeat({ phase: NodePhase.READY, conditions: [{ type: 'Ready', reason: 'Other' }] });
  await until(t, 'a change is written', async () => (await node())?.conditions[0]?.reason === 'Other');
  t.is(f.store.revision, revision + 3, 'two epochs and one change');
});

test('a clock that is set back keeps no silent node fresh', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  trackerOf(f.reconciler).sweep();
  f.clock.offsetMs -= 3_600_000;
  trackerOf(f.reconciler).sweep();
  t.true(f.reconciler.liveness.node(nodeUid)?.fresh);
  f.clock.offsetMs += 601;
  t.false(f.reconciler.liveness.node(nodeUid)?.fresh);
  // Nor does it matter what the agent takes for the time.
  agent.heartbeat();
  await until(t, 'fresh again', () => f.reconciler.liveness.node(nodeUid)?.fresh === true);
});

test('what waits for a node is placed when one can take it', async (t) => {
  const f = await fixture(t);
  await put(f.store, 1, '');
  await until(
    t,
    'placed on the only node',
    async () => (await f.store.get({ uid: uidOf(1) }))?.assigneeUid === nodeUid,
  );
  const agent = await joined(f);
  t.true(agent.objects.has(uidOf(1)));
});

test('a bay whose end is asked for goes when all in it has gone, and its keys are cut off', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  await f.store.write({
    reads: [{ uid: bayUid }],
    apply: (view) => {
      const stored = view.get({ uid: bayUid });
      if (!stored) return;
      const request = { etag: '', force: false, assigned: true, nowMs: Date.now() };
      view.put(encode('Bay', deleteObject('Bay', decode('Bay', stored), request).object, stored), '');
    },
  });
  await until(t, 'its container is to go', async () => (await f.store.get({ uid: uidOf(1) }))?.deleting === true);
  t.truthy(await f.store.get({ uid: bayUid }));
  await agent.obey();
  await until(t, 'gone', async () => (await f.store.get({ uid: bayUid })) === undefined);
  t.is(await f.store.get({ uid: nodeUid }), undefined);
  t.deepEqual(f.revoked, ['UNODE']);
  t.is((await agent.hello()).error?.reason, ErrorReason.REVOKED);
});

test('rubbish on every subject is answered or dropped, and ends nothing', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  const rubbish = new Uint8Array([255, 1, 2, 3, 255, 255, 255, 255, 255]);
  t.true((await f.bus.request(upSubject(agent.address, 'report'), rubbish)).byteLength > 0);
  // An answer to these is signed, together with what was asked: where that cannot be read there is none.
  for (const verb of ['hello', 'sync', 'renew'] as const) f.bus.publish(upSubject(agent.address, verb), rubbish);
  f.bus.publish(upSubject(agent.address, 'heartbeat'), rubbish);
  const stranger = new ScriptedAgent(f.bus, { bayUid, nodeUid: uidOf(99) });
  t.is((await stranger.hello()).error?.reason, ErrorReason.REVOKED);
  await put(f.store, 1);
  await until(t, 'it still works', () => agrees(f.store, agent));
});

test('what is sent is signed for the session that the agent has drawn, after a restart of the control plane too', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  const verifier = testVerifier(agent.address);
  const seen: Uint8Array[] = [];
  f.bus.subscribe(downSubject(agent.address, 'assign'), ({ data }) => void seen.push(data));
  await put(f.store, 1);
  await until(t, 'it was sent', () => seen.length > 0);
  await f.restart();
  agent.heartbeat();
  await until(t, 'the session is known again', () => seen.length > 1);
  await put(f.store, 2);
  await until(t, 'it was sent again', () => seen.length > 2);
  for (const data of seen) t.truthy(verifier.open('assign', agent.session, data));
  t.is(verifier.open('assign', new Uint8Array(16), seen[0] ?? new Uint8Array()), undefined);

  // The right epoch, and not what was drawn for it: that is another session, and is told to who said so.
  const { session } = agent;
  agent.session = new Uint8Array(16).fill(9);
  t.is((await agent.sync()).error?.reason, ErrorReason.FENCED);
  t.is((await agent.report([])).error?.reason, ErrorReason.FENCED);
  const before = seen.length;
  agent.heartbeat();
  await until(t, 'it is told', () => seen.length > before);
  t.truthy(verifier.open('assign', agent.session, seen.at(-1) ?? new Uint8Array()));
  agent.session = session;
  t.is((await agent.sync()).error, undefined);
});
