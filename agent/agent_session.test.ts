import test, { type ExecutionContext } from 'ava';
import { ErrorReason } from '../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { downSubject } from '../proto/subjects.ts';
import { agentBed, converged, credentialsFor, is, running } from '../test/harness/agent_bed.ts';
import { ChainModel, chunksOf } from '../test/harness/chain_model.ts';
import { type NatsServer, startNatsServer } from '../test/harness/nats_server.ts';
import { TestSigner, testSigner } from '../test/harness/signing.ts';
import { until } from '../test/harness/until.ts';

/** Sessions, the broker they go by, and the credentials that let the agent in. */

let nats: NatsServer;
test.before(async () => {
  nats = await startNatsServer();
});
test.after.always(() => nats[Symbol.asyncDispose]());

const bed = (t: ExecutionContext, options: Parameters<typeof agentBed>[2] = {}) => agentBed(t, nats, options);

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

test('a broker that dies, or falls silent, is found and lost no more than that', async (t) => {
  const own = await startNatsServer();
  t.teardown(() => own[Symbol.asyncDispose]());
  const b = await agentBed(t, own, { pingIntervalMs: 500 });
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
  b.cp.deaf = true;
  await until('the keys are known', () => b.identity.trustedKeys.find(b.signer.id));
  t.is(b.identity.trustedKeys.find(testSigner.id), undefined);
  t.truthy(b.identity.trustedKeys.findStored(testSigner.id), 'the disk needs it');
  t.true(b.agent.store.isWorn);
  // As after a reboot without anybody to talk to: what was verified once still is.
  await b.restart();
  t.deepEqual(running(b), ['a']);
  b.cp.deaf = false;
  b.cp.put('b');
  await is(b, 'a', 'b', 'unseen');
  await until('the old key is forgotten', () => !b.identity.trustedKeys.findStored(testSigner.id));
  t.false(b.agent.store.isWorn);
});

test('what came before its key was known is asked for as soon as it is', async (t) => {
  const b = await bed(t);
  b.cp.put('a');
  await is(b, 'a');
  b.signer = new TestSigner(2);
  b.cp.signer = b.signer;
  b.cp.put('b');
  await is(b, 'a', 'b');
  await converged(b);
  t.is(b.cp.hellos.length, 1);
});

test('what a control plane had signed before it was put back to a backup is worth nothing after', async (t) => {
  const b = await bed(t);
  const { cp } = b;
  cp.put('a');
  cp.put('b');
  await is(b, 'a', 'b');
  const later = cp.signer.assign(cp.address, cp.chain.newest(cp.epoch), cp.nonce);
  cp.chain = new ChainModel();
  cp.put('a');
  cp.sendSnapshot();
  await is(b, 'a');
  await until('another session', () => cp.hellos.length === 2);
  cp.sendRaw(downSubject(cp.address, 'assign'), later);
  cp.put('c');
  await is(b, 'a', 'c');
  await converged(b);
  t.is(b.agent.store.revision, 2n);
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
