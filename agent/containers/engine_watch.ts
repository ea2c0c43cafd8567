import { Backoff } from '../backoff.ts';
import { type Clock, pause } from '../clock.ts';
import type { Driver, EngineEvent, EngineInfo } from '../drivers/driver.ts';
import type { Log } from '../log.ts';

export interface EngineWatchOptions {
  readonly driver: Driver;
  readonly clock: Clock;
  readonly log: Log;
  readonly random?: () => number;
  /** From when on events are wanted. */
  readonly sinceMs: () => number;
  /** It is there (again). All that happened since `sinceMs` was passed to `onEvent` before, and nothing is missed from here on. */
  readonly onUp: () => void;
  readonly onDown: () => void;
  readonly onEvent: (event: EngineEvent) => void;
}

/** Keeps hold of an engine that comes and goes, and of its events. */
export class EngineWatch {
  readonly #options: EngineWatchOptions;
  readonly #abort = new AbortController();
  readonly #backoff: Backoff;
  #info: EngineInfo | undefined;
  #problem: string | undefined = 'the engine was not reached yet';
  #tried = false;
  #running: Promise<void> | undefined;

  constructor(options: EngineWatchOptions) {
    this.#options = options;
    // It is on the same machine, and trying costs little.
    this.#backoff = new Backoff({ baseMs: 100, minMs: 50, maxMs: 2_000, random: options.random });
  }

  /** As of the last time it was up. */
  get info(): EngineInfo | undefined {
    return this.#info;
  }

  /** Why it cannot be used; undefined: it can. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** It was there once, or it is known why not. */
  get isTried(): boolean {
    return this.#tried;
  }

  get isUp(): boolean {
    return this.#problem === undefined;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#abort;
    const { driver, onEvent, sinceMs } = this.#options;
    while (!signal.aborted) {
      try {
        const info = await driver.info();
        const from = sinceMs();
        for (const event of await driver.history(from)) onEvent(event);
        if (signal.aborted) return;
        const opened = () => this.#up(info);
        // Once more from the same time: what happened between the two comes twice rather than never.
        for await (const event of driver.events({ sinceMs: sinceMs(), signal, opened })) onEvent(event);
        this.#down('the engine closed the stream of its events');
      } catch (error) {
        this.#down(error instanceof Error ? error.message : String(error));
      }
      await pause(this.#options.clock, this.#backoff.nextMs(), signal);
    }
  }

  #up(info: EngineInfo): void {
    const { log, onUp } = this.#options;
    this.#info = info;
    this.#problem = undefined;
    this.#tried = true;
    this.#backoff.reset();
    log.info({ engine: info.engine, version: info.version, apiVersion: info.apiVersion }, 'the engine is there');
    onUp();
  }

  #down(problem: string): void {
    const { log, onDown } = this.#options;
    const before = this.#problem;
    this.#problem = problem;
    this.#tried = true;
    if (this.#abort.signal.aborted || before === problem) return;
    log.warn({ problem }, 'the engine is away');
    onDown();
  }
}
