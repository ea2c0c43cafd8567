import { CliError, exitStatus } from './errors.ts';
import { InputQueue } from './input_queue.ts';
import { type Io, write } from './io.ts';
import type { Session } from './session.ts';

/** Columns and rows of a terminal. */
export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** What is sent to a command that runs, in the words that all calls of this sort share. */
export type ExecInput<Start> =
  | { readonly case: 'start'; readonly value: Start }
  | { readonly case: 'stdin'; readonly value: Uint8Array<ArrayBuffer> }
  | { readonly case: 'stdinEnd'; readonly value: boolean }
  | { readonly case: 'resize'; readonly value: TerminalSize };

/** What comes back. */
export interface ExecOutput {
  readonly output:
    | { readonly case: 'stdout' | 'stderr'; readonly value: Uint8Array }
    | { readonly case: 'exitCode'; readonly value: number }
    | { readonly case: undefined };
}

/** What the user asked for. */
export interface ExecFlags {
  readonly stdin?: boolean;
  readonly tty?: boolean;
}

/** What of a start depends on the terminal. */
export interface TerminalStart {
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly terminalSize?: TerminalSize;
}

/** A call that runs a command. */
export interface ExecCall<Start> {
  start(terminal: TerminalStart): Start;
  open(inputs: AsyncIterable<ExecInput<Start>>): AsyncIterable<ExecOutput>;
}

/**
 * Runs a command, with this terminal as its terminal where that is asked for and there is one, and resolves with its exit status. The terminal
 * is given back however it ends.
 */
export async function runCommand<Start>(session: Session, flags: ExecFlags, call: ExecCall<Start>): Promise<number> {
  const { io } = session;
  const withInput = flags.stdin === true;
  let tty = flags.tty === true;
  if (tty && !(withInput ? io.stdin.isTTY : io.stdout.isTTY)) {
    await session.err('bayctl: there is no terminal here to hand on; going on without -t\n');
    tty = false;
  }
  const inputs = new InputQueue<ExecInput<Start>>();
  const start = call.start({ tty, stdin: withInput, ...(tty ? { terminalSize: size(io) } : {}) });
  inputs.push({ case: 'start', value: start });
  const restore = tty && withInput ? rawMode(io) : () => {};
  const onResize = (): void => inputs.push({ case: 'resize', value: size(io) });
  if (tty) io.stdout.on('resize', onResize);
  const stopInput = withInput ? pump(io, inputs) : () => {};
  if (!withInput && !tty) inputs.end();
  try {
    return await receive(io, call.open(inputs));
  } finally {
    stopInput();
    io.stdout.off('resize', onResize);
    inputs.end();
    restore();
  }
}

/** Writes what the command writes, until it ends. */
async function receive({ stdout, stderr }: Io, outputs: AsyncIterable<ExecOutput>): Promise<number> {
  for await (const { output } of outputs) {
    if (output.case === 'stdout') await write(stdout, output.value);
    else if (output.case === 'stderr') await write(stderr, output.value);
    // 256 and more would be cut to their last byte, and look like success.
    else if (output.case === 'exitCode')
      return output.value >= 0 && output.value <= 255 ? output.value : exitStatus.failed;
  }
  throw new CliError('the command ended, and nobody said with which exit status', exitStatus.unavailable);
}

/** Hands stdin on, no faster than it is taken. Returns what ends it. */
function pump<Start>(io: Io, inputs: InputQueue<ExecInput<Start>>): () => void {
  const { stdin } = io;
  const onData = (chunk: Uint8Array): void => {
    inputs.push({ case: 'stdin', value: new Uint8Array(chunk) });
    if (inputs.size >= 8) {
      stdin.pause();
      inputs.whenTaken(() => stdin.resume());
    }
  };
  const onEnd = (): void => inputs.push({ case: 'stdinEnd', value: true });
  stdin.on('data', onData);
  stdin.once('end', onEnd);
  stdin.once('error', onEnd);
  return () => {
    stdin.off('data', onData);
    stdin.off('end', onEnd);
    stdin.off('error', onEnd);
    stdin.pause();
  };
}

/** Every key goes to the command. Returns what gives the terminal back, which also happens when the program ends. */
function rawMode(io: Io): () => void {
  io.stdin.setRawMode?.(true);
  let raw = true;
  const undo = (): void => {
    if (raw) io.stdin.setRawMode?.(false);
    raw = false;
  };
  const release = io.atExit(undo);
  return () => {
    release();
    undo();
  };
}

function size(io: Io): TerminalSize {
  return { columns: io.stdout.columns || 80, rows: io.stdout.rows || 24 };
}
