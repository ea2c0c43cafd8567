/** How long to wait between tries: full jitter, so that many who lost the same broker do not come back all at once. */
export interface Backoff {
  /** The longest that the first wait can be. */
  readonly baseMs: number;
  /** The longest that any wait can be. */
  readonly maxMs: number;
  /** In [0, 1). Default: Math.random. */
  readonly random?: () => number;
}

/** A wait for the try after `failures` failures in a row, evenly drawn between 0 and `baseMs` doubled for each, up to `maxMs`. */
export function fullJitterMs({ baseMs, maxMs, random = Math.random }: Backoff, failures: number): number {
  return random() * Math.min(maxMs, baseMs * 2 ** Math.min(failures, 30));
}

/** Resolves after `ms`, or at once when the signal is aborted. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', done, { once: true });
  });
}
