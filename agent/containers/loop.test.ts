import { create } from '@bufbuild/protobuf';
import { timestampMs } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import {
  ContainerPhase,
  ContainerSpecSchema,
  PowerState,
  RestartPolicy,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { bench, running, turns, until } from '../../test/harness/containers_bed.ts';

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
