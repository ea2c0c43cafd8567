import type { Clock } from '../../agent/clock.ts';

/** A clock that stands still until it is told to go on. */
export class FakeClock implements Clock {
  #nowMs = 1_700_000_000_000;
  #next = 0;
  readonly #timers = new Map<number, { readonly atMs: number; readonly callback: () => void }>();

  now(): number {
    return this.#nowMs;
  }

  after(ms: number, callback: () => void): () => void {
    const id = this.#next++;
    this.#timers.set(id, { atMs: this.#nowMs + Math.max(0, ms), callback });
    return () => this.#timers.delete(id);
  }

  /** How many calls are waiting. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Goes on by so much, and makes the calls that fall due, in order; what they set off gets its turn in between. */
  async advance(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    await turn();
    for (;;) {
      let due: { id: number; atMs: number; callback: () => void } | undefined;
      for (const [id, { atMs, callback }] of this.#timers) {
        if (atMs <= endMs && (!due || atMs < due.atMs)) due = { id, atMs, callback };
      }
      if (!due) break;
      this.#timers.delete(due.id);
      this.#nowMs = Math.max(this.#nowMs, due.atMs);
      due.callback();
      await turn();
    }
    this.#nowMs = endMs;
    await turn();
  }
}

/** Lets promises, and what is on its way to the disk, come to rest for a moment. */
export async function turn(): Promise<void> {
  for (let i = 0; i < 4; i += 1) await new Promise((resolve) => setImmediate(resolve));
}
