/** How often somebody may call. */
export interface RateLimit {
  readonly perSecond: number;
  /** How many at once after a pause. */
  readonly burst: number;
}

/** How many callers are remembered: the ones that have been quiet longest are forgotten, with full buckets. */
const maxCallers = 10_000;

/** A bucket of tokens for each caller. */
export class TokenBuckets {
  readonly #limit: RateLimit;
  readonly #clock: { now(): number };
  readonly #buckets = new Map<string, { tokens: number; timeMs: number }>();

  constructor(limit: RateLimit, clock: { now(): number }) {
    this.#limit = limit;
    this.#clock = clock;
  }

  /** Takes tokens, also such as are yet to come. False: there was none left. */
  take(caller: string, count = 1): boolean {
    const nowMs = this.#clock.now();
    const { perSecond, burst } = this.#limit;
    const bucket = this.#buckets.get(caller) ?? { tokens: burst, timeMs: nowMs };
    // In the order in which they were heard of last.
    if (!this.#buckets.delete(caller) && this.#buckets.size >= maxCallers) this.#forgetOne();
    this.#buckets.set(caller, bucket);
    const passedMs = Math.max(0, nowMs - bucket.timeMs);
    bucket.tokens = Math.min(burst, bucket.tokens + (passedMs / 1000) * perSecond);
    bucket.timeMs = nowMs;
    if (bucket.tokens < 1) return false;
    bucket.tokens -= count;
    return true;
  }

  #forgetOne(): void {
    const oldest = this.#buckets.keys().next();
    if (!oldest.done) this.#buckets.delete(oldest.value);
  }
}
