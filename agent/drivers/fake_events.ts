import type { EngineEvent, EventOptions } from './driver.ts';

/** As many as Docker keeps. */
const kept = 256;

/** What happened on an engine in memory, and who follows it. */
export class FakeEvents {
  readonly #history: EngineEvent[] = [];
  readonly #listeners = new Set<{ readonly push: (event: EngineEvent) => void; readonly end: () => void }>();

  since(sinceMs: number): EngineEvent[] {
    return this.#history.filter((event) => event.timeMs >= sinceMs);
  }

  /** @param reach Throws when the engine is away. */
  async *follow({ sinceMs, signal, opened }: EventOptions, reach: () => void): AsyncGenerator<EngineEvent> {
    reach();
    if (signal.aborted) return;
    const queue = this.since(sinceMs);
    let wake: () => void = () => undefined;
    let over = false;
    const listener = {
      push(event: EngineEvent) {
        queue.push(event);
        wake();
      },
      end() {
        over = true;
        wake();
      },
    };
    this.#listeners.add(listener);
    signal.addEventListener('abort', listener.end, { once: true });
    opened();
    try {
      for (;;) {
        const event = queue.shift();
        if (event) yield event;
        else if (over) return;
        else {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      }
    } finally {
      this.#listeners.delete(listener);
      signal.removeEventListener('abort', listener.end);
    }
  }

  push(event: EngineEvent): void {
    this.#history.push(event);
    if (this.#history.length > kept) this.#history.shift();
    for (const listener of this.#listeners) listener.push(event);
  }

  /** Ends for all who follow; with `forget`, as after a restart of the engine. */
  breakOff(forget: boolean): void {
    if (forget) this.#history.length = 0;
    for (const listener of this.#listeners) listener.end();
  }
}
