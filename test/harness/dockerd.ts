import { type ChildProcess, type ChildProcessByStdio, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, open, readdir, readFile, rm, rmdir, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { promisify } from 'node:util';
import type Docker from 'dockerode';
import { dockerClient } from '../../agent/drivers/docker_client.ts';
import { bridgeAlias, removeCgroupTree, runVariable } from '../leftovers.ts';
import { endWords, hasWords } from './last_words.ts';

/** A private Docker engine: its own socket, data, containerd and bridge. Needs root, dockerd, `ip` and /bin/busybox (package busybox-static). */
export interface TestDockerd {
  readonly socketPath: string;
  readonly docker: Docker;
  /** Its folder, with everything below it: removed at the end. */
  readonly dir: string;
  /** Name of its bridge, and the address that this machine has on it. No other engine has the same. */
  readonly bridge: string;
  readonly address: string;
  /** Its log file. */
  readonly logFile: string;
  /** Ends the engine as a crash would; containers stay as they are. */
  kill9(): Promise<void>;
  /** Ends the engine as an orderly shutdown would. */
  stop(): Promise<void>;
  /** Starts it again on the same data, after `kill9` or `stop`, or instead of what runs. Resolves when it answers. */
  restart(): Promise<void>;
  /**
   * Makes an image of busybox and nothing else, without a command of its own. Tag as `busybox:test`; `change`: an instruction of a
   * Dockerfile, as `ENTRYPOINT ["sh"]`.
   */
  importBusybox(tag: string, change?: string): Promise<void>;
  /** Ends everything and removes every trace: containers, processes, mounts, bridge, files. */
  [Symbol.asyncDispose](): Promise<void>;
}

export interface TestDockerdOptions {
  /** For data, sockets and logs. Default: a new temporary folder. It is removed at the end. */
  readonly dir?: string;
  /** What daemon.json says. Default: nothing. */
  readonly config?: object;
}

const run = promisify(execFile);
const startTimeoutMs = 60_000;
const busyboxPath = '/bin/busybox';
const applets = [
  'sh',
  'echo',
  'cat',
  'sleep',
  'true',
  'false',
  'yes',
  'head',
  'dd',
  'stty',
  'env',
  'id',
  'pwd',
  'hostname',
  'ls',
  'touch',
  'httpd',
  'nc',
  'kill',
  'trap',
  'seq',
  'wc',
  'test',
  'ps',
  'mkdir',
  'df',
  'wget',
];

/** Starts one. Throws with what is missing when the machine cannot run it. */
export async function startDockerd(options: TestDockerdOptions = {}): Promise<TestDockerd> {
  checkMachine();
  await removeOrphans();
  const dir = options.dir ?? (await mkdtemp(join(tmpdir(), folderPrefix)));
  await mkdir(dir, { recursive: true });
  const id = randomBytes(4).toString('hex');
  const paths = {
    socket: join(dir, 'docker.sock'),
    data: join(dir, 'data'),
    exec: join(dir, 'exec'),
    pid: join(dir, 'docker.pid'),
    log: join(dir, 'dockerd.log'),
    config: join(dir, 'daemon.json'),
    containerd: join(dir, 'containerd'),
    containerdSocket: join(dir, 'containerd.sock'),
  };
  await writeFile(paths.config, JSON.stringify(options.config ?? {}));
  const bridge = `bk${id}`;
  await writeFile(
    join(dir, ownerFile),
    JSON.stringify({ pid: process.pid, started: await startTime(process.pid), bridge }),
  );
  const address = await makeBridge(bridge);
  const docker = dockerClient(paths.socket);
  let containerd: ChildProcess | undefined;
  let child: ChildProcess | undefined;
  let disposed = false;

  const start = async () => {
    // As on a real machine containerd is a service of its own, and outlives the engine.
    if (!isRunning(containerd)) {
      containerd = await launch(paths.log, 'containerd', [
        ...['--config', await containerdConfig(paths.containerd), '--address', paths.containerdSocket],
        ...['--root', join(paths.containerd, 'root'), '--state', join(paths.containerd, 'state')],
      ]);
    }
    const started = await launch(paths.log, 'dockerd', [
      ...['--config-file', paths.config, '--host', `unix://${paths.socket}`, '--data-root', paths.data],
      ...['--exec-root', paths.exec, '--pidfile', paths.pid, '--bridge', bridge],
      ...['--containerd', paths.containerdSocket],
      // Published ports go through docker-proxy: the machine's own rules are left as they are.
      ...['--iptables=false', '--ip6tables=false', '--ip-masq=false', '--ip-forward=false'],
    ]);
    child = started;
    const until = Date.now() + startTimeoutMs;
    for (;;) {
      if (started.exitCode !== null || started.signalCode !== null)
        throw new Error(`dockerd ended:\n${await tail(paths.log)}`);
      try {
        await docker.ping();
        return;
      } catch (cause) {
        if (Date.now() > until) throw new Error(`dockerd does not answer:\n${await tail(paths.log)}`, { cause });
      }
      await pause(50);
    }
  };
  const end = async (signal: NodeJS.Signals) => {
    const ending = child;
    child = undefined;
    await endProcess(ending, signal);
  };
  const dispose = async () => {
    if (disposed) return;
    disposed = true;
    endWords(docker);
    if (child) await removeContainers(docker);
    await end('SIGTERM');
    await endProcess(containerd, 'SIGTERM');
    await removeTraces(dir, bridge);
  };

  hasWords(docker, { name: `dockerd on ${bridge}`, output: () => readIfThere(paths.log) });
  try {
    await makeSharedMount(paths.data);
    await start();
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    socketPath: paths.socket,
    docker,
    dir,
    bridge,
    address,
    logFile: paths.log,
    kill9: () => end('SIGKILL'),
    stop: () => end('SIGTERM'),
    async restart() {
      await end('SIGTERM');
      await start();
    },
    importBusybox: (tag, change) => importBusybox(docker, dir, tag, change),
    [Symbol.asyncDispose]: dispose,
  };
}

const folderPrefix = 'bk-dockerd-';
const ownerFile = 'owner.json';

async function removeTraces(dir: string, bridge: string): Promise<void> {
  await endProcessesOf(dir);
  await removeCgroups(await readdir(join(dir, 'data', 'containers')).catch(() => []));
  await unmountBelow(dir);
  // A kubelet that used this engine names the cgroup of its pods after the bridge.
  await removeCgroupTree(bridge);
  await run('ip', ['link', 'delete', bridge]).catch(() => undefined);
  await rm(dir, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
}

/** Removes what test processes have left that were killed before they could. Only folders that say who made them, and that is gone. */
async function removeOrphans(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    if (!name.startsWith(folderPrefix)) continue;
    const dir = join(tmpdir(), name);
    try {
      const owner: unknown = JSON.parse(await readFile(join(dir, ownerFile), 'utf8'));
      const { pid, started, bridge } = owner as { pid: number; started: string; bridge: string };
      if (!/^bk[0-9a-f]{8}$/.test(bridge) || (await startTime(pid)) === started) continue;
      await removeTraces(dir, bridge);
    } catch {
      // Half made, or just being removed: not ours to judge.
    }
  }
}

/** Tells a process from a later one with its number. Empty: there is none. */
async function startTime(pid: number): Promise<string> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
}

const isRunning = (child: ChildProcess | undefined): child is ChildProcess =>
  child !== undefined && child.exitCode === null && child.signalCode === null;

async function launch(logFile: string, program: string, args: readonly string[]): Promise<ChildProcess> {
  const log = await open(logFile, 'a');
  try {
    const child = spawn(program, args, { stdio: ['ignore', log.fd, log.fd], detached: true });
    await once(child, 'spawn');
    return child;
  } finally {
    await log.close();
  }
}

async function endProcess(child: ChildProcess | undefined, signal: NodeJS.Signals): Promise<void> {
  if (!isRunning(child)) return;
  const ended = once(child, 'exit');
  child.kill(signal);
  const late = setTimeout(() => child.kill('SIGKILL'), 20_000);
  await ended;
  clearTimeout(late);
}

/** Without Kubernetes' part, which would listen on a port. */
async function containerdConfig(dir: string): Promise<string> {
  await mkdir(dir, { recursive: true });
  const file = join(dir, 'config.toml');
  await writeFile(file, 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n');
  return file;
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const readIfThere = (file: string) => (existsSync(file) ? readFileSync(file, 'utf8') : '');
const tail = async (file: string) => (await readFile(file, 'utf8').catch(() => '')).split('\n').slice(-20).join('\n');

function checkMachine(): void {
  if (process.getuid?.() !== 0) throw new Error('a private dockerd needs root');
  const path = (process.env.PATH ?? '').split(':');
  for (const program of ['dockerd', 'containerd', 'runc', 'docker-proxy', 'ip']) {
    const there = [...path, '/usr/sbin', '/sbin'].some((folder) => isExecutable(join(folder, program)));
    if (!there) throw new Error(`${program} is missing (on Debian: apt-get install docker.io iproute2)`);
  }
  if (!isExecutable(busyboxPath))
    throw new Error(`${busyboxPath} is missing (on Debian: apt-get install busybox-static)`);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** A bridge with a network of 250 addresses that the machine does not have yet. Resolves with the machine's own among them. */
async function makeBridge(name: string): Promise<string> {
  for (let attempt = 0; ; attempt += 1) {
    const [a = 0, b = 0] = randomBytes(2);
    const network = `10.${200 + (a % 55)}.${b}`;
    const { stdout } = await run('ip', ['-4', '-o', 'addr', 'show']);
    if (stdout.includes(`${network}.`) && attempt < 20) continue;
    await run('ip', ['link', 'add', 'name', name, 'type', 'bridge']);
    try {
      // By this the run of the tests finds it again, when its test was killed.
      const runId = process.env[runVariable];
      if (runId) await run('ip', ['link', 'set', name, 'alias', bridgeAlias(runId)]);
      await run('ip', ['addr', 'add', `${network}.1/24`, 'dev', name]);
      await run('ip', ['link', 'set', name, 'up']);
      return `${network}.1`;
    } catch (error) {
      await run('ip', ['link', 'delete', name]);
      throw error;
    }
  }
}

async function removeContainers(docker: Docker): Promise<void> {
  try {
    const all = await docker.listContainers({ all: true });
    await Promise.all(all.map((one) => docker.getContainer(one.Id).remove({ force: true, v: true })));
  } catch {
    // What an engine does not remove any more goes with its processes and mounts.
  }
}

/**
 * As where systemd mounts the file systems. On any other an engine does it itself, and undoes it when it ends: a container that is started
 * while it ends is then mounted below, where the next engine does not see it, and can never remove it ("device or resource busy").
 */
async function makeSharedMount(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true });
  await run('mount', ['--bind', dir, dir]);
  await run('mount', ['--make-shared', dir]);
}

/** Kills what has this folder on its command line: containerd and the shims of a crashed engine, a kubelet; what they run goes with them. */
async function endProcessesOf(dir: string): Promise<void> {
  for (let round = 0; round < 100; round += 1) {
    const pids: number[] = [];
    for (const name of await readdir('/proc')) {
      if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
      const [program = '', ...args] = (await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')).split('\0');
      if (!/containerd|dockerd|docker-proxy|kubelet/.test(program) || !args.some((arg) => arg.includes(`${dir}/`)))
        continue;
      pids.push(Number(name));
      // A shim is killed together with its container.
      for (const child of await childrenOf(Number(name))) pids.push(child);
    }
    if (pids.length === 0) return;
    for (const pid of pids) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // Gone by itself.
      }
    }
    await pause(50);
  }
}

/** A shim that is killed leaves those of its container behind, in each hierarchy. Under the same name no other engine has any. */
async function removeCgroups(containerIds: readonly string[]): Promise<void> {
  const hierarchies = await readdir('/sys/fs/cgroup').catch(() => []);
  for (const id of containerIds) {
    const folders = ['', ...hierarchies].flatMap((hierarchy) => [
      join('/sys/fs/cgroup', hierarchy, 'docker', id),
      join('/sys/fs/cgroup', hierarchy, 'system.slice', `docker-${id}.scope`),
    ]);
    // Most of them are not there.
    for (const folder of folders) await rmdir(folder).catch(() => undefined);
  }
}

async function childrenOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  return text.split(' ').filter(Boolean).map(Number);
}

async function unmountBelow(dir: string): Promise<void> {
  for (let round = 0; round < 20; round += 1) {
    const below = (await readFile('/proc/self/mounts', 'utf8'))
      .split('\n')
      .map((line) => line.split(' ')[1] ?? '')
      .filter((path) => path.startsWith(`${dir}/`))
      .sort((a, b) => b.length - a.length);
    if (below.length === 0) return;
    for (const path of below) await run('umount', ['-l', path]).catch(() => undefined);
  }
}

async function importBusybox(docker: Docker, dir: string, tag: string, changes?: string): Promise<void> {
  const root = await mkdtemp(join(dir, 'image-'));
  let tar: ChildProcessByStdio<null, Readable, null> | undefined;
  try {
    for (const folder of ['bin', 'tmp', 'etc', 'data']) await mkdir(join(root, folder));
    await copyFile(busyboxPath, join(root, 'bin', 'busybox'));
    for (const applet of applets) await symlink('busybox', join(root, 'bin', applet));
    await writeFile(join(root, 'etc', 'passwd'), 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n');
    await writeFile(join(root, 'etc', 'group'), 'root:x:0:\nnobody:x:65534:\n');
    tar = spawn('tar', ['--create', '--directory', root, '--owner=0', '--group=0', '.'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [repo, version = 'latest'] = tag.split(':');
    const answer = (await docker.importImage(tar.stdout, {
      repo,
      tag: version,
      ...(changes && { changes }),
    })) as Readable;
    let said = '';
    for await (const chunk of answer) said += String(chunk);
    if (said.includes('"error"')) throw new Error(`docker import: ${said}`);
  } finally {
    // An engine that refuses does not read to the end.
    tar?.kill();
    await rm(root, { recursive: true, force: true });
  }
}
