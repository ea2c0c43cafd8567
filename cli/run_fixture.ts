import { PassThrough, Readable, Writable } from 'node:stream';
import { type ControlPlaneFixture, fixtureToken } from './control_plane_fixture.ts';
import type { InputStream, Io, OutputStream } from './io.ts';
import { run } from './program.ts';

/** What a run left. */
export interface RunResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly status: number;
}

/** How a test runs a command line. */
export interface RunOptions {
  readonly stdin?: string | Uint8Array;
  readonly env?: Record<string, string>;
  /** Columns of the terminal that stdout shall look like; unset: it is none. */
  readonly columns?: number;
  readonly home?: string;
  readonly signal?: AbortSignal;
  /** Default: the time of day. */
  readonly nowMs?: () => number;
  /** Sees stdout as it comes. */
  readonly onStdout?: (text: string) => void;
}

/** An Io that keeps what is written. */
export function captureIo(options: RunOptions = {}): Io & { text(stream: 'stdout' | 'stderr'): string } {
  const kept = { stdout: '', stderr: '' };
  const output = (name: 'stdout' | 'stderr'): OutputStream => {
    const stream = new Writable({
      write(chunk: Buffer, _encoding, done) {
        kept[name] += chunk.toString('utf8');
        if (name === 'stdout') options.onStdout?.(kept.stdout);
        done();
      },
    });
    return Object.assign(
      stream,
      options.columns === undefined ? {} : { isTTY: true, columns: options.columns, rows: 24 },
    );
  };
  const stdin: InputStream =
    options.stdin === undefined ? new PassThrough() : Readable.from([Buffer.from(options.stdin)]);
  return {
    stdin,
    stdout: output('stdout'),
    stderr: output('stderr'),
    env: options.env ?? {},
    home: options.home ?? '/nonexistent',
    nowMs: options.nowMs ?? Date.now,
    signal: options.signal ?? new AbortController().signal,
    atExit: () => () => {},
    endWithReader: () => {},
    text: (stream) => kept[stream],
  };
}

/** Runs a command line in this process against a fixture (or none). */
export async function bayctl(
  plane: ControlPlaneFixture | undefined,
  argv: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const env: Record<string, string> = plane ? { BAYKEEPER_SERVER: plane.url, BAYKEEPER_TOKEN: fixtureToken } : {};
  const io = captureIo({ ...options, env: { ...env, ...options.env } });
  const status = await run(argv, io);
  return { stdout: io.text('stdout'), stderr: io.text('stderr'), status };
}

/** What the last call of the fixture was given. */
export function lastInput<T>(plane: ControlPlaneFixture): T {
  const last = plane.calls.at(-1);
  if (!last) throw new Error('there was no call');
  return last.input as T;
}
