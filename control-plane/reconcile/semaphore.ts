/** Lets so many pieces of work go on at a time; the others wait for their turn, in order. */
export class Semaphore {
  #free: number;
  #users = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(limit: number) {
    this.#free = limit;
  }

  /** Nothing is under way, and nothing waits. */
  get idle(): boolean {
    return this.#users === 0;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    this.#users += 1;
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      this.#users -= 1;
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free += 1;
    }
  }
}
