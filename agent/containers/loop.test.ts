import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { timestampMs } from '@bufbuild/protobuf/wkt';
import type { ExecutionContext } from 'ava';
import test from 'ava';
import { AssignmentOp, AssignmentSchema, type ObjectReport } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import {
  ContainerPhase,
  ContainerSpecSchema,
  type ContainerStatus,
  MountType,
  PowerState,
  PullPolicy,
  RestartPolicy,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ExecuteStartSchema, LogsRequestSchema } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { ConditionStatus, NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { SettablePolicy } from '../../test/harness/settable_policy.ts';
import type { Clock } from '../clock.ts';
import { DriverError } from '../drivers/driver.ts';
import { FakeEngine } from '../drivers/fake.ts';
import { silentLog } from '../log.ts';
import { type Desired, type DesiredObject, type DesiredState, StreamError } from '../ports.ts';
import { createWorkloads, type RunningWorkloads } from './loop.ts';

/** Time that passes when it is told to. */
class TestClock implements Clock {
  #now = 1_700_000_000_000;
  readonly #timers = new Set<{ readonly atMs: number; readonly callback: () => void }>();
  now(): number {
    return this.#now;
  }
  after(ms: number, callback: () => void): () => void {
    const timer = { atMs: this.#now + ms, callback };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }
  pass(ms: number): void {
    this.#now += ms;
    for (const timer of [...this.#timers]) {
      if (timer.atMs <= this.#now && this.#timers.delete(timer)) timer.callback();
    }
  }
}

class TestDesired implements Desired {
  current: DesiredState = { complete: false, objects: new Map(), graves: new Set() };
  readonly buriedUids: string[] = [];
  readonly #listeners = new Set<(uids: readonly string[]) => void>();
  subscribe(listener: (uids: readonly string[]) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
  async buried(uid: string): Promise<void> {
    this.buriedUids.push(uid);
    this.set({ graves: new Set([...this.current.graves].filter((one) => one !== uid)) }, []);
  }
  set(change: Partial<DesiredState>, uids: readonly string[]): void {
    this.current = { ...this.current, ...change };
    for (const listener of this.#listeners) listener(uids);
  }
  put(name: string, spec: MessageInitShape<typeof ContainerSpecSchema> = {}, generation = 1n): void {
    this.#assign(name, AssignmentOp.PUT, generation, { image: 'img:1', ...spec });
  }
  delete(name: string, generation = 9n): void {
    this.#assign(name, AssignmentOp.DELETE, generation);
  }
  drop(name: string, change: Partial<DesiredState> = {}): void {
    const objects = new Map(this.current.objects);
    objects.delete(name);
    this.set({ objects, ...change }, [name]);
  }
  #assign(
    name: string,
    op: AssignmentOp,
    generation: bigint,
    spec?: MessageInitShape<typeof ContainerSpecSchema>,
  ): void {
    const object: DesiredObject = {
      assignment: create(AssignmentSchema, {
        uid: name,
        namespace: 'default',
        name,
        generation,
        op,
        ...(spec && { spec: { case: 'container', value: create(ContainerSpecSchema, spec) } }),
      }),
      publishTimeMs: 1_600_000_000_000,
      receiveTimeMs: 1_600_000_000_500,
    };
    this.set({ objects: new Map([...this.current.objects, [name, object]]) }, [name]);
  }
}

interface Bench {
  readonly engine: FakeEngine;
  readonly desired: TestDesired;
  readonly clock: TestClock;
  readonly policy: SettablePolicy;
  readonly reports: ObjectReport[];
  readonly workloads: RunningWorkloads;
  readonly memoryFile: string;
  /** The last that was said of an object. */
  status(name: string): ContainerStatus | undefined;
  /** A second agent on what the first one has left. */
  restarted(): Promise<Bench>;
}

interface Left {
  readonly engine: FakeEngine;
  readonly desired: TestDesired;
  readonly clock: TestClock;
  readonly policy: SettablePolicy;
  readonly memoryFile: string;
}

async function bench(t: ExecutionContext, left?: Left): Promise<Bench> {
  const clock = left?.clock ?? new TestClock();
  const dir = left ? '' : await mkdtemp(join(tmpdir(), 'bk-loop-'));
  if (dir) t.teardown(() => rm(dir, { recursive: true, force: true }));
  const engine = left?.engine ?? new FakeEngine({ now: () => clock.now(), images: ['img:1', 'img:2'] });
  const desired = left?.desired ?? new TestDesired();
  const policy = left?.policy ?? new SettablePolicy();
  const memoryFile = left?.memoryFile ?? join(dir, 'memory.json');
  const reports: ObjectReport[] = [];
  const workloads = createWorkloads({
    driver: engine,
    desired,
    reports: { put: (report) => reports.push(report) },
    bayUid: 'bay-1',
    nodeUid: 'node-1',
    nodeName: 'alpha',
    clock,
    log: silentLog,
    policy,
    memoryFile,
    random: () => 0.5,
  });
  await workloads.start();
  t.teardown(() => workloads.stop());
  const self: Bench = {
    engine,
    desired,
    clock,
    policy,
    reports,
    workloads,
    memoryFile,
    status(name) {
      const last = reports.findLast((report) => report.uid === name);
      return last?.status.case === 'container' ? last.status.value : undefined;
    },
    async restarted() {
      await workloads.stop();
      return await bench(t, self);
    },
  };
  return self;
}

/** Waits for what follows by itself; the test's own clock stands still. */
async function until(t: ExecutionContext, what: string, condition: () => boolean): Promise<void> {
  const limit = Date.now() + 5_000;
  while (!condition()) {
    if (Date.now() > limit) return t.fail(`never came: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
  t.pass();
}
const turns = async () => {
  for (let i = 0; i < 50; i += 1) await new Promise((resolve) => setImmediate(resolve));
};

const running = (b: Bench, name: string) => b.status(name)?.phase === ContainerPhase.RUNNING;

test('what is asked for runs, and its status says what, where and since when', async (t) => {
  const b = await bench(t);
  b.desired.put('web', { ports: [{ containerPort: 80, hostPort: 8080 }] }, 3n);
  await until(t, 'running', () => running(b, 'web'));
  const container = b.engine.named('web');
  const status = b.status('web');
  t.like(status, {
    node: 'alpha',
    containerId: container?.id,
    restarts: 0,
    outOfMemory: false,
    exitCode: undefined,
    delivery: { receivedGeneration: 3n, appliedGeneration: 3n, observedGeneration: 3n },
  });
  t.is(status?.ports[0]?.hostPort, 8080);
  t.is(status?.delivery?.publishTime && timestampMs(status.delivery.publishTime), 1_600_000_000_000);
  t.is(status?.delivery?.receiveTime && timestampMs(status.delivery.receiveTime), 1_600_000_000_500);
  t.is(status?.delivery?.applyTime && timestampMs(status.delivery.applyTime), b.clock.now());
  // Received was said first.
  t.like(b.reports[0]?.status.value, {
    phase: ContainerPhase.CREATING,
    delivery: { receivedGeneration: 3n, appliedGeneration: 0n },
  });
  t.is(b.workloads.snapshot().length, 1);
});

test('after a restart the word on an object is awaited until it was looked at', async (t) => {
  const b = await bench(t);
  b.desired.put('web');
  await until(t, 'running', () => running(b, 'web'));
  t.is(b.workloads.unseen, 0);
  await b.workloads.stop();
  const inspect = b.engine.inspect.bind(b.engine);
  const asked = Promise.withResolvers<void>();
  b.engine.inspect = async (name) => {
    await asked.promise;
    return await inspect(name);
  };
  const next = await b.restarted();
  t.is(next.workloads.unseen, 1);
  asked.resolve();
  await until(t, 'looked at', () => next.workloads.unseen === 0);
  t.true(running(next, 'web'));
  next.desired.put('other');
  t.is(next.workloads.unseen, 0, 'what is new is not known as anything else yet');
});

test('after a restart beside an engine that is away, that is the word on every object', async (t) => {
  const b = await bench(t);
  b.desired.put('web');
  await until(t, 'running', () => running(b, 'web'));
  b.engine.down = true;
  const next = await b.restarted();
  await until(t, 'a word on it', () => next.workloads.unseen === 0);
  t.is(next.status('web')?.reason, 'EngineUnavailable');
});

test('nothing is said twice', async (t) => {
  const b = await bench(t);
  b.desired.put('web');
  await until(t, 'running', () => running(b, 'web'));
  await turns();
  const count = b.reports.length;
  b.desired.put('web');
  for (let i = 0; i < 5; i += 1) {
    b.clock.pass(60_000);
    await turns();
  }
  t.is(b.reports.length, count);
  t.is(b.engine.calls.length, 2);
});

test("somebody's stop, kill, pause, removal and renaming are mended without waiting", async (t) => {
  const b = await bench(t);
  for (const restartPolicy of [RestartPolicy.ALWAYS, RestartPolicy.NEVER, RestartPolicy.ON_FAILURE]) {
    const name = `web-${restartPolicy}`;
    b.desired.put(name, { restartPolicy });
    await until(t, 'running', () => running(b, name));
    for (const mischief of [
      () => b.engine.somebodyStops(name),
      () => b.engine.somebodyPauses(name),
      () => b.engine.somebodyRemoves(name),
      () => b.engine.somebodyRenames(name, 'elsewhere'),
    ]) {
      await turns();
      mischief();
      await until(t, 'mended', () => b.engine.named(name)?.state === 'running');
    }
    await turns();
    t.true(running(b, name));
  }
});

test('an end by itself is reported, and not mended', async (t) => {
  const b = await bench(t);
  b.desired.put('job', { restartPolicy: RestartPolicy.NEVER });
  b.desired.put('fail', { restartPolicy: RestartPolicy.NEVER });
  await until(t, 'running', () => running(b, 'job') && running(b, 'fail'));
  b.engine.exit('job', 0);
  b.engine.exit('fail', 3);
  await until(t, 'succeeded', () => b.status('job')?.phase === ContainerPhase.SUCCEEDED);
  await until(t, 'failed', () => b.status('fail')?.phase === ContainerPhase.FAILED);
  t.like(b.status('job'), { exitCode: 0, reason: 'Completed' });
  t.like(b.status('fail'), { exitCode: 3, reason: 'Error' });
  b.engine.somebodyRemoves('job');
  await turns();
  t.is(b.engine.named('job'), undefined);
  t.like(b.status('job'), { phase: ContainerPhase.SUCCEEDED, exitCode: 0 });
});

test('what happened while the agent was away is made up for', async (t) => {
  const b = await bench(t);
  for (const name of ['job', 'stopped', 'gone']) b.desired.put(name, { restartPolicy: RestartPolicy.NEVER });
  await until(t, 'running', () => ['job', 'stopped', 'gone'].every((name) => running(b, name)));
  await b.workloads.stop();
  b.engine.exit('job', 0);
  b.engine.somebodyStops('stopped');
  b.engine.somebodyRemoves('gone');
  const again = await b.restarted();
  await until(t, 'mended', () => ['stopped', 'gone'].every((name) => b.engine.named(name)?.state === 'running'));
  await until(t, 'succeeded', () => again.status('job')?.phase === ContainerPhase.SUCCEEDED);
});

test('power: stopped, paused, running; reboots are counted', async (t) => {
  const b = await bench(t);
  b.desired.put('web', {}, 1n);
  await until(t, 'running', () => running(b, 'web'));
  b.desired.put('web', { powerState: PowerState.PAUSED }, 2n);
  await until(t, 'paused', () => b.status('web')?.phase === ContainerPhase.PAUSED);
  b.desired.put('web', { powerState: PowerState.STOPPED }, 3n);
  await until(t, 'stopped', () => b.status('web')?.phase === ContainerPhase.STOPPED);
  b.desired.put('web', {}, 4n);
  await until(t, 'running', () => running(b, 'web') && b.status('web')?.restarts === 1);
  b.desired.put('web', { reboots: 1n }, 5n);
  await until(t, 'rebooted', () => running(b, 'web') && b.status('web')?.restarts === 2);
  const again = await b.restarted();
  await until(t, 'seen', () => running(again, 'web'));
  await turns();
  t.is(b.engine.calls.filter((call) => call === 'start web').length, 3);
  t.is(again.status('web')?.restarts, 2);
});

test('a deletion is confirmed once nothing is left, and again when it is asked again', async (t) => {
  const b = await bench(t);
  b.desired.put('web');
  await until(t, 'running', () => running(b, 'web'));
  b.desired.delete('web');
  await until(t, 'removed', () => b.reports.at(-1)?.removed === true);
  t.is(b.engine.named('web'), undefined);
  t.true(b.workloads.snapshot()[0]?.removed);
  b.desired.delete('never-was');
  await until(t, 'removed', () => b.reports.some((report) => report.uid === 'never-was' && report.removed));
  const again = await b.restarted();
  await until(t, 'removed', () => again.reports.filter((report) => report.removed).length === 2);
});

test('graves are emptied and closed; what is unknown goes once all is known', async (t) => {
  const b = await bench(t);
  for (const name of ['one', 'two']) b.desired.put(name);
  await until(t, 'running', () => running(b, 'one') && running(b, 'two'));
  b.desired.drop('one', { graves: new Set(['one', 'never-was']) });
  b.desired.set({}, ['never-was']);
  await until(t, 'buried', () => b.desired.buriedUids.length === 2);
  t.is(b.engine.named('one'), undefined);
  b.desired.drop('two');
  await turns();
  t.is(b.engine.named('two')?.state, 'running');
  b.desired.set({ complete: true }, ['two']);
  await until(t, 'gone', () => b.engine.named('two') === undefined);
  t.deepEqual(b.workloads.snapshot(), []);
});

test('a name that is taken is a conflict, and made good as soon as it is free', async (t) => {
  const b = await bench(t);
  await b.engine.create({ name: 'web', labels: {}, spec: create(ContainerSpecSchema, { image: 'img:1' }) });
  b.desired.put('web');
  await until(t, 'conflict', () => b.status('web')?.reason === 'NameConflict');
  t.regex(b.status('web')?.message ?? '', /not made by Baykeeper/);
  t.is(b.status('web')?.phase, ContainerPhase.FAILED);
  t.is(b.engine.named('web')?.state, 'created');
  b.engine.somebodyRemoves('web');
  await until(t, 'running', () => running(b, 'web'));
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

test('slow pulls and stops do not hold up others, and a pull is called off when it has no point any more', async (t) => {
  const b = await bench(t);
  const never = new Promise<void>(() => undefined);
  b.engine.hook = (when, call) => (when === 'before' && call === 'pull' ? never : undefined);
  for (let i = 0; i < 20; i += 1) b.desired.put(`slow-${i}`, { image: 'slow:1' });
  b.desired.put('web');
  await until(t, 'running', () => running(b, 'web'));
  t.is(b.status('slow-0')?.phase, ContainerPhase.PULLING);
  b.desired.put('slow-0', { image: 'img:1' }, 2n);
  b.desired.delete('slow-1');
  await until(t, 'running', () => running(b, 'slow-0'));
  await until(t, 'removed', () => b.reports.some((report) => report.uid === 'slow-1' && report.removed));
  let patience = true;
  setTimeout(() => (patience = false), 4_500).unref();
  await b.workloads.stop();
  t.true(patience, 'they were called off, and not waited for until patience had an end');
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

test('many objects are made, few at a time', async (t) => {
  const b = await bench(t);
  let now = 0;
  let most = 0;
  b.engine.hook = async (when, call) => {
    if (call !== 'create') return;
    now += when === 'before' ? 1 : -1;
    most = Math.max(most, now);
    await new Promise((resolve) => setImmediate(resolve));
  };
  for (let i = 0; i < 200; i += 1) b.desired.put(`web-${i}`);
  await until(t, 'running', () => b.engine.containers().filter((one) => one.state === 'running').length === 200);
  t.is(most, 8);
});

const sink = () => {
  const result: { out: string; end?: { exitCode?: number; error?: string } } = { out: '' };
  return {
    result,
    stdout: async (data: Uint8Array) => {
      result.out += Buffer.from(data).toString('utf8');
    },
    stderr: async () => undefined,
    end: (end: { exitCode?: number; error?: string }) => {
      result.end = end;
    },
  };
};

test('logs and commands', async (t) => {
  const b = await bench(t);
  b.desired.put('web', { command: ['echo', 'hello'] });
  await until(t, 'running', () => running(b, 'web'));
  const logs = sink();
  await b.workloads.openLogs('web', create(LogsRequestSchema), logs);
  await until(t, 'end', () => logs.result.end !== undefined);
  t.is(logs.result.out, 'hello\n');
  const exec = sink();
  const stream = await b.workloads.openExecute(
    'web',
    create(ExecuteStartSchema, { command: ['cat'], stdin: true }),
    exec,
  );
  await stream.write(Buffer.from('in and out'));
  stream.endInput();
  await until(t, 'end', () => exec.result.end !== undefined);
  t.deepEqual(exec.result, { out: 'in and out', end: { exitCode: 0 } });
  stream.close();
  stream.close();

  const kind = async (call: Promise<unknown>) => (await t.throwsAsync(call, { instanceOf: StreamError })).kind;
  const start = create(ExecuteStartSchema, { command: ['true'] });
  t.is(await kind(b.workloads.openExecute('nobody', start, sink())), 'not-found');
  b.desired.put('bad', { image: 'none:1', pullPolicy: PullPolicy.NEVER });
  await until(t, 'failed', () => b.status('bad')?.phase === ContainerPhase.FAILED);
  t.is(await kind(b.workloads.openLogs('bad', create(LogsRequestSchema), sink())), 'not-running');
  b.desired.put('web', { command: ['echo', 'hello'], powerState: PowerState.STOPPED }, 2n);
  await until(t, 'stopped', () => b.status('web')?.phase === ContainerPhase.STOPPED);
  t.is(await kind(b.workloads.openExecute('web', start, sink())), 'not-running');
  t.is(await kind(b.workloads.openExecute('web', create(ExecuteStartSchema), sink())), 'invalid');
});

test('what the node forbids is not made, not even pulled, and is made once it is allowed', async (t) => {
  const b = await bench(t);
  b.policy.set({ images: ['registry.example.com/team'], capabilities: ['CHOWN'] });
  b.desired.put('web', { capAdd: ['NET_ADMIN'] });
  await until(t, 'refused', () => b.status('web')?.reason === 'ForbiddenByPolicy');
  t.like(b.status('web'), {
    phase: ContainerPhase.FAILED,
    delivery: { observedGeneration: 1n, appliedGeneration: 0n },
  });
  t.is(
    b.status('web')?.message,
    'the policy of the node (/etc/baykeeper/agent.yaml) forbids this: spec.image: the image img:1 (docker.io/library/img); allowed is what is in ' +
      'registry.example.com/team, and spec.cap_add[0]: the capability NET_ADMIN; allowed: CHOWN',
  );
  t.is(b.status('web')?.retryTime, undefined);
  t.deepEqual(b.engine.calls, []);
  const policy = (await b.workloads.nodeStatus()).conditions.find(({ type }) => type === 'PolicyInForce');
  t.like(policy, { status: ConditionStatus.TRUE, reason: 'PolicyRead' });
  t.regex(policy?.message ?? '', /agent.yaml: privileged: allow, .*images: registry.example.com\/team$/);
  b.policy.set({});
  await until(t, 'running', () => running(b, 'web'));
});

test('what runs is stopped when it is forbidden, stays on the engine, and goes on when it is allowed', async (t) => {
  const b = await bench(t);
  b.desired.put('web', { mounts: [{ type: MountType.BIND, source: '/usr/bin', target: '/data' }] });
  b.desired.put('other', {});
  await until(t, 'running', () => running(b, 'web') && running(b, 'other'));
  const { id } = b.engine.named('web') ?? {};
  b.policy.set({ hostMounts: [{ path: '/usr', readOnly: true }] });
  await until(t, 'stopped', () => b.status('web')?.reason === 'ForbiddenByPolicy' && !running(b, 'web'));
  t.like(b.engine.named('web'), { id, state: 'exited' });
  t.like(b.status('web'), { phase: ContainerPhase.FAILED, delivery: { appliedGeneration: 0n } });
  t.true(running(b, 'other'));
  const c = await b.restarted();
  await turns();
  t.is(c.engine.named('web')?.state, 'exited');
  c.policy.set({ hostMounts: ['/usr'] });
  await until(t, 'running', () => running(c, 'web'));
  t.is(c.engine.named('web')?.id, id);
});

test('a change to something forbidden leaves what runs as it is, unless that is forbidden, too', async (t) => {
  const b = await bench(t);
  b.policy.set({ images: ['img'], capabilities: 'forbid' });
  b.desired.put('web');
  await until(t, 'running', () => running(b, 'web'));
  b.desired.put('web', { capAdd: ['SYS_ADMIN'] }, 2n);
  await until(t, 'refused', () => b.status('web')?.reason === 'ForbiddenByPolicy');
  t.like(b.status('web'), {
    phase: ContainerPhase.RUNNING,
    delivery: { observedGeneration: 2n, appliedGeneration: 1n },
  });
  b.policy.set({ images: 'forbid' });
  await until(t, 'stopped', () => b.engine.named('web')?.state === 'exited');
  b.desired.delete('web');
  await until(t, 'removed', () => b.engine.named('web') === undefined);
});

test('what cannot be read, or is not known to be wanted, is stopped all the same, and not removed', async (t) => {
  const b = await bench(t);
  b.desired.put('old');
  b.desired.put('lost');
  await until(t, 'running', () => running(b, 'old') && running(b, 'lost'));
  b.desired.put('old', { healthCheck: { command: ['x'], interval: { seconds: 10n ** 18n } } }, 2n);
  b.desired.drop('lost', { complete: false });
  await until(t, 'unusable', () => b.status('old')?.reason === 'Unsupported');
  b.policy.set({ images: 'forbid' });
  b.clock.pass(60_000);
  for (const name of ['old', 'lost']) {
    await until(t, `${name} is stopped`, () => b.engine.named(name)?.state === 'exited');
  }
});

test('no command goes into what is forbidden and takes its time to end; one into an allowed container beside a forbidden change does', async (t) => {
  const b = await bench(t);
  b.desired.put('web', { capAdd: ['CHOWN'] });
  await until(t, 'running', () => running(b, 'web'));
  const execute = () => b.workloads.openExecute('web', create(ExecuteStartSchema, { command: ['echo', 'in'] }), sink());
  b.policy.set({ images: ['img'] });
  b.desired.put('web', { image: 'other:1' }, 2n);
  await until(t, 'refused', () => b.status('web')?.reason === 'ForbiddenByPolicy');
  (await execute()).close();

  const slow = Promise.withResolvers<void>();
  b.engine.hook = async (when, call) => {
    if (when === 'before' && call === 'stop') await slow.promise;
  };
  b.policy.set({ capabilities: 'forbid', images: ['img'] });
  const error = await t.throwsAsync(execute(), { instanceOf: StreamError });
  t.like(error, { kind: 'forbidden' });
  t.regex(error.message, /^the policy of the node \(.*agent\.yaml\) forbids this container$/);
  t.is(b.engine.named('web')?.state, 'running');
  slow.resolve();
  await until(t, 'stopped', () => b.engine.named('web')?.state === 'exited');
});
