import { readdir, readFile, readlink } from 'node:fs/promises';

/**
 * Ends what was started in a container by `exec`: engines have no call for it, so it is done through /proc of the node.
 *
 * Only processes in the container's own PID namespace are touched, and one that took over a number meanwhile is told by its start time.
 * Where /proc does not show the engine's processes (an agent in a container, an engine in a virtual machine) nothing is found, and nothing done.
 */

const hangupGraceMs = 1_000;
const pollMs = 25;

export interface Process {
  readonly pid: number;
  readonly parent: number;
  readonly session: number;
  /** In clock ticks since the machine started: together with the number it names a process for ever. */
  readonly started: string;
}

/** A process as it was found; the number alone may be another's later. */
export interface Leader extends Process {
  /** PID namespace of its container. */
  readonly namespace: string;
}

/**
 * Looks at a process while it runs. Undefined: it has ended, or is not in the container, or /proc does not show it.
 *
 * @param pid of the process, as the node sees it
 * @param containerPid of the container's first process
 */
export async function findLeader(pid: number, containerPid: number): Promise<Leader | undefined> {
  const namespace = await namespaceOf(containerPid);
  if (!namespace || namespace === (await namespaceOf(process.pid)) || pid === containerPid) return undefined;
  const found = await read(pid);
  return found && (await namespaceOf(pid)) === namespace ? { ...found, namespace } : undefined;
}

/** Hangs up on a process, its descendants and its session, and kills those that are left after a second. */
export async function endProcessTree(leader: Leader): Promise<void> {
  const { pid, namespace, started } = leader;
  const inContainer = async (one: Process) =>
    (await namespaceOf(one.pid)) === namespace && (await read(one.pid))?.started === one.started;

  const targets = new Map<string, Process>();
  const collect = async () => {
    const all = await processes();
    // Its number is another's by now, so what it left behind cannot be told any more.
    if (all.some((one) => one.pid === pid && one.started !== started)) return;
    for (const one of treeOf(pid, [...targets.values()], all)) targets.set(`${one.pid} ${one.started}`, one);
  };
  const signal = async (name: 'SIGHUP' | 'SIGKILL') => {
    let alive = 0;
    for (const one of targets.values()) {
      if (!(await inContainer(one))) continue;
      alive += 1;
      kill(one.pid, name);
      // What is stopped cannot hang up.
      if (name === 'SIGHUP') kill(one.pid, 'SIGCONT');
    }
    return alive;
  };

  await collect();
  await signal('SIGHUP');
  const until = Date.now() + hangupGraceMs;
  while (Date.now() < until) {
    const alive = await Promise.all([...targets.values()].map(inContainer));
    if (!alive.some(Boolean)) return;
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
  // A process may fork while it is being killed.
  for (let round = 0; round < 5; round += 1) {
    await collect();
    if ((await signal('SIGKILL')) === 0) return;
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}

/** One that is gone already is no error. */
export function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // Gone by itself.
  }
}

/** The process, what descends from it or from one that is known to, and what is in its session. */
function treeOf(pid: number, known: readonly Process[], all: readonly Process[]): Process[] {
  const wanted = new Set([pid, ...known.map((one) => one.pid)]);
  const found = new Map<number, Process>();
  for (let before = -1; before !== found.size; ) {
    before = found.size;
    for (const one of all) {
      if (found.has(one.pid)) continue;
      if (one.pid === pid || one.session === pid || wanted.has(one.parent)) {
        found.set(one.pid, one);
        wanted.add(one.pid);
      }
    }
  }
  return [...found.values()];
}

/** All that /proc shows, without those that have ended. */
export async function processes(): Promise<Process[]> {
  const found: Process[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const one = await read(Number(name));
    if (one) found.push(one);
  }
  return found;
}

async function read(pid: number): Promise<Process | undefined> {
  let stat: string;
  try {
    stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  // The name is in brackets, and may hold anything.
  const [state, parent, , session, ...rest] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  // Fields 1 to 6 are gone from `rest`, which begins with the seventh; the start time is the 22nd.
  const started = rest[15];
  if (state === undefined || state === 'Z' || state === 'X' || started === undefined) return undefined;
  return { pid, parent: Number(parent), session: Number(session), started };
}

async function namespaceOf(pid: number): Promise<string | undefined> {
  try {
    return await readlink(`/proc/${pid}/ns/pid`);
  } catch {
    return undefined;
  }
}
