import { once } from 'node:events';
import { copyFile, mkdir, readdir, readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import path from 'node:path';
import { create } from '@bufbuild/protobuf';
import type { ExecutionContext } from 'ava';
import test from 'ava';
import { ContainerSpecSchema, MountType, RestartPolicy } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { startDockerd, type TestDockerd } from '../../test/harness/dockerd.ts';
import { freePort } from '../../test/harness/free_port.ts';
import { run } from '../../test/harness/program.ts';
import { temporaryFolder } from '../../test/harness/temporary_folder.ts';
import { collect, driverContract, textOf } from './contract.ts';
import { DockerDriver } from './docker.ts';
import { dockerClient } from './docker_client.ts';
import { DriverError, type ExecOptions, type LogOptions } from './driver.ts';

let dockerd: TestDockerd;
let driver: DockerDriver;
const image = 'busybox:test';

test.before(async () => {
  dockerd = await startDockerd();
  await dockerd.importBusybox(image);
  driver = new DockerDriver({ docker: dockerd.docker });
});
test.after.always(async () => {
  await dockerd?.[Symbol.asyncDispose]();
});

driverContract(test, () => ({ driver, image, freePort }));

let count = 0;
async function running(t: ExecutionContext, command: string[], more: object = {}): Promise<string> {
  count += 1;
  const spec = create(ContainerSpecSchema, { image, command, restartPolicy: RestartPolicy.NEVER, ...more });
  const id = await driver.create({ name: `docker-${count}`, spec, labels: {} });
  t.teardown(() => driver.remove(id));
  await driver.start(id);
  return id;
}

const until = async (condition: () => Promise<boolean>) => {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 20));
};
const logOptions: LogOptions = {
  follow: false,
  tailLines: undefined,
  sinceMs: undefined,
  timestamps: false,
  stdout: true,
  stderr: true,
};
const execOptions: ExecOptions = {
  command: [],
  tty: false,
  stdin: false,
  env: [],
  workingDir: '',
  user: '',
  size: undefined,
};
const readLog = async (id: string, options: Partial<LogOptions> = {}) => {
  const output = await driver.logs(id, { ...logOptions, ...options });
  return await collect(output.chunks);
};
const ended = (id: string) => until(async () => (await driver.inspect(id))?.state === 'exited');

/** Command lines of what runs in a container, as the node sees it. */
async function processesOf(id: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const cgroup = await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '');
    const state = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    if (cgroup.includes(id) && !/\) [ZX] /.test(state)) {
      found.push((await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ').trim());
    }
  }
  return found;
}

test.serial('every field of a spec reaches the engine', async (t) => {
  const port = await freePort();
  const id = await running(t, ['/bin/sh', '-c'], {
    args: [
      'echo "$A $(id -u) $(pwd) $(hostname)"; touch /x || echo read-only; ls /vol /tmp2; cat /host/hostname >/dev/null && echo bound; sleep 1000',
    ],
    env: [{ name: 'A', value: 'b=c' }],
    workingDir: '/tmp',
    user: '65534',
    hostname: 'box',
    ports: [{ containerPort: 80, hostPort: port, hostIp: '127.0.0.1' }],
    mounts: [
      { type: MountType.BIND, source: '/etc', target: '/host', readOnly: true },
      { type: MountType.VOLUME, source: 'named', target: '/vol' },
      { type: MountType.TMPFS, target: '/tmp2', sizeBytes: 1_000_000n },
    ],
    capDrop: ['ALL'],
    capAdd: ['NET_BIND_SERVICE'],
    readOnlyRoot: true,
    stopTimeout: { seconds: 3n },
    healthCheck: { command: ['/bin/true'], interval: { nanos: 50_000_000 }, retries: 2 },
    resources: { cpuMillis: 250n, memoryBytes: 32_000_000n },
    restartPolicy: RestartPolicy.ON_FAILURE,
    restartMaxRetries: 4,
  });
  await until(async () => textOf(await readLog(id)).includes('bound'));
  t.regex(textOf(await readLog(id), 'stdout'), /^b=c 65534 \/tmp box\nread-only\n/);
  await until(async () => (await driver.inspect(id))?.health === 'healthy');
  t.like(await driver.inspect(id), {
    restart: { policy: 'on-failure', maxRetries: 4 },
    ports: [{ containerPort: 80, hostPort: port, protocol: 'tcp', hostIp: '127.0.0.1' }],
  });
  const raw = await dockerd.docker.getContainer(id).inspect();
  t.like(raw.HostConfig, { CapAdd: ['NET_BIND_SERVICE'], CapDrop: ['ALL'], NanoCpus: 250_000_000, OomScoreAdj: 0 });
  t.is(Reflect.get(raw.Config, 'StopTimeout'), 3);
});

test.serial('anonymous volumes go with their container, named ones stay', async (t) => {
  const mounts = [
    { type: MountType.VOLUME, source: 'kept', target: '/kept' },
    { type: MountType.VOLUME, source: '', target: '/gone' },
  ];
  const volumes = async () => ((await dockerd.docker.listVolumes()).Volumes ?? []).map((volume) => volume.Name);
  const before = await volumes();
  const id = await running(t, ['/bin/sleep', '1000'], { mounts });
  t.is((await volumes()).length, before.length + 2);
  await driver.remove(id);
  t.deepEqual(
    (await volumes()).filter((name) => !before.includes(name)),
    ['kept'],
  );
});

test.serial('what is wrong with a spec is said', async (t) => {
  const wrong = [
    { mounts: [{ type: MountType.BIND, source: '/no/such/folder', target: '/x' }] },
    { capAdd: ['NO_SUCH'] },
    { command: ['/no/such/program'] },
    { user: 'nobody-here' },
    { resources: { cpuMillis: 1_000_000n } },
  ];
  for (const more of wrong) {
    const error = await t.throwsAsync(running(t, ['/bin/sleep', '1000'], more), { instanceOf: DriverError });
    t.is(error.kind, 'invalid', error.message);
    t.false(error.retryable);
  }
});

test.serial('what uses up its memory is killed, and the engine says so at least by its exit code', async (t) => {
  const id = await running(t, ['/bin/sh', '-c', 'x=$(/bin/yes)'], { resources: { memoryBytes: 8_000_000n } });
  await ended(id);
  // Its own note of it, and its event, are lost when it hears of the end first: see container_status.ts.
  t.like(await driver.inspect(id), { exitCode: 137, memoryBytes: 8_000_000 });
});

test.serial('logs: outputs apart, tail, since, timestamps, follow', async (t) => {
  const id = await running(t, ['/bin/sh', '-c', 'echo one; echo err >&2; sleep 0.3; echo two; sleep 0.3; echo three']);
  const followed = textOf(await readLog(id, { follow: true }), 'stdout');
  t.is(followed, 'one\ntwo\nthree\n');
  t.is(textOf(await readLog(id), 'stderr'), 'err\n');
  t.is(textOf(await readLog(id, { stdout: false })), 'err\n');
  t.is(textOf(await readLog(id, { tailLines: 1 })), 'three\n');
  t.is(textOf(await readLog(id, { tailLines: 0 })), '');
  const stamped = textOf(await readLog(id, { timestamps: true, stderr: false }))
    .trim()
    .split('\n');
  t.regex(stamped[1] ?? '', /^\d{4}-\d\d-\d\dT[\d:.]+Z two$/);
  const secondMs = Date.parse((stamped[1] ?? '').split(' ')[0] ?? '');
  t.is(textOf(await readLog(id, { sinceMs: secondMs - 1 })), 'two\nthree\n');
});

test.serial('output that nobody takes is not read, of a log and of a command', async (t) => {
  const id = await running(t, ['/bin/sh', '-c', 'yes "$(seq -s x 1 2000)" | head -c 100000000; sleep 1000']);
  const command = ['/bin/sh', '-c', 'yes "$(seq -s x 1 2000)"'];
  for (const output of [
    await driver.logs(id, { ...logOptions, follow: true }),
    await driver.exec(id, { ...execOptions, command }),
  ]) {
    const chunks = output.chunks[Symbol.asyncIterator]();
    let bytes = 0;
    while (bytes < 5_000_000) bytes += (await chunks.next()).value?.data.byteLength ?? 0;
    const held = () => process.memoryUsage().arrayBuffers + process.memoryUsage().heapUsed;
    const before = held();
    // As many turns as would have let in all of it.
    for (let i = 0; i < 50; i += 1) await new Promise((resolve) => setTimeout(resolve, 10));
    t.true(held() - before < 4_000_000, `grew by ${held() - before}`);
    while (bytes < 20_000_000) bytes += (await chunks.next()).value?.data.byteLength ?? 0;
    output.close();
    await chunks.next().catch(() => undefined);
  }
});

test.serial('exec: outputs apart, environment, folder, user', async (t) => {
  const id = await running(t, ['/bin/sleep', '1000']);
  const exec = await driver.exec(id, {
    ...execOptions,
    command: ['/bin/sh', '-c', 'echo "$B $(pwd) $(id -u)"; echo err >&2; exit 7'],
    env: ['B=b'],
    workingDir: '/tmp',
    user: 'nobody',
  });
  const chunks = await collect(exec.chunks);
  t.is(textOf(chunks, 'stdout'), 'b /tmp 65534\n');
  t.is(textOf(chunks, 'stderr'), 'err\n');
  t.is(await exec.exitCode(), 7);
});

test.serial('exec: much goes in and comes out', async (t) => {
  const id = await running(t, ['/bin/sleep', '1000']);
  const exec = await driver.exec(id, { ...execOptions, command: ['/bin/cat'], stdin: true });
  const piece = Buffer.alloc(65_536, 'x');
  const pieces = 200;
  let received = 0;
  const reading = (async () => {
    for await (const { data } of exec.chunks) received += data.byteLength;
  })();
  for (let i = 0; i < pieces; i += 1) await exec.write(piece);
  exec.endInput();
  await reading;
  t.is(received, pieces * piece.byteLength);
  t.is(await exec.exitCode(), 0);
});

test.serial('exec: a terminal has a size, and another one later', async (t) => {
  const id = await running(t, ['/bin/sleep', '1000']);
  const exec = await driver.exec(id, {
    ...execOptions,
    command: ['/bin/sh', '-c', 'read a; stty size; read b; stty size; exit 4'],
    tty: true,
    stdin: true,
    size: { columns: 91, rows: 17 },
  });
  let text = '';
  const reading = (async () => {
    for await (const { data } of exec.chunks) text += Buffer.from(data).toString('utf8');
  })();
  await exec.write(Buffer.from('\n'));
  await until(async () => text.includes('17 91'));
  await exec.resize({ columns: 120, rows: 40 });
  await exec.write(Buffer.from('\n'));
  await reading;
  t.regex(text, /40 120/);
  t.is(await exec.exitCode(), 4);
});

for (const tty of [false, true]) {
  test.serial(
    `exec: what was started ends when nobody listens any more${tty ? ', with a terminal' : ''}`,
    async (t) => {
      const id = await running(t, ['/bin/sleep', '1000']);
      const exec = await driver.exec(id, {
        ...execOptions,
        command: ['/bin/sh', '-c', "trap '' HUP; sleep 2000 & (sleep 3000; true) & yes"],
        tty,
      });
      for await (const _ of exec.chunks) break;
      await until(async () => (await processesOf(id)).some((line) => line.includes('3000')));
      exec.close();
      await until(async () => (await processesOf(id)).length === 1);
      t.deepEqual(await processesOf(id), ['/bin/sleep 1000']);
    },
  );
}

test.serial('exec: a command that is not there says so', async (t) => {
  const id = await running(t, ['/bin/sleep', '1000']);
  const exec = await driver.exec(id, { ...execOptions, command: ['/no/such'] });
  t.regex(textOf(await collect(exec.chunks)), /no such file/);
  t.true([126, 127].includes(await exec.exitCode()));
});

test.serial('exec: what a command that has ended left running goes on', async (t) => {
  const id = await running(t, ['/bin/sleep', '1000']);
  const exec = await driver.exec(id, { ...execOptions, command: ['/bin/sh', '-c', 'sleep 2000 >/dev/null 2>&1 &'] });
  await collect(exec.chunks);
  t.is(await exec.exitCode(), 0);
  exec.close();
  t.is((await processesOf(id)).length, 2);
});

test.serial('a pull is called off', async (t) => {
  const error = await t.throwsAsync(driver.pull('no-such-registry.invalid/x:1', AbortSignal.abort()), {
    instanceOf: DriverError,
  });
  t.is(error.kind, 'cancelled');
});

test.serial('an engine that is away, or says nothing, is said to be', async (t) => {
  const away = new DockerDriver({ docker: dockerClient('/no/such/socket') });
  for (const call of [
    away.ping(),
    away.info(),
    away.list({}),
    away.inspect('x'),
    away.hasImage('x'),
    away.pull('x'),
    away.start('x'),
  ]) {
    const error = await t.throwsAsync(call, { instanceOf: DriverError });
    t.is(error.kind, 'engine-unavailable', error.message);
  }
  // It takes the request, and answers nothing; or half of it.
  for (const answer of [
    '',
    'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a":',
    'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n<html>',
  ]) {
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.once('data', () => (answer.includes('html') ? socket.end(answer) : socket.write(answer)));
    });
    const path = `${dockerd.socketPath}.${answer.length}`;
    server.listen(path);
    await once(server, 'listening');
    const dull = new DockerDriver({ docker: dockerClient(path), requestTimeoutMs: 200 });
    await t.throwsAsync(dull.inspect('x'), { instanceOf: DriverError });
    await t.throwsAsync(dull.list({}), { instanceOf: DriverError });
    server.close();
  }
});

test.serial('an engine that ends in the middle of its answer is not waited for', async (t) => {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a":'));
  });
  const path = `${dockerd.socketPath}.broken`;
  server.listen(path);
  await once(server, 'listening');
  const broken = new DockerDriver({ docker: dockerClient(path) });
  const error = await t.throwsAsync(broken.inspect('x'), { instanceOf: DriverError });
  t.like(error, {
    kind: 'engine-unavailable',
    message: 'cannot inspect the container: the Docker engine is away (aborted: it broke off in its answer)',
  });
  server.close();
});

test.serial('names that could lead elsewhere are refused', async (t) => {
  for (const name of ['../images/json?x=', 'a/b', 'a?b', '']) {
    const error = await t.throwsAsync(driver.inspect(name), { instanceOf: DriverError });
    t.is(error.kind, 'invalid');
  }
  await t.throwsAsync(driver.hasImage('x/../../containers/json?'), { instanceOf: DriverError });
});

test.serial('a container is started although a crash of the engine left a task of it behind', async (t) => {
  const spec = create(ContainerSpecSchema, { image, command: ['/bin/sleep', '1000'] });
  const id = await driver.create({ name: 'leftover', spec, labels: {} });
  t.teardown(() => driver.remove(id));
  await using folder = await temporaryFolder('rootfs');
  await mkdir(path.join(folder.path, 'bin'));
  await copyFile('/bin/busybox', path.join(folder.path, 'bin', 'sleep'));
  // As when the engine goes between making the task and writing down that it runs.
  await dockerd.kill9();
  const socket = path.join(path.dirname(dockerd.socketPath), 'containerd.sock');
  const ctr = ['--address', socket, '--namespace', 'moby'];
  const detached = ['run', '--detach', '--null-io', '--rootfs', folder.path, id, '/bin/sleep', '2000'];
  const outcome = await run(['ctr', ...ctr, ...detached]);
  t.is(outcome.code, 0, outcome.stderr);
  await dockerd.restart();
  t.is((await driver.inspect(id))?.state, 'created');
  await t.throwsAsync(dockerd.docker.getContainer(id).start(), { message: /already in use|already exists/ });

  await driver.start(id);
  t.is((await driver.inspect(id))?.state, 'running');
  t.deepEqual(await processesOf(id), ['/bin/sleep 1000']);
});
