import test from 'ava';
import { ErrorReason } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { agrees, bayUid, fixture, joined, nodeUid, put, trackerOf, until } from '../../test/harness/reconciler_bed.ts';
import { decode } from '../domain/record.ts';
import { ScriptedAgent } from './scripted_agent.ts';

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
