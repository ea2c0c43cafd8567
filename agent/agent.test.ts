import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import test, { type ExecutionContext } from 'ava';
import { AssignmentOp, ErrorReason } from '../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { type Credentials, CredentialsSchema } from '../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { Kind } from '../proto/gen/baykeeper/v1/explain_service_pb.js';
import { NodePhase } from '../proto/gen/baykeeper/v1/node_pb.js';
import { downSubject } from '../proto/subjects.ts';
import { chunksOf, deltaOf } from '../test/harness/chain_model.ts';
import { FakeWorkloads } from '../test/harness/fake_workloads.ts';
import { type NatsServer, startNatsServer } from '../test/harness/nats_server.ts';
import { ScriptedControlPlane } from '../test/harness/scripted_control_plane.ts';
import { TestSigner, testSigner } from '../test/harness/signing.ts';
import { until } from '../test/harness/until.ts';
import { type Agent, startAgent } from './agent.ts';
import { systemClock } from './clock.ts';
import { type Identity, openIdentity } from './link/identity.ts';
import { silentLog } from './log.ts';
import { allowAll, fixedPolicy } from './policy.ts';

let nats: NatsServer;
test.before(async () => {
  nats = await startNatsServer();
});
test.after.always(() => nats[Symbol.asyncDispose]());

function credentialsFor(
  { bayUid, nodeUid }: { bayUid: string; nodeUid: string },
  url: string,
  lifeMs = 86_400_000,
  signer = testSigner,
): Credentials {
  const now = Date.now();
  return create(CredentialsSchema, {
    project: 'default',
    bayUid,
    bay: 'edge-1',
    nodeUid,
    node: 'n1',
    userJwt: `e30.e30.${randomUUID()}`,
    issueTime: timestampFromMs(now),
    expireTime: timestampFromMs(now + lifeMs),
    brokerUrls: [url],
    signingKeys: signer.keys(),
  });
}

interface Bed {
  readonly cp: ScriptedControlPlane;
  readonly identity: Identity;
  readonly workloads: FakeWorkloads;
  readonly agent: Agent;
  /** Whose keys the API tells of. */
  signer: TestSigner;
  restart(): Promise<void>;
}

async function bed(
  t: ExecutionContext,
  { lifeMs, server = nats, pingIntervalMs }: { lifeMs?: number; server?: NatsServer; pingIntervalMs?: number } = {},
): Promise<Bed> {
  const dataDir = await mkdtemp(join(tmpdir(), 'agent-'));
  const address = { bayUid: randomUUID(), nodeUid: randomUUID() };
  const cp = await ScriptedControlPlane.start(server.url, address);
  const identity = await openIdentity(dataDir);
  await identity.take(credentialsFor(address, server.url, lifeMs));
  let workloads: FakeWorkloads | undefined;
  let signer = testSigner;
  const running = new Map<string, bigint>();
  const start = () =>
    startAgent({
      dataDir,
      identity,
      createWorkloads: (context) => {
        const next = new FakeWorkloads(context);
        // The engine outlives the agent.
        for (const [uid, generation] of workloads?.running ?? running) next.running.set(uid, generation);
        workloads = next;
        return next;
      },
      policy: fixedPolicy(allowAll),
      prove: async () => credentialsFor(address, server.url, lifeMs, signer),
      agentVersion: '0.0.0-test',
      clock: systemClock,
      log: silentLog,
      pingIntervalMs,
    });
  let agent = await start();
  t.teardown(async () => {
    await agent.stop();
    await cp[Symbol.asyncDispose]();
    await rm(dataDir, { recursive: true, force: true });
  });
  return {
    cp,
    identity,
    get workloads() {
      if (!workloads) throw new Error('not started');
      return workloads;
    },
    get agent() {
      return agent;
    },
    get signer() {
      return signer;
    },
    set signer(next) {
      signer = next;
    },
    async restart() {
      await agent.stop();
      agent = await start();
    },
  };
}

const running = ({ workloads }: Bed) => [...workloads.running.keys()].sort();
const is = (b: Bed, ...uids: string[]) => until(`${uids} run`, () => running(b).join() === uids.sort().join());
const converged = (b: Bed) =>
  until('the agent has what is assigned', () => {
    const { store } = b.agent;
    return store.revision === b.cp.chain.revision && Buffer.from(store.digest).equals(b.cp.chain.digest);
  });

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

test('what comes under another epoch is not taken', async (t) => {
  const b = await bed(t);
  b.cp.put('a');
  await is(b, 'a');
  const { chain } = b.cp;
  chain.forget('a');
  for (const chunk of chunksOf(b.cp.epoch + 1n, chain.snapshot())) b.cp.send(chunk);
  b.cp.send(chain.newest(b.cp.epoch - 1n));
  await b.cp.flush();
  const beats = b.cp.heartbeats.length;
  await until('more heartbeats', () => b.cp.heartbeats.length > beats + 1);
  t.deepEqual(running(b), ['a']);
});

test('FENCED leads to a new hello and a report of everything', async (t) => {
  const b = await bed(t);
  b.cp.put('a');
  await until('a was reported', () => b.cp.status.get('a'));
  b.cp.status.clear();
  let fence = true;
  b.cp.onReport = () =>
    fence ? { error: { code: 9, reason: ErrorReason.FENCED, message: 'a newer session' } } : undefined;
  b.cp.onHello = () => {
    fence = false;
    return undefined;
  };
  b.cp.put('b');
  await until('both were reported', () => b.cp.status.has('a') && b.cp.status.has('b'));
  t.is(b.cp.hellos.length, 2);
  t.true(b.cp.reports.filter((r) => r.epoch === 2n).length > 0);
});

test('a duplicate or revoked agent keeps its workloads, and keeps quiet', async (t) => {
  for (const reason of [ErrorReason.DUPLICATE, ErrorReason.REVOKED]) {
    const b = await bed(t);
    b.cp.put('a');
    await is(b, 'a');
    b.cp.onHello = () => ({ error: { code: 7, reason, message: 'go away' } });
    b.cp.onReport = () => ({ error: { code: 7, reason, message: 'go away' } });
    b.cp.put('b');
    // What an answer to a report says is not signed: it is asked again with a Hello.
    await until('it waits', () => {
      const { state } = b.agent.session;
      return state.name === 'waiting' && state.why !== 'fenced';
    });
    const beats = b.cp.heartbeats.length;
    b.cp.chain.forget('a');
    b.cp.sendSnapshot();
    await b.cp.flush();
    await new Promise((resolve) => setTimeout(resolve, 600));
    t.is(b.cp.heartbeats.length, beats);
    t.deepEqual(running(b), ['a', 'b']);
    t.is(b.cp.hellos.length, 2);
    await t.throwsAsync(b.cp.open({ objectUid: 'a', what: { case: 'logs', value: {} } }, 500));
  }
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

test('a broker that dies, or falls silent, is found and lost no more than that', async (t) => {
  const own = await startNatsServer();
  t.teardown(() => own[Symbol.asyncDispose]());
  const b = await bed(t, { server: own, pingIntervalMs: 500 });
  b.cp.put('a');
  await is(b, 'a');
  await own.restart();
  b.cp.put('b');
  await until('a second hello', () => b.cp.hellos.length >= 2);
  await converged(b);
  await is(b, 'a', 'b');

  const hellos = b.cp.hellos.length;
  process.kill(own.program.pid, 'SIGSTOP');
  await until('the silence is noticed', () => b.agent.session.state.name === 'offline', { timeoutMs: 8_000 });
  process.kill(own.program.pid, 'SIGCONT');
  await until('another hello', () => b.cp.hellos.length > hellos);
  await converged(b);
  t.deepEqual(running(b), ['a', 'b']);
});

test('credentials are renewed over the bus at two thirds of their life', async (t) => {
  const b = await bed(t, { lifeMs: 3_000 });
  const next = credentialsFor(b.cp.address, nats.url);
  b.cp.onRenew = () => next;
  await until('renewed', () => b.identity.credentials?.userJwt === next.userJwt);
  t.pass();
});

test('credentials that ran out are renewed by proving the key', async (t) => {
  const b = await bed(t, { lifeMs: 300 });
  const first = b.identity.credentials?.userJwt;
  await b.agent.stop();
  await until(
    'they have run out',
    () => Date.now() > Number(b.identity.credentials?.expireTime?.seconds ?? 0n) * 1000 + 1000,
  );
  b.cp.deaf = true;
  await b.restart();
  await until('renewed', () => b.identity.credentials?.userJwt !== first);
  t.pass();
});

test('a control plane with keys that nobody has told of is asked by its API, and believed then; after a restart too', async (t) => {
  const b = await bed(t);
  b.cp.put('a');
  await is(b, 'a');
  b.signer = new TestSigner(2);
  b.cp.signer = b.signer;
  b.cp.put('unseen');
  await until('the keys are known', () => b.identity.trustedKeys.find(b.signer.id));
  t.is(b.identity.trustedKeys.find(testSigner.id), undefined);
  t.truthy(b.identity.trustedKeys.findStored(testSigner.id), 'the disk needs it');
  t.true(b.agent.store.isWorn);
  // As after a reboot without anybody to talk to: what was verified once still is.
  b.cp.deaf = true;
  await b.restart();
  t.deepEqual(running(b), ['a']);
  b.cp.deaf = false;
  b.cp.put('b');
  await is(b, 'a', 'b', 'unseen');
  await until('the old key is forgotten', () => !b.identity.trustedKeys.findStored(testSigner.id));
  t.false(b.agent.store.isWorn);
});

test('nobody else ends a session for good, or gives the agent credentials', async (t) => {
  const b = await bed(t, { lifeMs: 3_000 });
  b.cp.put('a');
  await is(b, 'a');
  const stranger = new TestSigner(3);
  b.cp.signer = stranger;
  b.cp.onHello = () => ({ error: { code: 7, reason: ErrorReason.REVOKED, message: 'go away' } });
  b.cp.onReport = () => ({ error: { code: 7, reason: ErrorReason.REVOKED, message: 'go away' } });
  b.cp.onRenew = () => credentialsFor(b.cp.address, 'nats://127.0.0.1:1', 86_400_000, stranger);
  const refused = b.agent.session.state.name;
  t.is(refused, 'open');
  await b.agent.session.begin();
  const hellos = b.cp.hellos.length;
  await until('it goes on asking', () => b.cp.hellos.length > hellos + 1, { timeoutMs: 10_000 });
  b.cp.onHello = undefined;
  b.cp.onReport = undefined;
  b.cp.signer = testSigner;
  await until('there is a session', () => b.agent.session.state.name === 'open');
  t.is(b.identity.trustedKeys.find(stranger.id), undefined);
  b.cp.put('b');
  await is(b, 'a', 'b');
});
