/** Lets a piece of work wait for something slow without holding its place. */
export type Aside = <T>(wait: () => Promise<T>) => Promise<T>;

export interface KeyedQueueOptions {
  /** How many keys are worked on at a time; those that wait aside do not count. */
  readonly concurrency: number;
  /** Must not reject; what it rejects with goes to `onError`. */
  readonly work: (key: string, aside: Aside) => Promise<void>;
  readonly onError: (key: string, error: unknown) => void;
}

/**
 * Work by key: never two pieces for one key at a time, and no more than so many in all. A key that is added while its work is under way
 * is worked on once more after it; added many times it is worked on once.
 */
export class KeyedQueue {
  readonly #options: KeyedQueueOptions;
  /** In the order in which they were added. */
  readonly #waiting = new Set<string>();
  readonly #running = new Set<string>();
  /** To go on after having waited aside: before anything new. */
  readonly #returning: (() => void)[] = [];
  #free: number;
  #stopped = false;
  #idle: (() => void)[] = [];

  constructor(options: KeyedQueueOptions) {
    this.#options = options;
    this.#free = options.concurrency;
  }

  add(key: string): void {
    if (this.#stopped) return;
    this.#waiting.add(key);
    this.#next();
  }

  isRunning(key: string): boolean {
    return this.#running.has(key);
  }

  /** Resolves when there is nothing to do and nothing under way. */
  async idle(): Promise<void> {
    if (this.#waiting.size === 0 && this.#running.size === 0) return;
    await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  /** Takes nothing more; resolves when what is under way is done. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#waiting.clear();
    await this.idle();
  }

  #next(): void {
    while (this.#free > 0) {
      const back = this.#returning.shift();
      if (back) {
        this.#free -= 1;
        back();
        continue;
      }
      const key = this.#firstReady();
      if (key === undefined) break;
      this.#waiting.delete(key);
      this.#running.add(key);
      this.#free -= 1;
      void this.#run(key);
    }
    if (this.#waiting.size === 0 && this.#running.size === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  #firstReady(): string | undefined {
    for (const key of this.#waiting) if (!this.#running.has(key)) return key;
    return undefined;
  }

  async #run(key: string): Promise<void> {
    try {
      await this.#options.work(key, (wait) => this.#aside(wait));
    } catch (error) {
      this.#options.onError(key, error);
    } finally {
      this.#running.delete(key);
      this.#free += 1;
      this.#next();
    }
  }

  async #aside<T>(wait: () => Promise<T>): Promise<T> {
    this.#free += 1;
    this.#next();
    try {
      return await wait();
    } finally {
      await new Promise<void>((resolve) => {
        this.#returning.push(resolve);
        this.#next();
      });
    }
  }
}
