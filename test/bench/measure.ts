import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { promisify } from 'node:util';
import { temporaryFolder } from '../harness/temporary_folder.ts';

/** One line of the results. */
export interface Row {
  readonly what: string;
  readonly measured: string;
  /** What was to be reached, when anything was. */
  readonly target: string;
}

const run = promisify(execFile);

/** The value below which `fraction` of the values lie. */
export function percentile(sorted: readonly number[], fraction: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * fraction))] ?? Number.NaN;
}

export const ms = (value: number): string => `${value.toFixed(value < 10 ? 2 : 0)} ms`;

/** Resident memory of a process, in MB (10^6 bytes). */
export async function residentMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return (Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024) / 1e6;
}

/** Processor time that a process has used, in seconds. */
export async function cpuSeconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  // Clock ticks are hundredths of a second on Linux.
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

export async function machine(): Promise<string> {
  const kernel = (await run('uname', ['-sr'])).stdout.trim();
  const cores = cpus();
  const memory = Math.round(totalmem() / 2 ** 30);
  return `${cores.length} × ${cores[0]?.model.trim()}, ${memory} GiB, ${kernel}, Node.js ${process.version}`;
}

/** What a load generator saw. */
export interface Load {
  readonly perSecond: number;
  readonly sortedMs: readonly number[];
  readonly failed: number;
}

export interface LoadOptions {
  readonly url: string;
  readonly body: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
  readonly callers: number;
  readonly seconds: number;
}

/** Sends the same request over and over by h2load, which runs on the same machine, each caller with one request at a time. */
export async function h2load(options: LoadOptions): Promise<Load> {
  await using folder = await temporaryFolder('h2load');
  const bodyFile = path.join(folder.path, 'body');
  const logFile = path.join(folder.path, 'log');
  await writeFile(bodyFile, options.body);
  const headers = Object.entries(options.headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`]);
  await run(
    'h2load',
    [
      '-c',
      `${options.callers}`,
      '-m',
      '1',
      '-D',
      `${options.seconds}`,
      '--warm-up-time',
      '2',
      '-d',
      bodyFile,
      '--log-file',
      logFile,
      ...headers,
      options.url,
    ],
    { maxBuffer: 64 * 2 ** 20 },
  ).catch((error: unknown) => {
    throw new Error('h2load failed: it is in the Debian package nghttp2-client', { cause: error });
  });
  const lines = (await readFile(logFile, 'utf8')).trim().split('\n');
  const entries = lines.map((line) => line.split('\t').map(Number));
  const good = entries.filter(([, status]) => status === 200);
  const starts = good.map(([start]) => start ?? 0);
  const spanSeconds =
    (starts.reduce((a, b) => Math.max(a, b), 0) - starts.reduce((a, b) => Math.min(a, b), Infinity)) / 1e6;
  return {
    perSecond: good.length / spanSeconds,
    sortedMs: good.map(([, , time]) => (time ?? 0) / 1000).sort((a, b) => a - b),
    failed: entries.length - good.length,
  };
}

/** The rate and latencies of a load, as a row. */
export function loadRow(what: string, load: Load, target: string): Row {
  const failed = load.failed > 0 ? `, ${load.failed} failed` : '';
  const measured = `${Math.round(load.perSecond)}/s, median ${ms(percentile(load.sortedMs, 0.5))}, p99 ${ms(percentile(load.sortedMs, 0.99))}${failed}`;
  return { what, measured, target };
}
