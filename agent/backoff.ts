/** How long to wait before the next try: full jitter under a ceiling that doubles, so that a thousand agents do not come back at once. */
export interface BackoffOptions {
  /** Ceiling of the first wait. */
  readonly baseMs: number;
  /** Ceiling of every wait. */
  readonly maxMs: number;
  /** Least wait. Default 0. */
  readonly minMs?: number;
  /** In [0, 1). Default `Math.random`. */
  readonly random?: () => number;
}

/** Counts failures in a row. */
export class Backoff {
  readonly #options: BackoffOptions;
  #failures = 0;

  constructor(options: BackoffOptions) {
    this.#options = options;
  }

  /** Failures since the last `reset`. */
  get failures(): number {
    return this.#failures;
  }

  /** The next wait in milliseconds; counts one more failure. */
  nextMs(): number {
    const { baseMs, maxMs, minMs = 0, random = Math.random } = this.#options;
    const ceilingMs = Math.min(maxMs, baseMs * 2 ** Math.min(this.#failures, 30));
    this.#failures += 1;
    return Math.round(minMs + random() * Math.max(0, ceilingMs - minMs));
  }

  /** It worked. */
  reset(): void {
    this.#failures = 0;
  }
}
