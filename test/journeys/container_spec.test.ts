import { once } from 'node:events';
import { rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { DurationSchema, timestampFromMs } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import {
  ContainerPhase,
  ContainerSpecSchema,
  type ContainerStatus,
  HealthState,
  MountType,
  RestartPolicy,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { ConditionStatus, NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { bayctl } from '../harness/bayctl.ts';
import { freePort } from '../harness/free_port.ts';
import { ownProgram, run } from '../harness/program.ts';
import { type Site, startSite } from '../harness/site.ts';
import { until } from '../harness/until.ts';

/* What a spec says, from the API to the engine; and what the engine says, back to the API. */

let site: Site;
test.before(async () => {
  site = await startSite();
});
test.after.always(async () => site?.[Symbol.asyncDispose]());

const api = () => site.controlPlane.client(ContainerService);
const shell = (script: string) => ['sh', '-c', script];

type Spec = Exclude<MessageInitShape<typeof ContainerSpecSchema>, { $typeName: string }>;
async function make(name: string, spec: Spec): Promise<void> {
  const atOnce = create(DurationSchema, {});
  const whole = create(ContainerSpecSchema, { image: site.image, stopTimeout: atOnce, ...spec });
  await api().createContainer({ container: { metadata: { bay: 'local', name }, spec: whole } });
}
async function end(...names: string[]): Promise<void> {
  for (const name of names) await api().deleteContainer({ bay: 'local', name });
  for (const name of names) await site.gone(name);
}
const status = async (name: string): Promise<ContainerStatus | undefined> =>
  (await api().getContainer({ bay: 'local', name })).container?.status;
const becomes = (name: string, what: string, test: (now: ContainerStatus) => boolean, timeoutMs?: number) =>
  until(
    `${name} ${what}`,
    async () => {
      const now = await status(name);
      if (now && test(now)) return now;
      throw new Error(`it is ${ContainerPhase[now?.phase ?? 0]} ${now?.reason} ${now?.message}`);
    },
    { timeoutMs },
  );

interface Log {
  stdout: string;
  stderr: string;
}
async function logs(name: string, request: object = {}): Promise<Log> {
  const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };
  const log: Log = { stdout: '', stderr: '' };
  for await (const { output } of api().logs({ bay: 'local', name, ...request })) {
    if (output.case) log[output.case] += decoders[output.case].decode(output.value, { stream: true });
  }
  return log;
}

test.serial('every field of a spec reaches the engine, and the container sees it', async (t) => {
  const port = await freePort();
  await make('full', {
    command: ['/bin/sh', '-c'],
    args: [
      'echo "$COLOUR $(id -u) $(pwd) $(hostname)"; touch /x 2>/dev/null || echo read-only; ' +
        'touch /host/x 2>/dev/null || echo bound read-only; touch /vol/kept && echo volume; df -k /scratch | head -2; exec sleep 10000',
    ],
    env: [{ name: 'COLOUR', value: 'a=b' }],
    workingDir: '/tmp',
    user: '0:0',
    hostname: 'box',
    ports: [{ containerPort: 80, hostPort: port, hostIp: '127.0.0.1' }],
    mounts: [
      { type: MountType.BIND, source: '/etc', target: '/host', readOnly: true },
      { type: MountType.VOLUME, source: 'spec-volume', target: '/vol' },
      { type: MountType.TMPFS, target: '/scratch', sizeBytes: 1_048_576n },
    ],
    restartPolicy: RestartPolicy.ON_FAILURE,
    restartMaxRetries: 4,
    resources: { cpuMillis: 250n, memoryBytes: 33_554_432n },
    labels: { tier: 'web' },
    capAdd: ['NET_BIND_SERVICE'],
    capDrop: ['ALL'],
    readOnlyRoot: true,
    stopTimeout: { seconds: 3n },
    healthCheck: { command: ['true'], interval: { nanos: 100_000_000 }, timeout: { seconds: 5n }, retries: 2 },
  });
  const now = await becomes('full', 'is healthy', ({ health }) => health === HealthState.HEALTHY);
  t.is(now.phase, ContainerPhase.RUNNING);
  t.like(now.ports[0], { containerPort: 80, hostPort: port, hostIp: '127.0.0.1' });

  const seen = await site.dockerd.docker.getContainer('full').inspect();
  t.is(now.containerId, seen.Id);
  t.like(seen.Config, { User: '0:0', WorkingDir: '/tmp', Hostname: 'box', Image: site.image });
  t.deepEqual(seen.Config.Entrypoint, ['/bin/sh', '-c']);
  t.true(seen.Config.Env.includes('COLOUR=a=b'));
  t.is(seen.Config.Labels.tier, 'web');
  t.is(Reflect.get(seen.Config, 'StopTimeout'), 3);
  t.like(Reflect.get(seen.Config, 'Healthcheck'), { Test: ['CMD', 'true'], Interval: 100_000_000, Retries: 2 });
  t.like(seen.HostConfig, {
    CapAdd: ['NET_BIND_SERVICE'],
    CapDrop: ['ALL'],
    NanoCpus: 250_000_000,
    Memory: 33_554_432,
    MemorySwap: 33_554_432,
    ReadonlyRootfs: true,
    Privileged: false,
    RestartPolicy: { Name: 'on-failure', MaximumRetryCount: 4 },
    PortBindings: { '80/tcp': [{ HostIp: '127.0.0.1', HostPort: String(port) }] },
  });
  t.deepEqual(
    seen.Mounts.map(({ Type: type, Destination: target, RW: writable }) => `${type} ${target} ${writable}`).sort(),
    ['bind /host false', 'tmpfs /scratch true', 'volume /vol true'],
  );
  const { stdout } = await logs('full');
  t.regex(stdout, /^a=b 0 \/tmp box\nread-only\nbound read-only\nvolume\n/);
  t.regex(stdout, /tmpfs +1024 /);
  await end('full');
  // The volume has a name, and outlives its container.
  await site.dockerd.docker.getVolume('spec-volume').remove();
});

test.serial('how it ended is told: exit codes, memory, restart policies', async (t) => {
  const { NEVER, ON_FAILURE, ALWAYS } = RestartPolicy;
  await make('good', { args: ['true'], restartPolicy: NEVER });
  await make('bad', { args: shell('exit 42'), restartPolicy: NEVER });
  await make('killed', { args: shell('exit 137'), restartPolicy: NEVER });
  await make('retried', { args: shell('exit 3'), restartPolicy: ON_FAILURE, restartMaxRetries: 2 });
  await make('again', { args: shell('exit 0'), restartPolicy: ALWAYS });
  await make('greedy', {
    args: shell('x=x; while true; do x=$x$x; done'),
    restartPolicy: NEVER,
    resources: { memoryBytes: 8_388_608n },
  });
  const { SUCCEEDED, FAILED } = ContainerPhase;
  t.is((await becomes('good', 'succeeded', ({ phase }) => phase === SUCCEEDED)).exitCode, 0);
  t.like(await becomes('bad', 'failed', ({ phase }) => phase === FAILED), { exitCode: 42, reason: 'Error' });
  t.like(await becomes('greedy', 'failed', ({ phase, outOfMemory }) => phase === FAILED && outOfMemory), {
    reason: 'OutOfMemory',
    outOfMemory: true,
    exitCode: 137,
  });
  t.like(await becomes('killed', 'failed', ({ phase, exitCode }) => phase === FAILED && exitCode !== undefined), {
    outOfMemory: false,
  });
  t.like(await becomes('retried', 'gave up', ({ phase, reason }) => phase === FAILED && reason === 'Error'), {
    exitCode: 3,
    restarts: 2,
  });
  await becomes('again', 'was restarted', ({ restarts }) => restarts >= 2);
  await end('good', 'bad', 'killed', 'retried', 'again', 'greedy');
});

test.serial('what fails its health check is unhealthy, and healthy again when it passes', async (t) => {
  await make('ill', {
    args: ['sleep', '10000'],
    healthCheck: { command: ['test', '-e', '/tmp/well'], interval: { nanos: 100_000_000 }, retries: 1 },
  });
  t.like(await becomes('ill', 'is unhealthy', ({ health }) => health === HealthState.UNHEALTHY), {
    phase: ContainerPhase.RUNNING,
    reason: 'Unhealthy',
  });
  const touch = await site.dockerd.docker.getContainer('ill').exec({ Cmd: ['touch', '/tmp/well'] });
  await touch.start({ Detach: true });
  t.is((await becomes('ill', 'is healthy', ({ health }) => health === HealthState.HEALTHY)).reason, '');
  await end('ill');
});

test.serial('a port that is taken, a name, a folder and a user that are not there: each is said', async (t) => {
  const holder = createServer().listen(0, '127.0.0.1');
  await once(holder, 'listening');
  const address = holder.address();
  const hostPort = typeof address === 'object' && address ? address.port : 0;
  await make('port', { args: ['sleep', '10000'], ports: [{ containerPort: 80, hostPort, hostIp: '127.0.0.1' }] });
  const taken = await becomes('port', 'says so', ({ reason }) => reason === 'PortTaken');
  t.is(taken.phase, ContainerPhase.FAILED);
  t.regex(taken.message, new RegExp(`${hostPort}.*free the port`, 's'));
  await make('program', { args: ['/no/such/program'] });
  await make('folder', {
    args: ['true'],
    mounts: [{ type: MountType.BIND, source: '/no/such/folder', target: '/x' }],
  });
  await make('user', { args: ['true'], user: 'nobody-knows' });
  for (const [name, words] of [
    ['program', /no\/such\/program/],
    ['folder', /no\/such\/folder/],
    ['user', /nobody-knows/],
  ] as const) {
    const said = await becomes(name, 'says so', ({ reason }) => reason === 'InvalidSpec');
    t.is(said.phase, ContainerPhase.FAILED);
    t.regex(said.message, words);
  }
  holder.close();
  await once(holder, 'close');
  await becomes('port', 'runs once it is free', ({ phase }) => phase === ContainerPhase.RUNNING, 60_000);
  await end('port', 'program', 'folder', 'user');
});

test.serial('logs: huge lines, outputs apart, tail, since, timestamps, of what has stopped', async (t) => {
  const long = 1_500_000;
  await make('wordy', {
    restartPolicy: RestartPolicy.NEVER,
    args: shell(
      `echo first; echo oops >&2; head -c ${long} /dev/zero | tr '\\0' x; echo; echo end >&2; sleep 2; echo late; echo last`,
    ),
  });
  await becomes('wordy', 'has ended', ({ phase }) => phase === ContainerPhase.SUCCEEDED);
  const whole = await logs('wordy');
  t.is(whole.stdout.length, 'first\n'.length + long + '\nlate\nlast\n'.length);
  t.is(whole.stdout.replace(/x+/, 'X'), 'first\nX\nlate\nlast\n');
  t.is(whole.stderr, 'oops\nend\n');
  t.deepEqual(await logs('wordy', { stderr: true }), { stdout: '', stderr: 'oops\nend\n' });
  t.is((await logs('wordy', { stdout: true, tailLines: 1n })).stdout, 'last\n');
  t.deepEqual(await logs('wordy', { tailLines: 0n }), { stdout: '', stderr: '' });
  const stamped = (await logs('wordy', { stdout: true, tailLines: 2n, timestamps: true })).stdout.trim().split('\n');
  t.is(stamped.length, 2);
  const times = stamped.map((line) => /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z) (late|last)$/.exec(line)?.[1] ?? '');
  const late = Date.parse(times[0] ?? '');
  t.false(Number.isNaN(late), stamped[0]);
  t.is((await logs('wordy', { stdout: true, sinceTime: timestampFromMs(late - 1_000) })).stdout, 'late\nlast\n');
  // One that is followed has an end, as there will not be more.
  t.is((await logs('wordy', { follow: true, stdout: true, tailLines: 1n })).stdout, 'last\n');
  await end('wordy');
});

test.serial('what the owner of the node forbids is refused, by name and reason, on every surface', async (t) => {
  const { controlPlane, agent } = site;
  const file = join(agent.dataDir, 'agent.yaml');
  await make('mounts', { args: ['sleep', '10000'] });
  await site.inPhase('mounts', ContainerPhase.RUNNING);
  await writeFile(file, 'default: allow\nhostMounts: [/srv]\nexec: forbid\n', { mode: 0o600 });
  await make('forbidden', { mounts: [{ type: MountType.BIND, source: '/etc', target: '/host' }] });
  await becomes('forbidden', 'is refused', ({ reason }) => reason === 'ForbiddenByPolicy');
  const ctl = async (command: string, ...args: string[]) =>
    await bayctl(controlPlane, [command, '-b', 'local', ...args]);
  const why = await ctl('why', 'container/forbidden');
  t.regex(why.stdout, /applied .*policy\/node-1 +refused: ForbiddenByPolicy.*the mount of \/etc of the node/);
  t.regex(why.stdout, /was refused by policy\/node-1: ForbiddenByPolicy/);
  const exec = await ctl('exec', 'container/mounts', '--', 'true');
  t.is(exec.code, 3, 'not allowed');
  t.regex(exec.stderr, /agent\.yaml\) forbids commands in containers/);
  const described = await until('the node says it', async () => {
    const { stdout } = await ctl('describe', 'node', 'node-1');
    return /PolicyInForce +True +PolicyRead/.test(stdout) ? stdout : undefined;
  });
  t.regex(described, /exec: forbid, .*hostMounts: \/srv/);
  await writeFile(file, 'default: allow\n');
  await until(
    'commands are allowed again',
    async () => (await ctl('exec', 'container/mounts', '--', 'true')).code === 0,
  );
  await end('mounts', 'forbidden');

  await writeFile(file, 'default: allow\nimages: all\n');
  await agent.stop();
  const refused = await run(ownProgram('agent/main.ts', 'run', '--data', agent.dataDir));
  t.is(refused.code, 2);
  t.regex(refused.stderr, /agent\.yaml: images: expected allow, forbid, or a list/);
  await rm(file);
  await agent.start();
  await agent.ready();
});

test.serial('a node says how it is, and that its engine is away, and back', async (t) => {
  const node = async () =>
    (await site.controlPlane.client(NodeService).getNode({ bay: 'local', name: 'node-1' })).node?.status;
  const condition = async (type: string) => (await node())?.conditions.find((one) => one.type === type);
  const is = async (type: string, expected: ConditionStatus) => (await condition(type))?.status === expected;
  const now = await node();
  t.is(now?.phase, NodePhase.READY);
  for (const type of ['Ready', 'MemoryPressure', 'DiskPressure', 'EngineUnavailable'])
    t.truthy(await condition(type), type);
  t.true((now?.usage?.memoryUsedBytes ?? 0n) > 0n);
  t.true((now?.usage?.diskTotalBytes ?? 0n) > 0n);
  t.not(now?.info?.engineVersion, '');
  t.not(now?.info?.os, '');
  await make('through', { args: ['sleep', '10000'] });
  await site.inPhase('through', ContainerPhase.RUNNING);

  await site.dockerd.stop();
  await until('EngineUnavailable holds', () => is('EngineUnavailable', ConditionStatus.TRUE), { timeoutMs: 5_000 });
  t.true(await is('Ready', ConditionStatus.FALSE));
  t.like(await node(), { phase: NodePhase.NOT_READY, reason: 'EngineUnavailable' });
  // What is asked for meanwhile is done when it is back.
  await make('meanwhile', { args: ['sleep', '10000'] });
  await site.dockerd.restart();
  await until('the engine is back', () => is('EngineUnavailable', ConditionStatus.FALSE), { timeoutMs: 10_000 });
  t.true(await is('Ready', ConditionStatus.TRUE));
  t.is((await node())?.phase, NodePhase.READY);
  await site.inPhase('through', ContainerPhase.RUNNING);
  await site.inPhase('meanwhile', ContainerPhase.RUNNING);
  await end('through', 'meanwhile');
});
