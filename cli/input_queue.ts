/** What is pushed comes out in order, to one reader. The writer looks at `size`, and stops while it is too much. */
export class InputQueue<T> implements AsyncIterable<T> {
  readonly #items: T[] = [];
  #ended = false;
  #wake: (() => void) | undefined;
  #taken: (() => void) | undefined;

  /** How many wait to be taken. */
  get size(): number {
    return this.#items.length;
  }

  /** Adds one. After the end it is dropped. */
  push(item: T): void {
    if (this.#ended) return;
    this.#items.push(item);
    this.#wake?.();
  }

  /** Nothing comes after this. */
  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** Calls back once, when all has been taken. */
  whenTaken(callback: () => void): void {
    this.#taken = callback;
  }

  async *[Symbol.asyncIterator](): AsyncIterator<T> {
    for (;;) {
      const item = this.#items.shift();
      if (item !== undefined) {
        yield item;
        continue;
      }
      const taken = this.#taken;
      this.#taken = undefined;
      taken?.();
      if (this.#items.length > 0) continue;
      if (this.#ended) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}
