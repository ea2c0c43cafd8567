import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import process from 'node:process';
import { endWords, hasWords } from './last_words.ts';

/** The checkout. */
export const root = path.resolve(import.meta.dirname, '..', '..');

/** Name of a program, and its arguments. */
export type Command = readonly [string, ...string[]];

/** One of our own programs, under the Node.js that runs the tests. `file`: from the root of the checkout. */
export const ownProgram = (file: string, ...args: string[]): Command => [
  process.execPath,
  path.join(root, file),
  ...args,
];

export interface ProgramOptions {
  readonly command: Command;
  /** Resolves `start` when a line of stdout or stderr matches. Without it: as soon as it runs. The match is in `ready`. */
  readonly readyLine?: RegExp;
  /** Default 30 s. */
  readonly readyTimeoutMs?: number;
  /** Beside the environment of the tests; undefined removes one. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
}

/** A program that runs for the length of a test. Its output is kept, the last megabyte of it. */
export class Program {
  readonly #options: ProgramOptions;
  #child: ChildProcess | undefined;
  #exit: Promise<ProgramExit> = Promise.resolve({ code: null, signal: null });
  #output = '';
  /** What `readyLine` matched, at the last start. */
  ready: RegExpExecArray | undefined;

  constructor(options: ProgramOptions) {
    this.#options = options;
  }

  get pid(): number {
    if (this.#child?.pid === undefined) throw new Error('the program does not run');
    return this.#child.pid;
  }

  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Stdout and stderr of all starts so far, mixed as they came. */
  get output(): string {
    return this.#output;
  }

  /** Resolves when it ended. */
  get exit(): Promise<ProgramExit> {
    return this.#exit;
  }

  /** Starts it, also after it ended. Rejects with its output when it ends or time is up before it is ready. */
  async start(): Promise<void> {
    if (this.running) throw new Error('the program runs already');
    const { command, readyLine, readyTimeoutMs = 30_000, env, cwd } = this.#options;
    const [file, ...args] = command;
    const child = spawn(file, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    hasWords(this, { name: `${nameOf(command)} (${child.pid})`, output: () => this.#output });
    this.#exit = new Promise((resolve) => {
      child.once('error', (error) => {
        this.#take(`${error.message}\n`);
        resolve({ code: null, signal: null });
      });
      child.once('exit', (code, signal) => resolve({ code, signal }));
    });
    const ready = new Promise<true>((resolve) => {
      if (!readyLine) child.once('spawn', () => resolve(true));
      for (const stream of [child.stdout, child.stderr]) {
        let rest = '';
        stream.setEncoding('utf8').on('data', (text: string) => {
          this.#take(text);
          const lines = `${rest}${text}`.split('\n');
          rest = lines.pop() ?? '';
          for (const line of readyLine ? lines : []) {
            this.ready = readyLine?.exec(line) ?? this.ready;
            if (readyLine?.test(line)) resolve(true);
          }
        });
      }
    });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(resolve, readyTimeoutMs, 'late');
    });
    const first = await Promise.race([ready, late, this.#exit]);
    clearTimeout(timer);
    if (first === true) return;
    await this.kill();
    const what = first === 'late' ? `is not ready after ${readyTimeoutMs} ms` : `ended (${first.signal ?? first.code})`;
    throw new Error(`${nameOf(command)} ${what}; its output:\n${this.#output.slice(-4_000)}`);
  }

  /** Sends a signal, and waits for the end unless it is one that ends nothing. */
  async signal(signal: NodeJS.Signals): Promise<void> {
    this.#child?.kill(signal);
    if (signal === 'SIGSTOP' || signal === 'SIGCONT') return;
    if (this.running) await this.#exit;
    endWords(this);
  }

  /** As a crash: kill -9. */
  async kill(): Promise<void> {
    endWords(this);
    if (this.running) await this.signal('SIGKILL');
  }

  /** In order: SIGTERM, and by force after `timeoutMs` (default 20 s). Resolves to how it ended. */
  async stop(timeoutMs = 20_000): Promise<ProgramExit> {
    endWords(this);
    if (!this.running) return this.#exit;
    const force = setTimeout(() => this.#child?.kill('SIGKILL'), timeoutMs);
    this.#child?.kill('SIGCONT');
    await this.signal('SIGTERM');
    clearTimeout(force);
    return this.#exit;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop().then(() => undefined);
  }

  #take(text: string): void {
    this.#output = `${this.#output}${text}`.slice(-1_000_000);
  }
}

/** Of ours it is the file, with its folder. */
function nameOf([file, script]: Command): string {
  return file === process.execPath && script ? script.split(path.sep).slice(-2).join('/') : path.basename(file);
}

export interface ProgramExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** How a program ended that ran to its end. */
export interface Outcome extends ProgramExit {
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
  /** Default: none. */
  readonly input?: string | Uint8Array;
  /** Default 60 s; then it is killed, and the promise rejects. */
  readonly timeoutMs?: number;
}

/** Runs a program to its end. An exit code other than 0 is an outcome, not an error. */
export async function run(
  command: Command,
  { env, cwd, input, timeoutMs = 60_000 }: RunOptions = {},
): Promise<Outcome> {
  const [file, ...args] = command;
  const child = spawn(file, args, { cwd, env: { ...process.env, ...env }, stdio: ['pipe', 'pipe', 'pipe'] });
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill('SIGKILL');
  }, timeoutMs);
  const collected = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (collected.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (collected.stderr += text));
  // A program need not read its input.
  child.stdin.on('error', () => undefined);
  child.stdin.end(input);
  const exit = await new Promise<ProgramExit>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code, signal }));
  }).finally(() => clearTimeout(timer));
  if (late) {
    throw new Error(`${command.join(' ')} did not end within ${timeoutMs} ms:\n${collected.stdout}${collected.stderr}`);
  }
  return { ...exit, ...collected };
}
