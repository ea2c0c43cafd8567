import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer as createHttpServer } from 'node:http';
import { createServer } from 'node:net';
import path from 'node:path';
import test from 'ava';
import { bayctlPath } from '../harness/bayctl.ts';
import { startDockerd, type TestDockerd } from '../harness/dockerd.ts';
import { freePort } from '../harness/free_port.ts';
import { type Outcome, Program, root, run } from '../harness/program.ts';
import { type TemporaryFolder, temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';

/** What the README tells a new user to do, typed as it stands there, on a private engine. */

test.serial('a machine goes from npm start to a container, through stop and start, and past a kill -9', async (t) => {
  t.timeout(240_000);
  await using place = await startPlace();
  await place.engine.importBusybox('busybox:test');
  const { home, port, npm, bayctl, engine } = place;

  // The first start: enrols this machine.
  const first = await npm('start', '--detach', ...place.ports);
  t.is(first.code, 0, first.stdout + first.stderr);
  t.true(first.stdout.includes(`Baykeeper is ready on http://127.0.0.1:${port}`), first.stdout);
  t.true(first.stdout.includes(bayctlPath), 'says what to type next, with the path of bayctl');
  t.is((await stat(home)).mode & 0o777, 0o700);
  t.is((await stat(path.join(home, 'control-plane', 'admin.token'))).mode & 0o777, 0o600);
  t.regex((await bayctl('get', 'nodes', '-b', 'local')).stdout, /\bready\b/i);

  const command = ['sh', '-c', 'while true; do echo hello; sleep 1; done'];
  const ran = await bayctl('run', 'web', '-b', 'local', '--image', 'busybox:test', '--', ...command);
  t.is(ran.code, 0, ran.stderr);
  const containerId = await until('the container runs', () => runningId(engine, 'web'));

  const again = await npm('start');
  t.is(again.code, 0, again.stderr);
  t.regex(again.stdout, /already runs/);

  // Stop leaves the container alone, and a second start finds everything again, its ports too.
  const stopped = await npm('stop');
  t.is(stopped.code, 0, stopped.stderr);
  t.deepEqual(processesOf(home), []);
  t.is(await runningId(engine, 'web'), containerId);
  t.regex((await npm('stop')).stdout, /Nothing runs/);

  const startMs = performance.now();
  const second = await npm('start', '--detach');
  t.is(second.code, 0, second.stdout + second.stderr);
  t.log(`second start: ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
  t.notRegex(second.stdout, /Joining/);
  await until('bayctl shows it running', async () => {
    const { status } = JSON.parse((await bayctl('get', 'container', 'web', '-b', 'local', '-o', 'json')).stdout);
    return /RUNNING$/.test(status.phase);
  });
  t.is(await runningId(engine, 'web'), containerId);

  // The supervisor dies without a word: what it ran is found, by a start and by a stop.
  process.kill(supervisorOf(home), 'SIGKILL');
  const third = await npm('start', '--detach');
  t.is(third.code, 0, third.stdout + third.stderr);
  t.regex(third.stdout, /left behind/);
  process.kill(supervisorOf(home), 'SIGKILL');
  t.is((await npm('stop')).code, 0);
  t.deepEqual(processesOf(home), []);

  // In the foreground, ended as by Ctrl-C or by a service manager; meanwhile a part that dies comes back.
  await using foreground = new Program({
    command: ['npm', '--silent', 'start'],
    cwd: root,
    env: place.env,
    readyLine: /To stop it: Ctrl-C/,
    readyTimeoutMs: 90_000,
  });
  await foreground.start();
  const [agent] = processesOf(home).filter(({ args }) => args.includes('/agent/main.ts'));
  process.kill(agent?.pid ?? 0, 'SIGKILL');
  await until('the agent runs again', () => foreground.output.includes('The agent runs again.'));
  t.deepEqual(await foreground.stop(), { code: 0, signal: null });
  t.regex(foreground.output, /Stopped\./);
  t.deepEqual(processesOf(home), []);
  t.is(await runningId(engine, 'web'), containerId, 'the container outlived all of that');

  t.is((await npm('start', '--detach')).code, 0);
  const deleted = await bayctl('delete', 'container', 'web', '-b', 'local');
  t.is(deleted.code, 0, deleted.stderr);
  await until('the container is gone', async () => (await runningId(engine, 'web')) === undefined);
});

test.serial(
  'other ports are found by the agent that enrolled at the old ones, and damage is said at once',
  async (t) => {
    t.timeout(240_000);
    await using place = await startPlace();
    const { home, npm, bayctl } = place;
    t.is((await npm('start', '--detach', ...place.ports)).code, 0);
    t.is((await npm('stop')).code, 0);

    // As its own advice says when a port is taken: both, and the broker's alone.
    const other = String(await freePort());
    for (const args of [
      ['--port', other, '--nats-port', String(await freePort())],
      ['--nats-port', String(await freePort())],
    ]) {
      const startMs = performance.now();
      const started = await npm('start', '--detach', ...args);
      t.is(started.code, 0, started.stdout + started.stderr);
      t.log(`${args.join(' ')}: ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
      t.regex((await bayctl('get', 'nodes', '-b', 'local')).stdout, /\bready\b/i);
      t.is((await npm('stop')).code, 0);
    }
    t.is((await readFile(path.join(home, 'agent', 'server'), 'utf8')).trim(), `http://127.0.0.1:${other}`);

    const refused = async (file: string, content: string | Buffer, sentence: RegExp) => {
      const whole = await readFile(path.join(home, file));
      await writeFile(path.join(home, file), content);
      const outcome = await npm('start', '--detach');
      t.is(outcome.code, 1, outcome.stdout);
      t.regex(outcome.stderr, sentence);
      t.true(outcome.stderr.includes(path.join(home, file)), outcome.stderr);
      t.is(outcome.stderr.trimEnd().split('\n').length, 1, outcome.stderr);
      t.deepEqual(processesOf(home), []);
      await writeFile(path.join(home, file), whole);
    };
    await refused('agent/identity.seed', 'garbage', /^Baykeeper could not start: .*no usable key/);
    await refused('node', Buffer.from('\u001b[2J\u0000\u00ff\u0001'), /^Baykeeper could not start: .*name of a node/);
    t.is((await npm('start', '--detach')).code, 0);
  },
);

test.serial('what is in the way is said in one sentence', async (t) => {
  await using folder = await temporaryFolder('quickstart');
  const socket = path.join(folder.path, 'docker.sock');
  // Only asked whether it answers: these starts come no further.
  await using _engine = await fakeEngine(socket);
  const env = { BAYKEEPER_HOME: path.join(folder.path, 'home'), DOCKER_HOST: `unix://${socket}` };
  const refused = async (sentence: RegExp, args: readonly string[], extra: Record<string, string> = {}) => {
    const outcome = await run(['npm', '--silent', 'start', '--', ...args], { cwd: root, env: { ...env, ...extra } });
    t.is(outcome.code, 1, outcome.stdout);
    t.regex(outcome.stderr, sentence);
    t.is(outcome.stderr.trimEnd().split('\n').length, 1, outcome.stderr);
  };

  const taken = createServer().listen(0, '127.0.0.1');
  const port = await until('a port is taken', () => {
    const address = taken.address();
    return address && typeof address === 'object' ? address.port : undefined;
  });
  const free = await freePort();
  await refused(new RegExp(`^Port ${port} is in use`), [
    '--detach',
    '--port',
    String(port),
    '--nats-port',
    String(free),
  ]);
  await refused(new RegExp(`^Port ${port} is in use`), [
    '--detach',
    '--port',
    String(free),
    '--nats-port',
    String(port),
  ]);
  taken.close();
  await refused(/must differ/, ['--port', String(free), '--nats-port', String(free)]);
  await refused(/expected a port from 1 to 65535, not 70000/, ['--port', '70000']);
  await refused(/There is no option --bogus/, ['--bogus']);

  const file = path.join(folder.path, 'file');
  await writeFile(file, '');
  await refused(/state folder .*there is a file of that name/, ['--home', file]);
  await refused(/state folder .*nothing can be made there/, ['--home', '/proc/baykeeper']);
  const broken = path.join(folder.path, 'broken');
  await mkdir(broken);
  await writeFile(path.join(broken, 'quickstart.json'), '{"port":');
  await refused(/state folder is broken/, ['--home', broken]);

  await refused(/DOCKER_HOST is tcp:/, [], { DOCKER_HOST: 'tcp://127.0.0.1:2375' });
  await refused(/no Docker engine answers there/, [], { DOCKER_HOST: `unix://${folder.path}/none.sock` });
});

test.serial('a full disk under the state folder is said, ends nothing, and is over when there is room', async (t) => {
  t.timeout(240_000);
  await using place = await startPlace();
  const { home, npm, bayctl, engine } = place;
  await engine.importBusybox('busybox:test');
  await mkdir(home);
  const mounted = await run(['mount', '-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', home]);
  t.is(mounted.code, 0, mounted.stderr);
  const filler = path.join(home, 'filler');
  try {
    t.is((await npm('start', '--detach', ...place.ports)).code, 0);
    const web = ['web', '-b', 'local', '--image', 'busybox:test', '--', 'sleep', '1000'];
    t.is((await bayctl('run', ...web)).code, 0);
    const containerId = await until('the container runs', () => runningId(engine, 'web'));

    await run(['dd', 'if=/dev/zero', `of=${filler}`, 'bs=4k']);
    // Enough to fill the rest of the log's last block.
    for (let i = 0; i < 8; i += 1) {
      const refused = await bayctl('run', `no-${i}`, ...web.slice(1));
      t.is(refused.code, 6, refused.stderr);
      t.regex(
        refused.stderr,
        /^Error: .*(?:the disk that holds \S+ is full: nothing was written; free|its disk is full: free) some space\n$/,
      );
    }
    t.regex((await bayctl('get', 'containers', '-b', 'local')).stdout, /^web /m);

    // What ends now comes back, and whoever brings it back lives on.
    const supervisor = supervisorOf(home);
    const part = (name: string) => processesOf(home).find(({ args }) => args.includes(name))?.pid ?? 0;
    const killed = part('/agent/main.ts');
    process.kill(killed, 'SIGKILL');
    await until('the agent runs again', () => part('/agent/main.ts') > 0 && part('/agent/main.ts') !== killed);
    t.is(supervisorOf(home), supervisor);
    const again = await npm('stop');
    t.is(again.stdout, 'Baykeeper has stopped (supervisor). Containers go on running.\n', again.stderr);
    const full = await npm('start', '--detach');
    t.is(full.code, 1, full.stdout);
    t.regex(full.stderr, /: the disk is full\.\n$/);
    t.is(full.stderr.split('\n').length, 2, full.stderr);
    t.is(await runningId(engine, 'web'), containerId);

    await rm(filler);
    t.is((await npm('start', '--detach')).code, 0);
    t.is((await bayctl('run', 'after', ...web.slice(1))).code, 0);
    t.is(await runningId(engine, 'web'), containerId);
  } finally {
    await npm('stop');
    await run(['umount', home]);
  }
});

test.serial('a store that is broken is named, and nothing is left running', async (t) => {
  await using folder = await temporaryFolder('quickstart');
  const socket = path.join(folder.path, 'docker.sock');
  await using _engine = await fakeEngine(socket);
  const home = path.join(folder.path, 'home');
  await mkdir(path.join(home, 'control-plane'), { recursive: true });
  await writeFile(path.join(home, 'control-plane', 'store.db'), 'this is no database '.repeat(1_000));
  const ports = ['--port', String(await freePort()), '--nats-port', String(await freePort())];
  const outcome = await run(['npm', '--silent', 'start', '--', '--detach', '--home', home, ...ports], {
    cwd: root,
    env: { DOCKER_HOST: `unix://${socket}` },
  });
  t.is(outcome.code, 1, outcome.stdout);
  t.regex(outcome.stderr, /^Baykeeper could not start: .*store\.db/);
  t.deepEqual(processesOf(home), []);
});

interface Place extends AsyncDisposable {
  readonly home: string;
  readonly port: number;
  /** Options for the first start. */
  readonly ports: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly engine: TestDockerd;
  npm(script: 'start' | 'stop', ...args: string[]): Promise<Outcome>;
  bayctl(...args: string[]): Promise<Outcome>;
}

/** A state folder, ports and an engine of one's own. */
async function startPlace(): Promise<Place> {
  const folder: TemporaryFolder = await temporaryFolder('quickstart');
  const engine = await startDockerd();
  const home = path.join(folder.path, 'home');
  const [port, natsPort] = [await freePort(), await freePort()];
  const env = {
    BAYKEEPER_HOME: home,
    DOCKER_HOST: `unix://${engine.socketPath}`,
    BAYCTL_CONFIG: path.join(folder.path, 'none.yaml'),
    NO_COLOR: '1',
  };
  const npm: Place['npm'] = (script, ...args) =>
    run(['npm', '--silent', script, ...(args.length > 0 ? ['--', ...args] : [])], {
      cwd: root,
      env,
      timeoutMs: 120_000,
    });
  return {
    home,
    port,
    ports: ['--port', String(port), '--nats-port', String(natsPort)],
    env,
    engine,
    npm,
    bayctl: (...args) => run([bayctlPath, ...args], { env }),
    async [Symbol.asyncDispose]() {
      await npm('stop');
      await engine[Symbol.asyncDispose]();
      await folder[Symbol.asyncDispose]();
    },
  };
}

/** Id of the running container of this name. */
async function runningId(engine: TestDockerd, name: string): Promise<string | undefined> {
  const found = await engine.docker.listContainers({ filters: { name: [name] } });
  return found.find(({ Names }) => Names.includes(`/${name}`))?.Id;
}

/** Answers every question as an engine answers a ping. */
async function fakeEngine(socket: string): Promise<AsyncDisposable> {
  const server = createHttpServer((_request, response) => response.end('OK'));
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  return { [Symbol.asyncDispose]: () => new Promise((resolve) => server.close(() => resolve())) };
}

/** Everything that runs for this state folder, going by its arguments or by what the supervisor gave it. */
function processesOf(home: string): { pid: number; args: string }[] {
  const read = (pid: string, file: string) => {
    try {
      return readFileSync(`/proc/${pid}/${file}`, 'utf8').replaceAll('\0', ' ');
    } catch {
      return '';
    }
  };
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry) && Number(entry) !== process.pid)
    .map((entry) => ({ pid: Number(entry), args: read(entry, 'cmdline'), environment: read(entry, 'environ') }))
    .filter(({ args, environment }) => args.includes(home) || environment.includes(`BAYKEEPER_SUPERVISED=${home}`));
}

function supervisorOf(home: string): number {
  const found = processesOf(home).find(({ args }) => args.includes('supervisor.ts'));
  if (!found) throw new Error('there is no supervisor');
  return found.pid;
}
