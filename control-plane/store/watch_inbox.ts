import { ExhaustedError } from '../domain/errors.ts';
import type { Change } from './port.ts';

export interface WatchInboxOptions {
  /** How many changes may wait, and how large their objects may be together. */
  readonly maxBuffered: number;
  readonly maxBufferedBytes: number;
}

/**
 * The changes that a watcher has not taken yet. It never holds more than its bounds (but for a single commit, when nothing waited
 * before it): a watcher that lets more pile up is cut off, and then the inbox is empty and stays so.
 */
export class WatchInbox {
  readonly #options: WatchInboxOptions;
  #waiting: Change[] = [];
  #taken = 0;
  #bytes = 0;
  #error: Error | undefined;
  #ended = false;
  #wake: (() => void) | undefined;

  constructor(options: WatchInboxOptions) {
    this.#options = options;
  }

  get length(): number {
    return this.#waiting.length - this.#taken;
  }

  /** Whether there is nothing more to come. Throws when that is because the watcher was too slow. */
  get ended(): boolean {
    if (this.#error) throw this.#error;
    return this.#ended;
  }

  /** Adds the changes of a commit. Returns false when the watcher is cut off over them. */
  add(changes: readonly Change[]): boolean {
    if (this.#ended) return false;
    const keptUp = this.length === 0;
    for (const change of changes) {
      this.#waiting.push(change);
      this.#bytes += size(change);
    }
    const { maxBuffered, maxBufferedBytes } = this.#options;
    if (!keptUp && (this.length > maxBuffered || this.#bytes > maxBufferedBytes)) {
      this.#error = new ExhaustedError(
        `the watcher is too slow: ${this.length} changes (${this.#bytes} bytes) were waiting for it; watch again from the last revision received`,
      );
      this.end();
      return false;
    }
    this.wake();
    return true;
  }

  /** The oldest change that waits, if its revision is not above `revision`. */
  shift(revision = Number.POSITIVE_INFINITY): Change | undefined {
    const change = this.#waiting[this.#taken];
    if (!change || change.revision > revision) return undefined;
    this.#taken += 1;
    this.#bytes -= size(change);
    if (this.#taken === this.#waiting.length) {
      this.#waiting = [];
      this.#taken = 0;
    } else if (this.#taken >= 1024) {
      this.#waiting.splice(0, this.#taken);
      this.#taken = 0;
    }
    return change;
  }

  /** Forgets the changes that are no news to the watcher. */
  drop(isOld: (change: Change) => boolean): void {
    this.#waiting = this.#waiting.slice(this.#taken).filter((change) => !isOld(change));
    this.#taken = 0;
    this.#bytes = this.#waiting.reduce((sum, change) => sum + size(change), 0);
  }

  /** Nothing more is wanted: forgets everything. */
  end(): void {
    this.#ended = true;
    this.#waiting = [];
    this.#taken = 0;
    this.#bytes = 0;
    this.wake();
  }

  /** Resolves at the next `wake`. */
  sleep(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  wake(): void {
    this.#wake?.();
    this.#wake = undefined;
  }
}

const size = ({ object, previous }: Change): number =>
  object.body.byteLength + (previous && previous !== object ? previous.body.byteLength : 0);
