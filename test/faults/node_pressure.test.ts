import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import test from 'ava';
import { ConditionStatus } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { startAgent } from '../harness/agent.ts';
import { startControlPlane } from '../harness/control_plane.ts';
import { startDockerd } from '../harness/dockerd.ts';
import { run } from '../harness/program.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';

/* A machine that runs short of memory and of disk, and has them again: as callers of the API see it. */

test('pressure on memory and on disk comes and goes', async (t) => {
  await using folder = await temporaryFolder('pressure');
  await using dockerd = await startDockerd();
  await using controlPlane = await startControlPlane({ args: ['--heartbeat', '1s'] });
  await controlPlane.createBay('edge');
  // What the agent sees of the machine is its own: to take the memory itself would hurt everybody else on it.
  const memory = path.join(folder.path, 'meminfo');
  const real = await readFile('/proc/meminfo', 'utf8');
  await writeFile(memory, real);
  await using agent = await startAgent({
    controlPlane,
    bay: 'edge',
    name: 'node-1',
    dockerSocket: dockerd.socketPath,
    under: ['unshare', '--mount', 'sh', '-c', 'mount --bind "$0" /proc/meminfo && exec "$@"', memory],
  });
  const { DockerRootDir: disk } = (await dockerd.docker.info()) as { DockerRootDir: string };
  const inside = async (...command: [string, ...string[]]): Promise<void> => {
    const { code, stderr } = await run(['nsenter', `--mount=/proc/${agent.program.pid}/ns/mnt`, ...command]);
    t.is(code, 0, stderr);
  };
  const shows = (type: string, status: ConditionStatus, reason: string) =>
    until(`${type} is ${reason}`, async () => {
      const { node } = await controlPlane.client(NodeService).getNode({ bay: 'edge', name: 'node-1' });
      const condition = node?.status?.conditions.find((one) => one.type === type);
      return condition?.status === status && condition.reason === reason ? condition : undefined;
    });

  await shows('MemoryPressure', ConditionStatus.FALSE, 'EnoughMemory');
  await writeFile(memory, real.replace(/^(MemAvailable: +)\d+/m, '$11000'));
  t.regex(
    (await shows('MemoryPressure', ConditionStatus.TRUE, 'LittleMemory')).message,
    /^1 MiB of \d+ MiB are available/,
  );
  await writeFile(memory, real);
  await shows('MemoryPressure', ConditionStatus.FALSE, 'EnoughMemory');

  const mount = (size: string) => inside('mount', '-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', disk);
  await mount('4g');
  await shows('DiskPressure', ConditionStatus.FALSE, 'EnoughSpace');
  await mount('64m');
  t.regex((await shows('DiskPressure', ConditionStatus.TRUE, 'LittleSpace')).message, /^\d+ MiB of 64 MiB are free/);
  await inside('umount', disk);
  await shows('DiskPressure', ConditionStatus.FALSE, 'EnoughSpace');
});
