import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { globSync } from 'node:fs';
import { mkdir, readdir, readFile, readlink, realpath, rm, rmdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

/** In the environment of all that a run of the tests starts: the id of the run. What does not bear it is never touched. */
export const runVariable = 'BAYKEEPER_TEST_RUN';

/** What a bridge that a test of this run makes has as its alias: interfaces have no environment. */
export const bridgeAlias = (runId: string): string => `baykeeper-test-${runId}`;

/** A run of the tests: what it starts bears its id, and has its temporary files in one folder. */
export interface TestRun {
  readonly id: string;
  /** The folder for temporary files. */
  readonly dir: string;
  /** To be set for what the run starts. */
  readonly env: Readonly<Record<string, string>>;
}

export interface RemoveOptions {
  /** For what is just about to end by itself, and so is not left behind. Default 2 s. */
  readonly graceMs?: number;
  /** Between TERM and KILL. Default 4 s. */
  readonly termMs?: number;
  /** A process to be spared: AVA itself, while it waits for what its tests left. */
  readonly except?: number;
}

const exec = promisify(execFile);
const folderPrefix = 'baykeeper-test-';
const ownerFile = 'owner.json';

/** Begins a run. Removes what runs have left before that were killed themselves. */
export async function beginTestRun(): Promise<TestRun> {
  const temporary = await realpath(tmpdir());
  for (const name of await readdir(temporary)) {
    const id = name.startsWith(folderPrefix) ? name.slice(folderPrefix.length) : '';
    if (/^[0-9a-f]{8}$/.test(id) && (await isOrphan(path.join(temporary, name))))
      await removeLeftovers(testRun(id, temporary), { graceMs: 0 });
  }
  const run = testRun(randomBytes(4).toString('hex'), temporary);
  await mkdir(run.dir, { mode: 0o700 });
  await writeFile(path.join(run.dir, ownerFile), JSON.stringify(await owner(process.pid)));
  return run;
}

/**
 * Ends every process that bears the run's id, and removes its containers, mounts, bridges and temporary files. Returns what had to be ended and
 * removed besides files, in words: nothing, after tests that clean up behind them.
 */
export async function removeLeftovers(run: TestRun, options: RemoveOptions = {}): Promise<string[]> {
  const found = [...(await endProcesses(run, options)), ...(await removeContainers(run.dir))];
  const [mounts, bridges] = [await unmountBelow(run.dir), await removeBridges(bridgeAlias(run.id))];
  if (mounts > 0) found.push(counted(mounts, 'mount'));
  if (bridges.length > 0) found.push(counted(bridges.length, 'bridge'));
  // A kubelet names the cgroup of its pods after its engine's bridge.
  const cgroups = await Promise.all(bridges.map(removeCgroupTree));
  if (cgroups.some(Boolean)) found.push('cgroups of pods');
  await rm(run.dir, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  return found;
}

/**
 * Resolves when a process has ended all that it started, and has started nothing since for three seconds. AVA is such a one at its end when a
 * process that a test left holds the test's output open: it waits for that, for ever.
 */
export async function idle(pid: number, signal: AbortSignal): Promise<void> {
  let [busy, sinceMs] = [false, performance.now()];
  while (!signal.aborted) {
    const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
    if (children.trim() !== '') [busy, sinceMs] = [true, performance.now()];
    if (busy && performance.now() - sinceMs > 3_000) return;
    await delay(100, undefined, { signal }).catch(() => undefined);
  }
}

function testRun(id: string, temporary: string): TestRun {
  // Short: the paths of sockets have room for a hundred characters.
  const dir = path.join(temporary, `${folderPrefix}${id}`);
  return { id, dir, env: { [runVariable]: id, TMPDIR: dir } };
}

/** Who runs the tests, so that nobody else with its number is taken for it. */
async function owner(pid: number): Promise<{ pid: number; started: string; namespace: string }> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  const started = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  return { pid, started, namespace: await readlink('/proc/self/ns/pid') };
}

async function isOrphan(dir: string): Promise<boolean> {
  try {
    const said = JSON.parse(await readFile(path.join(dir, ownerFile), 'utf8')) as Awaited<ReturnType<typeof owner>>;
    const now = await owner(said.pid);
    return said.namespace === now.namespace && said.started !== now.started;
  } catch {
    // Half made, or just being removed: not ours to judge.
    return false;
  }
}

interface Marked {
  readonly pid: number;
  readonly name: string;
}

async function endProcesses(
  run: TestRun,
  { graceMs = 2_000, termMs = 4_000, except }: RemoveOptions,
): Promise<string[]> {
  const graceUntil = performance.now() + graceMs;
  while ((await marked(run.id, except)).length > 0 && performance.now() < graceUntil) await delay(50);
  const ended = new Map<number, string>();
  // One that restarts what it looks after gives new ones as long as it lives.
  for (const [signal, lastsMs] of [['SIGTERM', termMs] as const, ['SIGKILL', 10_000] as const]) {
    const untilMs = performance.now() + lastsMs;
    const told = new Set<number>();
    for (;;) {
      const left = await marked(run.id, except);
      if (left.length === 0) return summary([...ended.values()]);
      for (const { pid, name } of left) {
        ended.set(pid, name);
        if (!told.has(pid)) kill(pid, signal);
        told.add(pid);
      }
      if (performance.now() > untilMs) break;
      await delay(50);
    }
  }
  return [...summary([...ended.values()]), 'some of them do not end'];
}

async function marked(runId: string, except: number | undefined): Promise<Marked[]> {
  const pids = (await readdir('/proc')).filter(
    (name) => /^\d+$/.test(name) && Number(name) !== process.pid && Number(name) !== except,
  );
  const all = await Promise.all(
    pids.map(async (pid) => {
      // Empty for those that have ended, and refused for those of others.
      const environment = await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '');
      if (!environment.split('\0').includes(`${runVariable}=${runId}`)) return [];
      const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
      return [{ pid: Number(pid), name: name.trim() }];
    }),
  );
  return all.flat();
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It ended by itself in between.
  }
}

/** What runs in containers has an environment of its own: runc knows it by its state, which is among the run's files. */
async function removeContainers(dir: string): Promise<string[]> {
  const states = globSync('{*,*/*,*/*/*}/runtime-*/moby/*/state.json', { cwd: dir });
  for (const state of states) {
    const folder = path.join(dir, path.dirname(state));
    const args = ['--root', path.dirname(folder), 'delete', '--force', path.basename(folder)];
    await exec('runc', args).catch((error: Error) => process.stderr.write(`run: ${error.message.trim()}\n`));
  }
  return states.length > 0 ? [counted(states.length, 'container')] : [];
}

/** Returns how many there were. */
async function unmountBelow(dir: string): Promise<number> {
  let first: number | undefined;
  for (let round = 0; round < 20; round += 1) {
    const below = (await readFile('/proc/self/mounts', 'utf8'))
      .split('\n')
      .map((line) => line.split(' ')[1] ?? '')
      .filter((mount) => mount.startsWith(`${dir}/`))
      .sort((a, b) => b.length - a.length);
    first ??= below.length;
    if (below.length === 0) break;
    // One below another is gone with it.
    for (const mount of below) await exec('umount', ['-l', mount]).catch(() => undefined);
  }
  return first ?? 0;
}

/** Returns the names of those that there were. */
async function removeBridges(alias: string): Promise<string[]> {
  const removed: string[] = [];
  for (const name of await readdir('/sys/class/net').catch(() => [])) {
    const said = await readFile(`/sys/class/net/${name}/ifalias`, 'utf8').catch(() => '');
    if (said.trim() !== alias) continue;
    await exec('ip', ['link', 'delete', name]).catch((error: Error) => process.stderr.write(`run: ${error.message}\n`));
    removed.push(name);
  }
  return removed;
}

/** Removes cgroups of this name and all below them, in each hierarchy. What ran in them must have ended. Returns whether there were any. */
export async function removeCgroupTree(name: string): Promise<boolean> {
  const places = () => globSync(`/sys/fs/cgroup/{,*/}${name}`);
  const found = places().length > 0;
  // What is dying is still in one for a moment.
  for (let round = 0; round < 40 && places().length > 0; round += 1) {
    if (round > 0) await delay(50);
    const folders = places().flatMap((place) => [...globSync(`${place}/**/`), place]);
    // The deepest first: one with others in it stays, and what looks like files in them goes with them.
    const sorted = [...new Set(folders.map((folder) => path.resolve(folder)))].sort((a, b) => b.length - a.length);
    for (const folder of sorted) await rmdir(folder).catch(() => undefined);
  }
  for (const place of places()) process.stderr.write(`run: ${place} cannot be removed\n`);
  return found;
}

function summary(names: readonly string[]): string[] {
  const kinds = [...new Set(names)].sort();
  return kinds.map((kind) => {
    const count = names.filter((name) => name === kind).length;
    return count > 1 ? `${count} × ${kind}` : kind;
  });
}

const counted = (count: number, what: string) => `${count} ${what}${count > 1 ? 's' : ''}`;
