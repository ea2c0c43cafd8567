import { readFile, writeFile } from 'node:fs/promises';
import { create } from '@bufbuild/protobuf';
import { timestampMs } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import { AssignmentOp, AssignmentSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ContainerPhase, RestartPolicy } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { LogsRequestSchema } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { ConditionStatus, NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { bench, running, sink, turns, until } from '../../test/harness/containers_bed.ts';
import { DriverError } from '../drivers/driver.ts';
import type { DesiredObject } from '../ports.ts';
import { StreamError } from '../ports.ts';

/** What goes wrong, with the engine, with what is asked for, and with the agent itself. */

test('after a restart beside an engine that is away, that is the word on every object', async (t) => {
  const b = await bench(t);
  b.desired.put('web');
  await until(t, 'running', () => running(b, 'web'));
  b.engine.down = true;
  const next = await b.restarted();
  await until(t, 'a word on it', () => next.workloads.unseen === 0);
  t.is(next.status('web')?.reason, 'EngineUnavailable');
});

test('an error is reported with its reason and the time of the next try, and holds up nobody', async (t) => {
  const b = await bench(t);
  b.desired.put('bad', { image: 'none:1' });
  b.desired.put('good');
  await until(t, 'running', () => running(b, 'good'));
  await until(t, 'failed', () => b.status('bad')?.reason === 'ImageNotFound');
  const tries = () => b.reports.filter((report) => report.uid === 'bad').length;
  for (let i = 0; i < 4; i += 1) {
    const status = b.status('bad');
    t.is(status?.phase, ContainerPhase.FAILED);
    const retryMs = status?.retryTime ? timestampMs(status.retryTime) : 0;
    t.true(retryMs > b.clock.now());
    const before = tries();
    b.clock.pass(retryMs - b.clock.now() - 1);
    await turns();
    t.is(tries(), before);
    b.clock.pass(1);
    await until(t, 'tried again', () => tries() > before);
  }
  b.engine.registry.add('none:1');
  // A new generation is tried at once.
  b.desired.put('bad', { image: 'none:1' }, 2n);
  await until(t, 'running', () => running(b, 'bad'));
});

test('the old container goes on while its successor cannot be made, and the status says why', async (t) => {
  const b = await bench(t);
  b.desired.put('web');
  await until(t, 'running', () => running(b, 'web'));
  b.desired.put('web', { image: 'none:1' }, 2n);
  await until(t, 'failed', () => b.status('web')?.reason === 'ImageNotFound');
  t.like(b.status('web'), {
    phase: ContainerPhase.RUNNING,
    delivery: { receivedGeneration: 2n, appliedGeneration: 1n },
  });
  t.is(b.engine.named('web')?.state, 'running');
});

test('an engine that goes away is a condition of the node; what comes meanwhile is done when it is back', async (t) => {
  const b = await bench(t);
  b.desired.put('web');
  await until(t, 'running', () => running(b, 'web'));
  const count = b.reports.length;
  b.engine.goDown(true);
  await turns();
  const away = await b.workloads.nodeStatus();
  t.is(away.phase, NodePhase.NOT_READY);
  t.is(away.conditions.find((one) => one.type === 'EngineUnavailable')?.status, ConditionStatus.TRUE);
  t.is(b.reports.length, count);
  await t.throwsAsync(b.workloads.openLogs('web', create(LogsRequestSchema), sink()), { instanceOf: StreamError });
  b.desired.put('new');
  await until(t, 'said', () => b.status('new')?.reason === 'EngineUnavailable');
  b.engine.comeBack();
  b.clock.pass(5_000);
  await until(t, 'running', () => running(b, 'new'));
  t.is((await b.workloads.nodeStatus()).phase, NodePhase.READY);
  t.like((await b.workloads.nodeStatus()).usage, { containersRunning: 2, containersTotal: 2 });
});

test('an agent starts while the engine is away', async (t) => {
  const b = await bench(t);
  b.engine.goDown();
  const again = await b.restarted();
  again.desired.put('web');
  await until(t, 'said', () => again.status('web')?.reason === 'EngineUnavailable');
  b.engine.comeBack();
  again.clock.pass(5_000);
  await until(t, 'running', () => running(again, 'web'));
});

test('what no event told is found by the slow look', async (t) => {
  const b = await bench(t);
  b.desired.put('web');
  await until(t, 'running', () => running(b, 'web'));
  await turns();
  b.engine.mute = true;
  b.engine.somebodyRemoves('web');
  await turns();
  t.is(b.engine.named('web'), undefined);
  b.clock.pass(60_000);
  await until(t, 'mended', () => b.engine.named('web')?.state === 'running');
});

test('a port that is taken, a disk that is full: each has its reason', async (t) => {
  const b = await bench(t);
  for (const [kind, reason] of [
    ['port-taken', 'PortTaken'],
    ['no-space', 'NoSpace'],
    ['invalid', 'InvalidSpec'],
    ['permission', 'PermissionDenied'],
    ['leftover', 'EngineLeftover'],
    ['other', 'EngineError'],
  ] as const) {
    b.engine.hook = (when, call) => {
      if (when === 'before' && call === 'start') throw new DriverError(kind, 'as the engine says');
    };
    b.desired.put(kind);
    await until(t, reason, () => b.status(kind)?.reason === reason);
    t.regex(b.status(kind)?.message ?? '', /as the engine says/);
  }
});

test('an error of ours is reported, and the agent goes on', async (t) => {
  const b = await bench(t);
  b.engine.hook = () => {
    throw new TypeError('a bug');
  };
  b.desired.put('web');
  await until(t, 'said', () => b.status('web')?.reason === 'AgentError');
  b.engine.hook = undefined;
  b.clock.pass(300_000);
  await until(t, 'running', () => running(b, 'web'));
});

test('an engine that does not do as told is not asked for ever', async (t) => {
  const b = await bench(t);
  b.engine.update = async () => undefined;
  b.desired.put('web');
  await until(t, 'running', () => running(b, 'web'));
  b.desired.put('web', { restartPolicy: RestartPolicy.NEVER }, 2n);
  await until(t, 'said', () => b.status('web')?.reason === 'EngineError');
  t.regex(b.status('web')?.message ?? '', /update/);
});

test('a kind that this agent does not know is said to be unsupported', async (t) => {
  const b = await bench(t);
  const object: DesiredObject = {
    assignment: create(AssignmentSchema, {
      uid: 'pod',
      namespace: 'default',
      name: 'pod',
      generation: 1n,
      op: AssignmentOp.PUT,
    }),
    publishTimeMs: 0,
    receiveTimeMs: 0,
  };
  b.desired.set({ objects: new Map([['pod', object]]) }, ['pod']);
  await until(t, 'said', () => b.status('pod')?.reason === 'Unsupported');
  t.is(b.status('pod')?.phase, ContainerPhase.FAILED);
});

test('a damaged memory file is put aside', async (t) => {
  const b = await bench(t);
  b.desired.put('web', { reboots: 2n });
  await until(t, 'running', () => running(b, 'web'));
  await b.workloads.stop();
  for (const garbage of [
    '',
    '{',
    '[]',
    '{"version":1}',
    '{"version":1,"lastEventMs":0,"objects":{"web":{"reboots":7}}}',
    '\0\0',
  ]) {
    await writeFile(b.memoryFile, garbage);
    const again = await b.restarted();
    await until(t, 'running', () => running(again, 'web'));
    t.is(await readFile(`${b.memoryFile}.broken`, 'utf8'), garbage);
    await again.workloads.stop();
  }
  t.deepEqual(b.engine.calls, ['create web', 'start web']);
});
