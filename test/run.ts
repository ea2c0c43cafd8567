import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { stripVTControlCharacters } from 'node:util';
import { beginTestRun, idle, removeLeftovers, type TestRun } from './leftovers.ts';

/**
 * Runs the tests: `node test/run.ts [--counts FILE] [--limit MINUTES] [unit | clusters | system | FILE…]`; without a choice, one of these after the other.
 * Units lie beside the code and run six files at a time, as half of them wait, with a young generation in which a file that runs for a second
 * collects nothing. Tests on a cluster of their own, and properties, run two at a time; so do system tests, in `test/`, which start all kinds of
 * servers and engines, of which each is theirs alone, and those of whole programs.
 * Output is AVA's own. `--counts FILE` writes there what AVA counted, as JSON, whatever happened: an AVA that ended without its summary counts
 * as one failure. After `--limit` minutes (default 40) all of it is ended, and what did not come to run counts as one failure.
 *
 * What tests leave behind is ended and removed, and said in one line. After tests that all passed it is a failure: they did not clean up.
 */

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

const root = path.resolve(import.meta.dirname, '..');
/** Beside the code, but of a whole cluster or engine. */
const clusterTests = 'agent/**/*_kubernetes*.test.ts';
const engineTests = 'agent/**/*docker*.test.ts';
/** Beside the code, but of seconds of random inputs. */
const propertyTests = '{agent,control-plane}/**/*_property.test.ts';
/** Of programs as they are started, dozens of times: of this one, and of bayctl. */
const programTests = '{test/run,cli/main}.test.ts';
const not = (pattern: string): string => `!${pattern}`;
const suites: Record<string, readonly string[]> = {
  unit: [
    '--concurrency=6',
    '--node-arguments=--min-semi-space-size=16 --max-semi-space-size=32',
    '{proto,control-plane,agent,cli}/**/*.test.ts',
    'test/*.test.ts',
    ...[clusterTests, engineTests, propertyTests, programTests].map(not),
  ],
  clusters: ['--concurrency=2', clusterTests, propertyTests],
  system: ['--concurrency=2', 'test/*/**/*.test.ts', engineTests, programTests],
};

/** For AVA to say what it was at, once it is told to end. */
const lastWordsMs = 15_000;

const args = process.argv.slice(2);
const countsFile = takeValue('--counts');
const limitMinutes = Number(takeValue('--limit') ?? 40);
if (!(limitMinutes > 0)) throw new Error('--limit: expected a number of minutes');
const chosen = args.length > 0 && args.every((arg) => arg in suites) ? args : undefined;
const runs =
  chosen || args.length === 0
    ? (chosen ?? Object.keys(suites)).map((name) => suites[name] ?? [])
    : [['--concurrency=1', ...args]];

/** Why the tests are to end before their time. */
const ending = new AbortController();
const limit = setTimeout(() => ending.abort(`the limit of ${limitMinutes} minutes is reached`), limitMinutes * 60_000);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => ending.abort(`${signal} came`));

const total: Counts = { passed: 0, failed: 0, skipped: 0 };
let exitCode = 0;
for (const run of runs) {
  if (ending.signal.aborted) {
    console.log(`run: ${ending.signal.reason}: the tests after that did not run`);
    total.failed += 1;
    exitCode ||= 1;
    break;
  }
  const testRun = await beginTestRun();
  const { counts, code, left } = await ava(run, testRun);
  const leaked = left.length > 0 && code === 0 && counts.failed === 0;
  if (left.length > 0) console.log(`run: tests left behind, and it was ended: ${left.join(', ')}`);
  total.passed += counts.passed;
  total.failed += counts.failed + (leaked ? 1 : 0);
  total.skipped += counts.skipped;
  exitCode ||= code || (counts.failed > 0 || leaked ? 1 : 0);
}
clearTimeout(limit);
if (countsFile) writeFileSync(countsFile, JSON.stringify(total));
// Not left to the event loop: a pipe may be held open by what could not be ended.
process.exit(exitCode);

/** One run of AVA, its output passed on as it comes. Then what it left is removed. */
async function ava(
  avaArgs: readonly string[],
  testRun: TestRun,
): Promise<{ counts: Counts; code: number; left: string[] }> {
  const entry = path.join(root, 'node_modules', 'ava', 'entrypoints', 'cli.mjs');
  const child = spawn(process.execPath, [entry, ...avaArgs], {
    cwd: root,
    env: {
      ...process.env,
      ...testRun.env,
      // Some hundred processes read the same modules.
      NODE_COMPILE_CACHE: path.join(root, 'node_modules', '.cache', 'compile'),
      // Programs that a test starts by name are the pinned ones.
      PATH: `${path.join(root, 'node_modules', '.bin')}${path.delimiter}${process.env.PATH ?? ''}`,
      // On a Linux console AVA would draw other marks.
      ...(countsFile ? { TERM: 'dumb' } : {}),
    },
    stdio: ['ignore', countsFile ? 'pipe' : 'inherit', 'inherit'],
  });
  let late: NodeJS.Timeout | undefined;
  const end = () => {
    console.log(`run: ${ending.signal.reason}: ending the tests`);
    // At this signal AVA reports what it has.
    child.kill('SIGINT');
    late = setTimeout(() => child.kill('SIGKILL'), lastWordsMs);
  };
  ending.signal.addEventListener('abort', end, { once: true });
  const lines: string[] = [];
  if (child.stdout) {
    child.stdout.pipe(process.stdout, { end: false });
    createInterface({ input: child.stdout }).on('line', (line) => lines.push(stripVTControlCharacters(line)));
  }
  const closed = once(child, 'close').then(() => undefined);
  const exited = new AbortController();
  const left: string[] = [];
  const waiting = idle(child.pid ?? 0, exited.signal).then(async () => {
    // It has run all, and waits for what holds a test's output open.
    if (!exited.signal.aborted) left.push(...(await removeLeftovers(testRun, { graceMs: 0, except: child.pid })));
  });
  const status = await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (exit) => resolve(exit ?? 1));
  });
  ending.signal.removeEventListener('abort', end);
  clearTimeout(late);
  exited.abort();
  await waiting;
  left.push(...(await removeLeftovers(testRun)));
  // Its output may have been held open by what it left.
  await Promise.race([closed, delay(5_000, undefined, { ref: false })]);
  const code = status || (ending.signal.aborted ? 1 : 0);
  return { counts: count(lines, code), code, left };
}

/**
 * What AVA counted. Its summary is silent about what passed when something failed: then the marks that it sets, one for each test, are
 * counted. A run that ended badly has failed, also when no test of it has. (Its TAP output would be simpler to read, but breaks off where a test
 * hangs.)
 */
function count(lines: readonly string[], code: number): Counts {
  // The rule between what happened and the report; errors in the report may quote whatever they like.
  const rule = lines.findIndex((line) => /^ {2}[─-]$/.test(line));
  const marks = rule < 0 ? lines : lines.slice(0, rule);
  const marked = (mark: RegExp) => marks.filter((line) => mark.test(line)).length;
  const failures = ['tests? failed', 'hooks? failed', 'unhandled rejections?', 'uncaught exceptions?'];
  const pending = 'tests? remained pending after a timeout';
  const failed = [...failures, pending].reduce((sum, what) => sum + inSummary(lines, what), 0);
  return {
    passed: inSummary(lines, 'tests? passed') || marked(/^ {2}✔ /),
    failed: code === 0 ? failed : Math.max(1, failed),
    skipped: inSummary(lines, 'tests? skipped'),
  };
}

/** The number before these words, in the summary: among the last lines, each a number and what it counts. */
function inSummary(lines: readonly string[], what: string): number {
  const pattern = new RegExp(`^ {2}(\\d+) ${what}(?: \\[.*\\])?$`);
  const last = lines.findLastIndex((line) => /^ {2}[─-]$/.test(line));
  if (last < 0) return 0;
  return Number(
    lines
      .slice(last)
      .flatMap((line) => pattern.exec(line)?.[1] ?? [])
      .at(-1) ?? 0,
  );
}

function takeValue(flag: string): string | undefined {
  const index = args.indexOf(flag);
  return index < 0 ? undefined : args.splice(index, 2)[1];
}
