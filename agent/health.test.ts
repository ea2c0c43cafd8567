import test from 'ava';
import { ConditionStatus, NodePhase, type NodeStatus } from '../proto/gen/baykeeper/v1/node_pb.js';
import { systemClock } from './clock.ts';
import { NodeHealth } from './health.ts';

const engine = {
  info: { engine: 'docker', version: '20.10', apiVersion: '1.41', rootDir: '/', os: 'Some OS 1' },
  problem: undefined,
  containersRunning: 2,
  containersTotal: 3,
};
const condition = (status: NodeStatus, type: string) => status.conditions.find((one) => one.type === type);

test('a node says what it is and what it uses', async (t) => {
  const status = await new NodeHealth({ clock: systemClock }).status(engine);
  t.is(status.phase, NodePhase.READY);
  t.is(condition(status, 'Ready')?.status, ConditionStatus.TRUE);
  t.like(status.info, { engine: 'docker', engineVersion: '20.10', engineApiVersion: '1.41', os: 'Some OS 1' });
  t.true((status.info?.cpus ?? 0) >= 1);
  t.true((status.info?.memoryBytes ?? 0n) > 0n);
  const usage = status.usage;
  t.like(usage, { containersRunning: 2, containersTotal: 3 });
  t.true(usage !== undefined && usage.memoryUsedBytes > 0n && usage.memoryUsedBytes < (status.info?.memoryBytes ?? 0n));
  t.true(usage !== undefined && usage.diskUsedBytes > 0n && usage.diskUsedBytes < usage.diskTotalBytes);
  t.true(usage !== undefined && usage.cpuPercent >= 0 && usage.cpuPercent <= 100);
});

test('addresses that it may not ask for are left out, and nothing else', async (t) => {
  const networkInterfaces = () => {
    throw new Error('uv_interface_addresses returned Unknown system error 97');
  };
  const { phase, info } = await new NodeHealth({ clock: systemClock, networkInterfaces }).status(engine);
  t.is(phase, NodePhase.READY);
  t.deepEqual(info?.addresses, []);
  t.not(info?.hostname, '');
});

test('CPU is counted since the last look', async (t) => {
  const health = new NodeHealth({ clock: systemClock });
  await health.status(engine);
  const end = Date.now() + 300;
  while (Date.now() < end);
  t.true(((await health.status(engine)).usage?.cpuPercent ?? 0) > 10);
});

test('pressure is by thresholds, and a condition keeps the time at which it changed', async (t) => {
  let nowMs = 1_000_000;
  const clock = { ...systemClock, now: () => nowMs };
  const tight = new NodeHealth({ clock, thresholds: { memoryAvailable: 1, diskFree: 1 } });
  const first = await tight.status(engine);
  t.is(condition(first, 'MemoryPressure')?.status, ConditionStatus.TRUE);
  t.is(condition(first, 'DiskPressure')?.status, ConditionStatus.TRUE);
  t.regex(condition(first, 'DiskPressure')?.message ?? '', /are free on the engine's disk/);
  nowMs += 60_000;
  const second = await tight.status({ ...engine, problem: 'away' });
  t.deepEqual(
    condition(second, 'MemoryPressure')?.lastTransitionTime,
    condition(first, 'MemoryPressure')?.lastTransitionTime,
  );
  t.notDeepEqual(condition(second, 'Ready')?.lastTransitionTime, condition(first, 'Ready')?.lastTransitionTime);
  t.like(second, { phase: NodePhase.NOT_READY, reason: 'EngineUnavailable', message: 'away' });
});

test('an engine whose folder cannot be seen is measured by the root of the file system', async (t) => {
  const status = await new NodeHealth({ clock: systemClock }).status({
    ...engine,
    info: { ...engine.info, rootDir: '/no/such' },
  });
  t.is(condition(status, 'DiskPressure')?.reason === 'Unknown', false);
  t.true((status.usage?.diskTotalBytes ?? 0n) > 0n);
});
