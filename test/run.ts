import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { stripVTControlCharacters } from 'node:util';

/**
 * Runs the tests: `node test/run.ts [--counts FILE] [unit | system | FILE…]`; without a choice, unit and then system. Units lie beside
 * the code and run two files at a time; system tests, in `test/`, start servers and engines, and run one after the other.
 * Output is AVA's own. `--counts FILE` writes there what AVA counted, as JSON, whatever happened: an AVA that ended without its summary counts
 * as one failure.
 */

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

const root = path.resolve(import.meta.dirname, '..');
/** Beside the code, but of a whole engine. */
const engineTests = 'agent/**/*docker*.test.ts';
const suites: Record<string, readonly string[]> = {
  unit: ['--concurrency=2', '{proto,control-plane,agent,cli}/**/*.test.ts', 'test/*.test.ts', `!${engineTests}`],
  system: ['--concurrency=1', '--serial', 'test/*/**/*.test.ts', engineTests],
};

const args = process.argv.slice(2);
const countsFile = takeValue('--counts');
const chosen = args.length > 0 && args.every((arg) => arg in suites) ? args : undefined;
const runs =
  chosen || args.length === 0
    ? (chosen ?? Object.keys(suites)).map((name) => suites[name] ?? [])
    : [['--concurrency=1', ...args]];

const total: Counts = { passed: 0, failed: 0, skipped: 0 };
let exitCode = 0;
for (const run of runs) {
  const { counts, code } = await ava(run);
  total.passed += counts.passed;
  total.failed += counts.failed;
  total.skipped += counts.skipped;
  exitCode ||= code || (counts.failed > 0 ? 1 : 0);
}
if (countsFile) writeFileSync(countsFile, JSON.stringify(total));
process.exitCode = exitCode;

/** One run of AVA, its output passed on as it comes. */
async function ava(avaArgs: readonly string[]): Promise<{ counts: Counts; code: number }> {
  const entry = path.join(root, 'node_modules', 'ava', 'entrypoints', 'cli.mjs');
  const child = spawn(process.execPath, [entry, ...avaArgs], {
    cwd: root,
    env: {
      ...process.env,
      // Programs that a test starts by name are the pinned ones.
      PATH: `${path.join(root, 'node_modules', '.bin')}${path.delimiter}${process.env.PATH ?? ''}`,
      // On a Linux console AVA would draw other marks.
      ...(countsFile ? { TERM: 'dumb' } : {}),
    },
    stdio: ['ignore', countsFile ? 'pipe' : 'inherit', 'inherit'],
  });
  const forward = (signal: NodeJS.Signals) => child.kill(signal);
  process.on('SIGTERM', forward);
  const lines: string[] = [];
  if (child.stdout) {
    child.stdout.pipe(process.stdout, { end: false });
    createInterface({ input: child.stdout }).on('line', (line) => lines.push(stripVTControlCharacters(line)));
  }
  const code = await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status) => resolve(status ?? 1));
  });
  process.off('SIGTERM', forward);
  return { counts: count(lines, code), code };
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
