import { randomUUID } from 'node:crypto';
import { create, toBinary } from '@bufbuild/protobuf';
import test, { type ExecutionContext } from 'ava';
import { FrameSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { createUser } from '../../proto/nkeys.ts';
import { downStreamSubject } from '../../proto/subjects.ts';
import { FakeWorkloads } from '../../test/harness/fake_workloads.ts';
import { type NatsServer, startNatsServer } from '../../test/harness/nats_server.ts';
import { ScriptedControlPlane } from '../../test/harness/scripted_control_plane.ts';
import { SettablePolicy } from '../../test/harness/settable_policy.ts';
import { TestSigner, testNonce, testSigner, testVerifier } from '../../test/harness/signing.ts';
import { until } from '../../test/harness/until.ts';
import { systemClock } from '../clock.ts';
import { silentLog } from '../log.ts';
import { createLink } from './link.ts';
import { inputWindowBytes, maxCreditBytes } from './stream.ts';
import { Streams } from './streams.ts';

let nats: NatsServer;
test.before(async () => {
  nats = await startNatsServer();
});
test.after.always(() => nats[Symbol.asyncDispose]());

async function bed(
  t: ExecutionContext,
  timing: { keepaliveMs?: number; silenceMs?: number; maxStreams?: number; maxIds?: number } = {},
) {
  const address = { bayUid: randomUUID(), nodeUid: randomUUID() };
  const cp = await ScriptedControlPlane.start(nats.url, address);
  const workloads = new FakeWorkloads({
    desired: {
      current: { complete: true, objects: new Map(), graves: new Set() },
      subscribe: () => () => undefined,
      buried: async () => undefined,
    },
    reports: { put() {} },
  });
  workloads.running.set('c', 1n);
  const link = createLink({
    nodeUid: address.nodeUid,
    credentials: () => ({ userJwt: 'e30.e30.x', brokerUrls: [nats.url] }),
    seed: createUser().getSeed(),
    clock: systemClock,
    log: silentLog,
  });
  const policy = new SettablePolicy();
  let worn = 0;
  const streams = new Streams({
    address,
    link,
    workloads,
    policy,
    verifier: testVerifier(address),
    onWorn: () => {
      worn += 1;
    },
    clock: systemClock,
    log: silentLog,
    ...timing,
  });
  streams.start();
  streams.serve(10_000, testNonce);
  link.start();
  await until('connected', () => link.connected);
  // The broker knows of the subscriptions once it has answered something.
  await link.request('nobody', new Uint8Array(), 1_000).catch(() => undefined);
  t.teardown(async () => {
    streams.closeAll('end');
    await link.close();
    await cp[Symbol.asyncDispose]();
  });
  const freed = () => until('everything is freed', () => streams.size === 0 && workloads.openStreams === 0);
  return { cp, workloads, policy, streams, link, freed, worn: () => worn };
}
const logs = (follow = false) => ({ objectUid: 'c', what: { case: 'logs' as const, value: { follow } } });
const execute = { objectUid: 'c', what: { case: 'execute' as const, value: { command: ['a', 'b', 'c'] } } };

test('logs come with both outputs apart, in order, and an end', async (t) => {
  const { cp, freed } = await bed(t);
  const stream = await cp.open(logs());
  t.is(stream.reply.error, undefined);
  await until('the end', () => stream.end);
  t.is(stream.text('stdout'), 'out\n');
  t.is(stream.text('stderr'), 'err\n');
  t.deepEqual(
    stream.frames.map((f) => f.sequence),
    stream.frames.map((_, i) => i),
  );
  await freed();
});

test('a command gets its input and gives its exit code', async (t) => {
  const { cp, freed } = await bed(t);
  const stream = await cp.open(execute);
  t.is(stream.reply.creditBytes, inputWindowBytes);
  stream.send({ case: 'stdin', value: Buffer.from('hello ') });
  stream.send({ case: 'resize', value: { columns: 80, rows: 25 } as never });
  stream.send({ case: 'stdin', value: Buffer.from('world') });
  stream.send({ case: 'stdinEnd', value: true });
  const end = await until('the end', () => stream.end);
  t.is(stream.text('stdout'), 'hello world');
  t.is(end.body.case === 'end' ? end.body.value.exitCode : undefined, 3);
  await freed();
});

test('no more is sent than there is credit for, of an endless output', async (t) => {
  const { cp, freed } = await bed(t);
  const stream = await cp.open({ ...logs(true), creditBytes: 100_000 });
  stream.keep = false;
  await until('the credit is used up', () => stream.bytes === 100_000);
  let largest = 0;
  let given = 200_000;
  stream.onFrame = ({ body }) => {
    if (body.case !== 'stdout') return;
    const size = body.value.byteLength;
    largest = Math.max(largest, size);
    given += size;
    stream.send({ case: 'creditBytes', value: size });
  };
  stream.send({ case: 'creditBytes', value: 100_000 });
  await until('much of it', () => stream.bytes > 10_000_000);
  t.true(stream.bytes <= given, `${stream.bytes} of ${given}`);
  t.true(largest <= 64 * 1024);
  stream.onFrame = undefined;
  stream.send({ case: 'end', value: {} });
  await freed();
});

test('credit without measure is cut to a window', async (t) => {
  const { cp } = await bed(t);
  const stream = await cp.open({ ...logs(true), creditBytes: 4_000_000_000 });
  stream.keep = false;
  await until('a window', () => stream.bytes === maxCreditBytes);
  const { bytes } = stream;
  await new Promise((resolve) => setTimeout(resolve, 100));
  t.is(stream.bytes, bytes);
});

test('input beyond its credit, and a gap in the frames, end the stream', async (t) => {
  const { cp, freed } = await bed(t);
  const greedy = await cp.open(execute);
  for (let i = 0; i < 12; i += 1) greedy.send({ case: 'stdin', value: Buffer.alloc(60_000) });
  const end = await until('the end', () => greedy.end);
  t.regex(end.body.case === 'end' ? (end.body.value.error?.message ?? '') : '', /credit/);
  const gappy = await cp.open(execute);
  gappy.send({ case: 'stdin', value: Buffer.from('a') });
  gappy.send({ case: 'stdin', value: Buffer.from('c') }, 5);
  await until('the end', () => gappy.end);
  await freed();
});

test('credit for input comes back as it is taken', async (t) => {
  const { cp, freed } = await bed(t);
  const stream = await cp.open({ ...execute, creditBytes: maxCreditBytes });
  let credit = stream.reply.creditBytes;
  let sent = 0;
  stream.keep = false;
  stream.onFrame = ({ body }) => {
    if (body.case === 'creditBytes') credit += body.value;
    if (body.case === 'stdout') stream.send({ case: 'creditBytes', value: body.value.byteLength });
  };
  await until('ten windows went through', () => {
    while (credit >= 32_768) {
      stream.send({ case: 'stdin', value: Buffer.alloc(32_768) });
      credit -= 32_768;
      sent += 32_768;
    }
    return sent > inputWindowBytes * 10;
  });
  stream.send({ case: 'end', value: {} });
  await freed();
  t.pass();
});

test('why there is no stream is said', async (t) => {
  const { cp, streams } = await bed(t, { maxStreams: 2 });
  const codeOf = async (open: Parameters<typeof cp.open>[0]) => (await cp.open(open)).reply.error?.code;
  t.is(await codeOf({ ...logs(), objectUid: 'none' }), 5);
  t.is(await codeOf({ ...execute, objectUid: 'none' }), 9);
  t.is(await codeOf({ ...logs(), objectUid: '../x' }), 3);
  t.is(await codeOf({ objectUid: 'c' }), 12);
  const streamId = randomUUID();
  t.is(await codeOf({ ...logs(true), streamId }), undefined);
  t.is(await codeOf({ ...logs(true), streamId }), 6);
  t.is(await codeOf(logs(true)), undefined);
  t.is(await codeOf(logs(true)), 8);
  t.is(streams.size, 2);
});

test('a side that falls silent is dropped, one that keeps alive is not', async (t) => {
  const { cp, freed, streams } = await bed(t, { keepaliveMs: 200, silenceMs: 1_500 });
  const silent = await cp.open({ ...logs(true), creditBytes: 10 });
  await until('keepalives', () => silent.frames.filter((f) => f.body.case === 'keepalive').length > 2);
  await until('dropped', () => streams.size === 0);
  const kept = await cp.open({ ...logs(true), creditBytes: 10 });
  const alive = setInterval(() => kept.send({ case: 'keepalive', value: true }), 50);
  t.teardown(() => clearInterval(alive));
  const opened = Date.now();
  await until('it has been kept for longer than a silent one', () => Date.now() - opened > 2_500);
  t.is(streams.size, 1);
  clearInterval(alive);
  await freed();
});

test('everything is freed when there is no session any more', async (t) => {
  const { cp, freed, streams } = await bed(t);
  const open = await Promise.all(Array.from({ length: 10 }, () => cp.open({ ...logs(true), creditBytes: 10 })));
  t.is(streams.size, 10);
  streams.closeAll('the agent is stopping');
  await freed();
  await until('told', () => open.every((stream) => stream.end));
});

test("commands end, and there are no new ones, once the node's owner forbids them; logs go on", async (t) => {
  const { cp, policy, freed } = await bed(t);
  const [command, log] = [await cp.open(execute), await cp.open(logs(true))];
  t.is(command.reply.error, undefined);
  policy.set({ exec: 'forbid' });
  const end = await until('the end', () => command.end);
  const error = end.body.case === 'end' ? end.body.value.error : undefined;
  t.like(error, {
    code: 7,
    message: 'the policy of the node (/etc/baykeeper/agent.yaml) forbids commands in containers',
  });
  t.is((await cp.open(execute)).reply.error?.code, 7);
  t.is(log.end, undefined);
  log.send({ case: 'end', value: {} });
  policy.set({});
  const again = await cp.open(execute);
  t.is(again.reply.error, undefined);
  again.send({ case: 'end', value: {} });
  await freed();
});

test('a request to open a stream is good for one, in its session, and by the control plane alone', async (t) => {
  const { cp, streams, freed } = await bed(t);
  const streamId = randomUUID();
  t.is((await cp.open({ ...logs(), streamId })).reply.error, undefined);
  await freed();
  t.is((await cp.open({ ...logs(), streamId })).reply.error?.code, 6);
  cp.signer = new TestSigner(8);
  t.is((await cp.open(logs())).reply.error?.code, 14);
  cp.signer = testSigner;
  cp.nonce = new Uint8Array(16);
  t.is((await cp.open(logs())).reply.error?.code, 14);
  t.is(streams.size, 0);
  streams.serve(10_000, cp.nonce);
  t.is((await cp.open({ ...logs(), streamId })).reply.error, undefined);
  await freed();
});

test('input that somebody slips into a stream is not taken, and does not disturb it', async (t) => {
  const { cp, freed } = await bed(t);
  const streamId = randomUUID();
  const stream = await cp.open({ ...execute, streamId });
  stream.send({ case: 'stdin', value: Buffer.from('mine') });
  const evil = toBinary(
    FrameSchema,
    create(FrameSchema, { sequence: 1, body: { case: 'stdin', value: Buffer.from('evil') } }),
  );
  const context = { ...cp.address, purpose: 'stream-frame', nonce: testNonce, streamId } as const;
  for (const frame of [
    evil,
    new TestSigner(8).seal(context, evil),
    // As the control plane might have sent it on another stream, or for another purpose.
    testSigner.seal({ ...context, streamId: randomUUID() }, evil),
    testSigner.seal({ ...context, purpose: 'stream-open' }, evil),
  ]) {
    cp.sendRaw(downStreamSubject(cp.address, streamId), frame);
  }
  stream.send({ case: 'stdinEnd', value: true });
  await until('the end', () => stream.end);
  t.true(stream.text('stdout').endsWith('mine'), stream.text('stdout'));
  await freed();
});

test('after many streams there is to be another session, and at some point there must be', async (t) => {
  const { cp, streams, freed, worn } = await bed(t, { maxIds: 2 });
  const held = await cp.open(logs(true));
  for (let i = 0; i < 3; i += 1) t.is((await cp.open(logs())).reply.error, undefined);
  await until('only one is left', () => streams.size === 1);
  t.is(worn(), 0, 'not while one is open');
  t.is((await cp.open(logs())).reply.error?.code, 8);
  held.send({ case: 'end', value: {} as never });
  await freed();
  t.is(worn(), 1);
  streams.serve(10_000, cp.nonce);
  t.is((await cp.open(logs())).reply.error, undefined);
  await freed();
});
