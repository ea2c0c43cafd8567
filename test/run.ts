import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';

/**
 * Runs the tests: `node test/run.ts [--tap] [--counts FILE] [unit | system | FILE…]`; without a choice, unit and then system. Units lie beside
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
const suites: Record<string, readonly string[]> = {
  unit: ['--concurrency=2', '{proto,control-plane,agent,cli}/**/*.test.ts', 'test/*.test.ts'],
  system: ['--concurrency=1', '--serial', 'test/*/**/*.test.ts'],
};

const args = process.argv.slice(2);
const tap = take('--tap');
const countsFile = takeValue('--counts');
const chosen = args.length > 0 && args.every((arg) => arg in suites) ? args : undefined;
const runs =
  chosen || args.length === 0
    ? (chosen ?? Object.keys(suites)).map((name) => suites[name] ?? [])
    : [['--concurrency=1', ...args]];

const total: Counts = { passed: 0, failed: 0, skipped: 0 };
let exitCode = 0;
for (const run of runs) {
  const { counts, code } = await ava(tap || countsFile ? ['--tap', ...run] : run);
  total.passed += counts.passed;
  total.failed += counts.failed;
  total.skipped += counts.skipped;
  exitCode ||= code || (counts.failed > 0 ? 1 : 0);
}
if (countsFile) writeFileSync(countsFile, JSON.stringify(total));
process.exitCode = exitCode;

/** One run of AVA, its output passed on as it comes. */
async function ava(avaArgs: readonly string[]): Promise<{ counts: Counts; code: number }> {
  const tapOutput = avaArgs.includes('--tap');
  const entry = path.join(root, 'node_modules', 'ava', 'entrypoints', 'cli.mjs');
  const child = spawn(process.execPath, [entry, ...avaArgs], {
    cwd: root,
    // Programs that a test starts by name are the pinned ones.
    env: {
      ...process.env,
      PATH: `${path.join(root, 'node_modules', '.bin')}${path.delimiter}${process.env.PATH ?? ''}`,
    },
    stdio: ['ignore', tapOutput ? 'pipe' : 'inherit', 'inherit'],
  });
  const forward = (signal: NodeJS.Signals) => child.kill(signal);
  process.on('SIGTERM', forward);
  let tail = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    process.stdout.write(text);
    tail = `${tail}${text}`.slice(-1_000);
  });
  const code = await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status) => resolve(status ?? 1));
  });
  process.off('SIGTERM', forward);
  return { counts: tapOutput ? parseCounts(tail, code) : { passed: 0, failed: 0, skipped: 0 }, code };
}

/** The summary with which AVA's TAP output ends. A run that ended badly has failed, also when no test of it has. */
function parseCounts(tail: string, code: number): Counts {
  const summary = /\n1\.\.\d+\n# tests \d+\n# pass (\d+)\n(?:# skip (\d+)\n)?# fail (\d+)\n\s*$/.exec(tail);
  const failed = Number(summary?.[3] ?? 0);
  return {
    passed: Number(summary?.[1] ?? 0),
    failed: code !== 0 || !summary ? Math.max(1, failed) : failed,
    skipped: Number(summary?.[2] ?? 0),
  };
}

function take(flag: string): boolean {
  const index = args.indexOf(flag);
  if (index >= 0) args.splice(index, 1);
  return index >= 0;
}

function takeValue(flag: string): string | undefined {
  const index = args.indexOf(flag);
  return index < 0 ? undefined : args.splice(index, 2)[1];
}
