import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import test from 'ava';
import { root, run } from './harness/program.ts';
import { temporaryFolder } from './harness/temporary_folder.ts';
import { until } from './harness/until.ts';

/** What the runner does with tests that hang, leak or take too long: in a checkout of its own, with tests made for it. */

const passing = `test('passes', (t) => t.pass());`;
/** Leaves a process that heeds no TERM, and whose output is the test's. */
const leaking = `
test('leaks', async (t) => {
  const shell = spawn('sh', ['-c', 'trap "" TERM; echo up; while :; do sleep 1; done'], { stdio: ['ignore', 'pipe', 'inherit'], detached: true });
  await once(shell.stdout, 'data');
  writeFileSync(process.env.LEFT_FILE, JSON.stringify({ pid: shell.pid, dir: process.env.TMPDIR }));
  shell.stdout.destroy();
  shell.unref();
  t.pass();
});`;
const hanging = `test('hangs', () => new Promise((resolve) => setTimeout(resolve, 1e6)));`;

interface Result {
  readonly code: number | null;
  readonly output: string;
  readonly counts: unknown;
  readonly left: { readonly pid: number; readonly dir: string } | undefined;
  /** What was below the temporary folder at the end. */
  readonly temporary: readonly string[];
}

/** Runs the runner on one test file that says this. */
async function runner(body: string, ...args: string[]): Promise<Result> {
  await using folder = await temporaryFolder('run');
  const file = (...names: string[]) => path.join(folder.path, ...names);
  await Promise.all([
    mkdir(file('test')),
    mkdir(file('tmp')),
    symlink(path.join(root, 'node_modules'), file('node_modules')),
  ]);
  for (const name of ['run.ts', 'leftovers.ts']) await cp(path.join(root, 'test', name), file('test', name));
  const settings = {
    extensions: { ts: 'module' },
    workerThreads: false,
    files: ['test/*.test.ts'],
    timeout: '3s',
    cache: false,
  };
  await writeFile(file('package.json'), JSON.stringify({ type: 'module', ava: settings }));
  await writeFile(
    file('test', 'made.test.ts'),
    `import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import test from 'ava';
${body}
export const used = [spawn, once, readFileSync, writeFileSync];
`,
  );
  const outcome = await run(
    [process.execPath, file('test', 'run.ts'), '--counts', file('counts'), ...args, 'test/made.test.ts'],
    {
      cwd: folder.path,
      env: { TMPDIR: file('tmp'), LEFT_FILE: file('left') },
      timeoutMs: 60_000,
    },
  );
  return {
    code: outcome.code,
    output: outcome.stdout + outcome.stderr,
    counts: JSON.parse(await readFile(file('counts'), 'utf8')),
    left: await readFile(file('left'), 'utf8').then(JSON.parse, () => undefined),
    temporary: await readdir(file('tmp')),
  };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

test('a file that hangs is ended with all that it started, and counted as it was', async (t) => {
  const stranger = spawn('sleep', ['100'], { stdio: 'ignore' });
  await once(stranger, 'spawn');
  const result = await runner(passing + leaking + hanging);
  t.is(result.code, 1, result.output);
  t.deepEqual(result.counts, { passed: 2, failed: 1, skipped: 0 }, result.output);
  t.regex(result.output, /^run: tests left behind, and it was ended: .*sh/m);
  t.truthy(result.left?.pid);
  await until('it is gone', () => !isAlive(result.left?.pid ?? 0));
  t.deepEqual(result.temporary, []);
  t.true(isAlive(stranger.pid ?? 0));
  stranger.kill();
});

test('what tests leave that all passed is a failure', async (t) => {
  const { code, counts, output, temporary } = await runner(passing + leaking);
  t.is(code, 1, output);
  t.deepEqual(counts, { passed: 2, failed: 1, skipped: 0 }, output);
  t.deepEqual(temporary, []);
});

test('tests that clean up pass without a word', async (t) => {
  const { code, counts, output, temporary } = await runner(passing);
  t.is(code, 0, output);
  t.deepEqual(counts, { passed: 1, failed: 0, skipped: 0 });
  t.notRegex(output, /^run:/m);
  t.deepEqual(temporary, []);
});

test('a run that is told to end says so, and what passed until then is counted', async (t) => {
  // Its runner is the parent of AVA, which is the parent of the test.
  const ending = `
test('ends', async (t) => {
  t.timeout(60_000);
  const [, , , runner] = readFileSync(\`/proc/\${process.ppid}/stat\`, 'utf8').split(' ');
  process.kill(Number(runner), 'SIGTERM');
  await new Promise((resolve) => setTimeout(resolve, 1e6));
});`;
  const { code, counts, output } = await runner(`${passing.replace('test(', 'test.serial(')}${ending}`);
  t.is(code, 1, output);
  t.regex(output, /^run: SIGTERM came/m);
  t.deepEqual(counts, { passed: 1, failed: 1, skipped: 0 }, output);
});

test('at its limit a run ends', async (t) => {
  const { code, counts, output } = await runner(
    `test('slow', (t) => { t.timeout(60_000); return new Promise((resolve) => setTimeout(resolve, 1e6)); });`,
    '--limit',
    '0.04',
  );
  t.is(code, 1, output);
  t.regex(output, /^run: the limit of 0.04 minutes is reached/m);
  t.deepEqual(counts, { passed: 0, failed: 1, skipped: 0 }, output);
});
