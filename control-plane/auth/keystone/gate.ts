import { KeystoneError } from '../../../proto/openstack/errors.ts';

/** Failures in a row after which Keystone counts as away. One alone may be the fault of what was asked. */
const failuresUntilAway = 3;
const firstPauseMs = 100;
const longestPauseMs = 5_000;

/** Options of {@link Gate}. */
export interface GateOptions {
  readonly clock: { now(): number };
  /** At once. Default 16. */
  readonly mostRunning?: number;
  /** Waiting for their turn. Default 1,000. */
  readonly mostWaiting?: number;
  /** From 0 to 1, to spread what several control planes do. Default: Math.random. */
  readonly random?: () => number;
}

/**
 * What is between us and a Keystone that may hang: so many calls at once and no more, and while it is away one at a time, with longer and longer pauses.
 * What does not get through fails at once, with KeystoneError (`unavailable`).
 */
export class Gate {
  readonly #clock: { now(): number };
  readonly #mostRunning: number;
  readonly #mostWaiting: number;
  readonly #random: () => number;
  readonly #waiting: { readonly go: () => void; readonly fail: (error: Error) => void }[] = [];
  #running = 0;
  #failures = 0;
  #pausedUntilMs = 0;

  constructor(options: GateOptions) {
    this.#clock = options.clock;
    this.#mostRunning = options.mostRunning ?? 16;
    this.#mostWaiting = options.mostWaiting ?? 1_000;
    this.#random = options.random ?? Math.random;
  }

  /** Runs a call when it is its turn. */
  async run<T>(call: () => Promise<T>): Promise<T> {
    await this.#enter();
    try {
      const result = await call();
      this.#failures = 0;
      return result;
    } catch (error) {
      if (error instanceof KeystoneError && error.failure === 'unavailable') this.#failed(error);
      // It is there, and says no.
      else if (error instanceof KeystoneError) this.#failures = 0;
      throw error;
    } finally {
      const next = this.#waiting.shift();
      // It takes the place of this one.
      if (next) next.go();
      else this.#running -= 1;
    }
  }

  async #enter(): Promise<void> {
    const now = this.#clock.now();
    const away = this.#failures >= failuresUntilAway;
    if (away && (this.#running > 0 || (now < this.#pausedUntilMs && this.#pausedUntilMs - now <= longestPauseMs))) {
      throw new KeystoneError('unavailable', 'Keystone did not answer just now, and is asked again in a moment');
    }
    if (this.#running >= this.#mostRunning) {
      if (this.#waiting.length >= this.#mostWaiting) {
        throw new KeystoneError('unavailable', 'too many callers wait for Keystone already');
      }
      await new Promise<void>((go, fail) => this.#waiting.push({ go, fail }));
      return;
    }
    this.#running += 1;
  }

  #failed(error: Error): void {
    this.#failures += 1;
    if (this.#failures < failuresUntilAway) return;
    const pauseMs = Math.min(longestPauseMs, firstPauseMs * 2 ** (this.#failures - failuresUntilAway));
    this.#pausedUntilMs = this.#clock.now() + pauseMs * (0.5 + this.#random() / 2);
    for (const { fail } of this.#waiting.splice(0)) fail(error);
  }
}
