import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test from 'ava';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { residentMb } from '../bench/measure.ts';
import { bayctlEnvironment, bayctlPath } from '../harness/bayctl.ts';
import { type Site, startSite } from '../harness/site.ts';
import { until } from '../harness/until.ts';

/* Output without end and readers that stall, leave or die: nothing grows, and nothing stays behind on the node. */

let site: Site;
test.before(async () => {
  site = await startSite({ args: ['--heartbeat', '2s'] });
  await site.controlPlane.client(ContainerService).createContainer({
    container: {
      metadata: { bay: 'local', name: 'chatty' },
      spec: {
        image: site.image,
        args: ['sh', '-c', 'head -c 100000000 /dev/zero | tr "\\0" x | fold -w 100; echo; exec sleep 100000'],
        stopTimeout: { seconds: 0n },
      },
    },
  });
  await site.inPhase('chatty', ContainerPhase.RUNNING);
});
test.after.always(async () => site?.[Symbol.asyncDispose]());

/** Commands that run in the container, but for its own. */
async function inside(): Promise<string[]> {
  const { Processes } = await site.dockerd.docker.getContainer('chatty').top({ ps_args: '-eo pid,args' });
  return (Processes as string[][])
    .map((row) => row.at(-1) ?? '')
    .filter((command) => !command.includes('sleep 100000'));
}

function bayctl(...args: string[]) {
  return spawn(bayctlPath, args, {
    env: { ...process.env, ...bayctlEnvironment(site.controlPlane) },
    stdio: ['ignore', 'pipe', 'ignore'],
  });
}

const memory = async () => ({
  agent: await residentMb(site.agent.program.pid),
  'control plane': await residentMb(site.controlPlane.program.pid),
});

test.serial('a reader that stalls holds up the command, and memory stays as it is', async (t) => {
  const reader = bayctl('exec', 'container/chatty', '-b', 'local', '--', 'yes', 'y'.repeat(1000));
  let bytes = 0;
  const seen = (data: Buffer) => {
    bytes += data.byteLength;
  };
  reader.stdout.on('data', seen);
  await until('50 MB have come', () => bytes > 50_000_000, { timeoutMs: 60_000 });
  reader.stdout.off('data', seen).pause();
  const before = await memory();
  // With a stalled reader, whatever piles up shows soon: `yes` makes gigabytes a second.
  for (let i = 0; i < 30; i += 1) await new Promise((resolve) => setTimeout(resolve, 100));
  const stalled = await memory();
  for (const [who, mb] of Object.entries(stalled)) {
    t.true(mb - before[who as keyof typeof before] < 30, `${who} grew to ${mb} MB`);
  }
  reader.stdout.on('data', seen).resume();
  const resumed = bytes;
  await until('it goes on', () => bytes > resumed + 50_000_000, { timeoutMs: 60_000 });
  reader.kill('SIGKILL');
  await once(reader, 'exit');
  await until('nothing is left in the container', async () => (await inside()).length === 0);
});

test.serial('a client that dies frees the node', async (t) => {
  for (const args of [
    ['exec', 'container/chatty', '-b', 'local', '--', 'sleep', '5000'],
    ['logs', '-f', 'container/chatty', '-b', 'local', '--tail', '1'],
  ]) {
    const client = bayctl(...args);
    if (args[0] === 'exec') await until('it runs', async () => (await inside()).length > 0);
    else await once(client.stdout, 'data');
    client.kill('SIGKILL');
    await once(client, 'exit');
    await until('nothing is left in the container', async () => (await inside()).length === 0);
  }
  t.pass();
});

test.serial('a command ends when the control plane is killed, and the agent is free', async (t) => {
  const client = bayctl('exec', 'container/chatty', '-b', 'local', '--', 'sleep', '5000');
  const exit = once(client, 'exit');
  await until('it runs', async () => (await inside()).length > 0);
  await site.controlPlane.kill9();
  const [code] = await exit;
  t.is(code, 6, 'unavailable');
  await site.controlPlane.start();
  // Nobody tells the agent: it hears nothing for half a minute.
  await until('nothing is left in the container', async () => (await inside()).length === 0, { timeoutMs: 60_000 });
});

test.serial('a large log is read whole, without growing anybody', async (t) => {
  await until('it has been written', async () => (await inside()).length === 0, { timeoutMs: 60_000 });
  const read = async () => {
    const reader = bayctl('logs', 'container/chatty', '-b', 'local');
    let bytes = 0;
    reader.stdout.on('data', (data: Buffer) => {
      bytes += data.byteLength;
    });
    const [code] = await once(reader, 'close');
    t.is(code, 0);
    t.true(bytes >= 101_000_000, `${bytes} bytes`);
    return memory();
  };
  // The first read brings each process to its working size; what grows with every byte shows in those after it.
  const first = await read();
  await read();
  const third = await read();
  t.log(`after 100 MB: ${JSON.stringify(first)}, after 300 MB: ${JSON.stringify(third)}`);
  for (const [who, mb] of Object.entries(third)) {
    t.true(mb - first[who as keyof typeof first] < 80, `${who} grew to ${mb} MB`);
  }
});
