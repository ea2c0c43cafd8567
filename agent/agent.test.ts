import { randomBytes } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { AssignmentOp, ErrorReason } from '../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Kind } from '../proto/gen/baykeeper/v1/explain_service_pb.js';
import { NodePhase } from '../proto/gen/baykeeper/v1/node_pb.js';
import { downSubject } from '../proto/subjects.ts';
import { agentBed, converged, is, running } from '../test/harness/agent_bed.ts';
import { chunksOf, deltaOf } from '../test/harness/chain_model.ts';
import { type NatsServer, startNatsServer } from '../test/harness/nats_server.ts';
import { until } from '../test/harness/until.ts';

let nats: NatsServer;
test.before(async () => {
  nats = await startNatsServer();
});
test.after.always(() => nats[Symbol.asyncDispose]());

const bed = (t: ExecutionContext, options: Parameters<typeof agentBed>[2] = {}) => agentBed(t, nats, options);

test('says hello, syncs, heartbeats and reports', async (t) => {
  const b = await bed(t);
  await until('a snapshot was taken', () => b.agent.store.current.complete);
  b.cp.put('a');
  await is(b, 'a');
  await until('a was reported', () => b.cp.status.get('a'));
  const beat = await until('a heartbeat shows it', () =>
    b.cp.heartbeats.find((h) => h.appliedRevision === b.cp.chain.revision),
  );
  t.deepEqual(Buffer.from(beat.digest), Buffer.from(b.cp.chain.digest));
  t.is(b.cp.hellos.length, 1);
  t.is(b.cp.hellos[0]?.info?.hostname, 'fake');
  t.is(b.cp.syncs.length, 1);
  const sequences = b.cp.heartbeats.map((h) => h.sequence);
  t.deepEqual(
    sequences,
    sequences.map((_, i) => BigInt(i + 1)),
  );
});

test('a tombstone is removed and reported, and FORGET makes a grave that is buried', async (t) => {
  const b = await bed(t);
  b.cp.put('a');
  b.cp.put('b');
  await is(b, 'a', 'b');
  b.cp.delete('a');
  await until('removal was reported', () => b.cp.status.get('a')?.removed);
  b.cp.forget('a');
  b.cp.forget('b');
  await is(b);
  await converged(b);
  await until('nothing is left to bury', () => b.agent.store.current.graves.size === 0);
  t.deepEqual(running(b), []);
});

test('lost deltas are a gap that one sync mends', async (t) => {
  const b = await bed(t);
  b.cp.put('a');
  await is(b, 'a');
  b.cp.weather = () => [];
  b.cp.put('b');
  b.cp.put('c');
  b.cp.weather = (assign) => [assign];
  const before = b.cp.syncs.length;
  b.cp.put('d');
  b.cp.put('e');
  await is(b, 'a', 'b', 'c', 'd', 'e');
  await converged(b);
  t.true(b.cp.syncs.length - before <= 2);
});

test('a snapshot that lacks an object removes it; a damaged one changes nothing', async (t) => {
  const b = await bed(t);
  b.cp.put('a');
  b.cp.put('b');
  await is(b, 'a', 'b');
  b.cp.chain.forget('a');
  for (const chunk of chunksOf(b.cp.epoch, b.cp.chain.snapshot(), 50)) {
    if (chunk.body.case === 'snapshot' && chunk.body.value.index === 1) {
      const { data } = chunk.body.value;
      data[0] = (data[0] ?? 0) ^ 1;
    }
    b.cp.send(chunk);
  }
  const damaged = b.cp.chain.snapshot();
  damaged.count += 1;
  for (const chunk of chunksOf(b.cp.epoch, damaged)) b.cp.send(chunk);
  const wrong = b.cp.chain.snapshot();
  wrong.digest = randomBytes(32);
  for (const chunk of chunksOf(b.cp.epoch, wrong)) b.cp.send(chunk);
  b.cp.onSync = () => ({ error: { code: 14, reason: ErrorReason.RETRY, message: 'not now' } });
  b.cp.sendRaw(downSubject(b.cp.address, 'assign'), randomBytes(100));
  await b.cp.flush();
  await until('two more heartbeats', () => b.cp.heartbeats.length > 4);
  t.deepEqual(running(b), ['a', 'b']);
  b.cp.onSync = undefined;
  b.cp.sendSnapshot();
  await is(b, 'b');
});

test('starts its workloads from disk before it has anybody to talk to', async (t) => {
  const b = await bed(t);
  b.cp.put('a');
  await is(b, 'a');
  b.cp.deaf = true;
  b.workloads.running.clear();
  await b.restart();
  t.true(b.workloads.started);
  t.deepEqual(running(b), ['a']);
  t.true(b.agent.store.current.complete);
});

test('garbage on every subject harms nothing', async (t) => {
  const b = await bed(t);
  b.cp.put('a');
  await is(b, 'a');
  const subjects = ['assign', 'open', 'stream.x', 'stream.a.b', 'whatever'];
  const base = downSubject(b.cp.address, 'assign').replace(/assign$/, '');
  for (let i = 0; i < 300; i += 1) {
    for (const what of subjects) b.cp.sendRaw(`${base}${what}`, randomBytes(i));
  }
  const { revision } = b.cp.chain;
  const odd = [
    { uid: '../../etc', op: AssignmentOp.PUT },
    { uid: '', op: AssignmentOp.FORGET },
    { uid: 'x'.repeat(100), op: AssignmentOp.DELETE },
    { uid: 'neg', op: AssignmentOp.PUT, generation: -5n },
  ];
  for (const { uid, op, generation = 1n } of odd) {
    const assignment = { ...b.cp.chain.put('a'), uid, op, generation };
    b.cp.send(deltaOf(b.cp.epoch, revision, revision + 1n, [assignment]));
  }
  b.cp.send(deltaOf(b.cp.epoch, 5n, 3n, []));
  b.cp.send(deltaOf(b.cp.epoch, -5n, -3n, []));
  await converged(b);
  t.deepEqual(running(b), ['a']);
  // Some of it reads as the news that there is another session, which costs a hello and nothing else.
  await until('a session', () => b.agent.session.state.name === 'open');
});

test('an unknown kind or operation is reported, and touches nothing', async (t) => {
  const b = await bed(t);
  b.cp.put('a');
  await is(b, 'a');
  b.cp.chain.put('pod', '', Kind.POD);
  b.cp.send(b.cp.chain.newest(b.cp.epoch));
  await until('it was reported', () => b.cp.status.get('pod')?.status.value?.reason === 'UnsupportedKind');
  const odd = { ...b.cp.chain.put('a'), op: 9 as AssignmentOp };
  const link = b.cp.chain.links.at(-1);
  b.cp.send(deltaOf(b.cp.epoch, link?.from ?? 0n, link?.to ?? 0n, [odd]));
  await until('it was passed over', () => b.agent.store.revision === b.cp.chain.revision);
  t.deepEqual(running(b), ['a']);
});

test('an agent that is ahead of a restored control plane goes back only when it says so', async (t) => {
  const b = await bed(t);
  b.cp.put('a');
  b.cp.put('b');
  await is(b, 'a', 'b');
  const old = b.cp.chain.snapshot();
  b.cp.put('c');
  await is(b, 'a', 'b', 'c');
  // A replay: not asked for, so not taken.
  for (const chunk of chunksOf(b.cp.epoch, old)) b.cp.send(chunk);
  const beats = b.cp.heartbeats.length;
  await until('more heartbeats', () => b.cp.heartbeats.length > beats + 1);
  t.deepEqual(running(b), ['a', 'b', 'c']);
  b.cp.onSync = () => {
    for (const chunk of chunksOf(b.cp.epoch, old)) b.cp.send(chunk);
    return { revision: old.revision };
  };
  await b.restart();
  await is(b, 'a', 'b');
  t.is(b.agent.store.revision, old.revision);
});

test('an older snapshot that comes unasked is asked about at once, and taken when it is meant', async (t) => {
  const b = await bed(t);
  b.cp.put('a');
  await is(b, 'a');
  const old = b.cp.chain.snapshot();
  b.cp.put('b');
  await is(b, 'a', 'b');
  b.cp.onSync = () => {
    for (const chunk of chunksOf(b.cp.epoch, old)) b.cp.send(chunk);
    return { revision: old.revision };
  };
  for (const chunk of chunksOf(b.cp.epoch, old)) b.cp.send(chunk);
  await until('it goes back', () => running(b).join() === 'a', { timeoutMs: 5_000 });
  t.is(b.agent.store.revision, old.revision);
});

test('what becomes of the node does not wait for the next heartbeat, and does not multiply them', async (t) => {
  const b = await bed(t);
  await until('a heartbeat', () => b.cp.heartbeats.length > 0);
  const last = () => b.cp.heartbeats.at(-1)?.status?.phase;
  for (const phase of [NodePhase.NOT_READY, NodePhase.READY, NodePhase.NOT_READY, NodePhase.READY]) {
    b.workloads.become(phase);
    await until('it is told', () => last() === phase, { timeoutMs: 200 });
  }
  // Two at once: while one is being made.
  b.workloads.become(NodePhase.NOT_READY);
  b.workloads.become(NodePhase.READY);
  await until('the last is told', () => last() === NodePhase.READY);
  const [before, beganMs] = [b.cp.heartbeats.length, performance.now()];
  await until('more', () => b.cp.heartbeats.length >= before + 5);
  t.true(performance.now() - beganMs > 600, 'at their own pace');
});
