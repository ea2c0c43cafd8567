import { spawn } from 'node:child_process';
import { once } from 'node:events';
import process from 'node:process';
import { Code, ConnectError } from '@connectrpc/connect';
import test from 'ava';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService, type LogsResponse } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { bayctlEnvironment, bayctlPath } from '../harness/bayctl.ts';
import { type Site, startSite } from '../harness/site.ts';
import { until } from '../harness/until.ts';

/* A log or a command that breaks off: whoever reads it is told so, and never takes it for the end. */

let site: Site;
test.before(async () => {
  site = await startSite({ args: ['--heartbeat', '1s'] });
  // Words for ever: only a break can end its log.
  await site.controlPlane.client(ContainerService).createContainer({
    container: {
      metadata: { bay: 'local', name: 'talks' },
      spec: {
        image: site.image,
        args: ['sh', '-c', 'while true; do echo word; sleep 0.05; done'],
        stopTimeout: { seconds: 0n },
      },
    },
  });
  await site.inPhase('talks', ContainerPhase.RUNNING);
});
test.after.always(async () => site?.[Symbol.asyncDispose]());

interface Reader {
  /** How it ended: an error, or undefined where it looked like the end. */
  readonly end: Promise<ConnectError | undefined>;
  /** Whether anything has come before the end. */
  readonly begun: Promise<boolean>;
}

function read(stream: AsyncIterable<LogsResponse>): Reader {
  const begun = Promise.withResolvers<boolean>();
  const run = async () => {
    try {
      for await (const _ of stream) begun.resolve(true);
      return undefined;
    } catch (error) {
      return ConnectError.from(error);
    } finally {
      begun.resolve(false);
    }
  };
  return { end: run(), begun: begun.promise };
}
/** The log, once it comes: what was cut off before may not be seen to be back yet. */
const follow = () =>
  until(
    'the log is followed',
    async () => {
      const reader = read(
        site.controlPlane.client(ContainerService).logs({ bay: 'local', name: 'talks', follow: true }),
      );
      return (await reader.begun) && { end: reader.end };
    },
    { timeoutMs: 60_000 },
  );

/** `bayctl ARGS…`, once it has written something. */
async function bayctl(...args: string[]): Promise<{ readonly code: Promise<number | null> }> {
  const child = spawn(bayctlPath, args, {
    env: { ...process.env, ...bayctlEnvironment(site.controlPlane) },
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const code = once(child, 'close').then(([exit]) => exit as number | null);
  await once(child.stdout, 'data');
  child.stdout.resume();
  return { code };
}

const back = async () => {
  await site.agent.ready(60_000);
  await site.inPhase('talks', ContainerPhase.RUNNING, 60_000);
};

test.serial('the agent is killed, and another takes its place at once', async (t) => {
  const reader = await follow();
  await site.agent.kill9();
  await site.agent.start();
  t.is((await reader.end)?.code, Code.Unavailable);
  await back();
});

test.serial('the agent hangs', async (t) => {
  const reader = await follow();
  await site.agent.program.signal('SIGSTOP');
  try {
    t.is((await reader.end)?.code, Code.Unavailable);
  } finally {
    await site.agent.program.signal('SIGCONT');
  }
  await back();
});

test.serial('the agent is stopped in order', async (t) => {
  const reader = await follow();
  await site.agent.stop();
  t.is((await reader.end)?.code, Code.Unavailable);
  await site.agent.start();
  await back();
});

test.serial('the broker is killed', async (t) => {
  const reader = await follow();
  process.kill(Number(await site.controlPlane.brokerPid()), 'SIGKILL');
  t.is((await reader.end)?.code, Code.Unavailable);
  await back();
});

test.serial('the engine is killed, in the middle of a log and of a command', async (t) => {
  const reader = await follow();
  const endless = 'while true; do echo word; sleep 0.05; done';
  const command = await bayctl('exec', 'container/talks', '-b', 'local', '--', 'sh', '-c', endless);
  await site.dockerd.kill9();
  t.truthy(await reader.end, 'a log that breaks off has no end');
  t.not(await command.code, 0, 'nor has a command');
  await site.dockerd.restart();
  await back();
});

test.serial('the control plane is killed, and stopped in order: bayctl says so', async (t) => {
  for (const how of ['kill9', 'stop'] as const) {
    const reader = await bayctl('logs', '-f', 'container/talks', '-b', 'local');
    await site.controlPlane[how]();
    t.not(await reader.code, 0, how);
    await site.controlPlane.start();
    await back();
  }
});

test.serial('a log that is followed has an end when its container ends, and only then', async (t) => {
  const reader = await follow();
  await site.controlPlane.client(ContainerService).stopContainer({ bay: 'local', name: 'talks' });
  t.is(await reader.end, undefined);
  await until('a log of what is stopped is whole', async () => {
    const whole = read(site.controlPlane.client(ContainerService).logs({ bay: 'local', name: 'talks' }));
    return (await whole.end) === undefined;
  });
});
