import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, statSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';

export interface ChildOptions {
  /** As people call it: `control plane`. */
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  /** Takes stderr; appended to. The child writes there itself, so that it outlives whoever started it. */
  readonly logFile: string;
  /** A line on stdout that begins so means ready. Without it, a child is ready once it runs. */
  readonly readyLine?: string;
  /** Exit codes that say that trying again changes nothing. Default none. */
  readonly finalCodes?: readonly number[];
  readonly environment: NodeJS.ProcessEnv;
  /** Called when it ended by itself, and again before each new attempt. */
  readonly say: (text: string) => void;
}

export interface ChildExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** How long a child must have run for the back-off to begin anew. */
const steadyMs = 30_000;
const backOffMs = { first: 500, most: 30_000 };

/** One process that is to run until it is told to stop: started again, with back-off, whenever it ends. */
export class Child {
  readonly #options: ChildOptions;
  #process: ChildProcess | undefined;
  #exited: Promise<ChildExit> = Promise.resolve({ code: null, signal: null });
  #stopping = new AbortController();
  #logStart = 0;
  #refusal = '';

  constructor(options: ChildOptions) {
    this.#options = options;
  }

  /** Starts it once. Resolves when it is ready; rejects with the reason from its log when it ends before, or takes longer than `timeoutMs`. */
  async start(timeoutMs: number): Promise<void> {
    const { name, command, args, logFile, readyLine, environment } = this.#options;
    const log = openSync(logFile, 'a', 0o600);
    this.#logStart = statSync(logFile).size;
    // A process group of its own: Ctrl-C reaches the supervisor alone, which ends all in the right order.
    const child = spawn(command, [...args], { detached: true, stdio: ['ignore', 'pipe', log], env: environment });
    closeSync(log);
    this.#process = child;
    this.#exited = new Promise((resolve) => {
      child.once('error', () => resolve({ code: null, signal: null }));
      child.once('exit', (code, signal) => resolve({ code, signal }));
    });
    const ready = new Promise<'ready'>((resolve) => {
      if (!readyLine) child.once('spawn', () => resolve('ready'));
      // Read to its end also without such a line: a full pipe would stop the child.
      if (!child.stdout) return;
      createInterface({ input: child.stdout }).on('line', (line) => {
        if (readyLine && line.startsWith(readyLine)) resolve('ready');
      });
    });
    const timer = new AbortController();
    const late = delay(timeoutMs, 'late' as const, { signal: timer.signal }).catch(() => 'late' as const);
    const first = await Promise.race([ready, late, this.#exited]);
    timer.abort();
    if (first === 'ready') return;
    const reason = this.lastReason();
    if (first === 'late') {
      await this.#end(5_000);
      throw new Error(`the ${name} was not ready within ${timeoutMs / 1000} s${reason ? `: ${reason}` : ''}`);
    }
    throw new Error(reason || `the ${name} ended with ${first.code ?? first.signal}`);
  }

  /** Why it ended with one of `finalCodes` when it was run last. Empty: it did not. */
  get refusal(): string {
    return this.#refusal;
  }

  /** Starts it anew whenever it ends, until `stop`. Call it once, after `start`. */
  async keepRunning(readyTimeoutMs: number): Promise<void> {
    const { name, say, finalCodes = [] } = this.#options;
    const { signal } = this.#stopping;
    let waitMs = backOffMs.first;
    let startMs = performance.now();
    while (!signal.aborted) {
      const exit = await this.#exited;
      if (signal.aborted) return;
      const isFinal = exit.code !== null && finalCodes.includes(exit.code);
      this.#refusal = isFinal ? this.lastReason() || `it ended with ${exit.code}` : '';
      if (performance.now() - startMs > steadyMs) waitMs = backOffMs.first;
      say(
        `The ${name} ended (${exit.signal ?? exit.code ?? 'could not be run'}). Starting it again in ${(waitMs / 1000).toFixed(1)} s.`,
      );
      await delay(waitMs, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return;
      waitMs = Math.min(waitMs * 2, backOffMs.most);
      startMs = performance.now();
      await this.start(readyTimeoutMs).then(
        () => say(`The ${name} runs again.`),
        (error: Error) => say(`The ${name} could not be started: ${error.message}`),
      );
    }
  }

  /** Asks it to end and waits; ends it by force after `timeoutMs`. It is not started again. */
  async stop(timeoutMs: number): Promise<void> {
    this.#stopping.abort();
    await this.#end(timeoutMs);
  }

  /** Why it ended, in its own words: the sentence it ended with, or the last error that it logged since it was started. Empty: neither. */
  lastReason(): string {
    const text = readFileSync(this.#options.logFile).subarray(this.#logStart).toString('utf8').trimEnd();
    const lines = text.split('\n').filter((line) => line !== '');
    const last = lines.at(-1) ?? '';
    if (!last.startsWith('{')) return sentenceOf(last);
    return lines.map(reasonOf).findLast((reason) => reason !== '') ?? '';
  }

  async #end(timeoutMs: number): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGTERM');
    const timer = new AbortController();
    const force = delay(timeoutMs, undefined, { signal: timer.signal }).then(
      () => child.kill('SIGKILL'),
      () => undefined,
    );
    await this.#exited;
    timer.abort();
    await force;
  }
}

/** What a program of ours says at its end, without its name. */
export const sentenceOf = (line: string): string => line.replace(/^(Error|baykeeper-agent): /, '').slice(0, 500);

/** The message of a line of the log, when it is one of an error. */
function reasonOf(line: string): string {
  let entry: unknown;
  try {
    entry = JSON.parse(line);
  } catch {
    return '';
  }
  if (typeof entry !== 'object' || entry === null) return '';
  const { level, msg, err } = entry as { level?: unknown; msg?: unknown; err?: { message?: unknown } };
  if (typeof level !== 'number' || level < 50) return '';
  return [msg, err?.message].filter((part) => typeof part === 'string' && part !== '').join(': ');
}
