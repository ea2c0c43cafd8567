import { type ChildProcess, spawn } from 'node:child_process';
import { open, readdir, readFile, readlink, realpath, stat } from 'node:fs/promises';
import { basename, delimiter, join } from 'node:path';
import { pause } from './backoff.ts';
import { BrokerError, messageOf, systemErrorCode } from './broker_error.ts';

/**
 * A nats-server process of ours: one that this process started, or one that an earlier control plane on the same data folder left
 * behind. It is known by its command line, which names our configuration file: that cannot be stale, as a file with a process id can.
 */
export interface NatsProcess {
  readonly pid: number;
  /** Left behind by an earlier control plane. */
  readonly adopted: boolean;
  /** Resolves with how it ended. */
  readonly exited: Promise<string>;
}

const watchIntervalMs = 300;

/** Where a system's package puts a server, on the PATH of root only. */
const serverFolders = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/** The program to run, as an absolute path. Rejects with BrokerError when there is none. */
export async function findBinary(binary: string): Promise<string> {
  const candidates = binary.includes('/')
    ? [binary]
    : [...(process.env.PATH ?? '').split(delimiter), ...serverFolders]
        .filter((folder) => folder !== '')
        .map((folder) => join(folder, binary));
  for (const candidate of candidates) {
    try {
      const found = await realpath(candidate);
      const info = await stat(found);
      if (info.isFile() && (info.mode & 0o111) !== 0) return found;
    } catch {
      // Not this one.
    }
  }
  const where = binary.includes('/') ? '' : ' on PATH';
  throw new BrokerError(
    `there is no program ${binary}${where}: install it (on Debian: apt-get install nats-server), or say where it is, or give a broker to use`,
  );
}

/** Starts it, in a process group of its own, so that it outlives this process and a Ctrl-C meant for it. Its output goes to `logPath`. */
export async function startNatsServer(binary: string, configPath: string, logPath: string): Promise<NatsProcess> {
  const log = await open(logPath, 'a', 0o600).catch((cause: unknown) => {
    throw new BrokerError(`cannot write ${logPath}: ${messageOf(cause)}`, { cause });
  });
  try {
    // What we are told of a cloud, a password among it, is not for it.
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('OS_')));
    const child = spawn(binary, ['-c', configPath], { detached: true, stdio: ['ignore', log.fd, log.fd], env });
    const pid = await started(child, binary);
    const exited = new Promise<string>((resolve) => {
      child.once('exit', (code, signal) => resolve(signal ? `signal ${signal}` : `exit status ${code}`));
    });
    child.unref();
    return { pid, adopted: false, exited };
  } finally {
    await log.close();
  }
}

function started(child: ChildProcess, binary: string): Promise<number> {
  return new Promise((resolve, reject) => {
    child.on('error', (cause) => {
      reject(new BrokerError(`cannot run ${binary}: ${messageOf(cause)}`, { cause }));
    });
    child.once('spawn', () => {
      if (child.pid !== undefined) resolve(child.pid);
      else reject(new BrokerError(`cannot run ${binary}: it has no process id`));
    });
  });
}

/** The nats-servers that were started with this configuration file, by the pids of /proc. Empty where there is no /proc. */
export async function findNatsServers(configPath: string): Promise<readonly number[]> {
  let entries: readonly string[];
  try {
    entries = await readdir('/proc');
  } catch {
    return [];
  }
  const found: number[] = [];
  for (const entry of entries) {
    const pid = Number(entry);
    if (Number.isInteger(pid) && (await isOurs(pid, configPath))) found.push(pid);
  }
  return found;
}

/** One that was left behind. */
export function adoptNatsServer(pid: number, configPath: string): NatsProcess {
  return { pid, adopted: true, exited: watchUntilGone(pid, configPath) };
}

/** Whether it still runs the program that is to be run, and not one that was since replaced by an upgrade. */
export async function runsBinary(pid: number, binary: string): Promise<boolean> {
  try {
    return (await readlink(`/proc/${pid}/exe`)) === binary;
  } catch {
    return false;
  }
}

/** Ends it: SIGTERM, and SIGKILL after `graceMs`. Resolves when it is gone. */
export async function endNatsServer(server: NatsProcess, configPath: string, graceMs: number): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    // An adopted process may be gone and its id another's by now; a child's is ours until its exit was seen.
    if (server.adopted && !(await isOurs(server.pid, configPath))) return;
    if (!send(server.pid, signal)) return;
    const timer = new AbortController();
    const gone = await Promise.race([
      server.exited.then(() => true),
      pause(signal === 'SIGTERM' ? graceMs : 10_000, timer.signal).then(() => false),
    ]);
    timer.abort();
    if (gone) return;
  }
  throw new BrokerError(`nats-server (process ${server.pid}) does not end, not even by SIGKILL`);
}

/** Has it read its configuration and certificate again; its connections stay. Nothing happens when it is gone. */
export async function reloadNatsServer(server: NatsProcess, configPath: string): Promise<void> {
  if (await isOurs(server.pid, configPath)) send(server.pid, 'SIGHUP');
}

function send(pid: number, signal: 'SIGTERM' | 'SIGKILL' | 'SIGHUP'): boolean {
  try {
    process.kill(pid, signal);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === 'ESRCH') return false;
    throw new BrokerError(`cannot signal nats-server (process ${pid}): ${messageOf(error)}`, { cause: error });
  }
}

/** Our user's, and started just as we start it. A dead process that nobody has reaped has no command line. */
async function isOurs(pid: number, configPath: string): Promise<boolean> {
  try {
    const args = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0');
    const [program, option, path, end, ...rest] = args;
    if (option !== '-c' || path !== configPath || end !== '' || rest.length > 0) return false;
    if (!/nats/.test(basename(program ?? '')) && !/nats/.test(basename(await readlink(`/proc/${pid}/exe`))))
      return false;
    return process.getuid === undefined || (await stat(`/proc/${pid}`)).uid === process.getuid();
  } catch {
    // Gone, or another user's.
    return false;
  }
}

async function watchUntilGone(pid: number, configPath: string): Promise<string> {
  while (await isOurs(pid, configPath)) {
    await new Promise((resolve) => setTimeout(resolve, watchIntervalMs).unref());
  }
  return 'gone';
}
