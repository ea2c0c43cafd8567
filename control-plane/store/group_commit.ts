import { setImmediate as nextTurn } from 'node:timers/promises';
import { AlreadyExistsError, UnavailableError } from '../domain/errors.ts';
import { checkKey, checkRequest, keyText, requestText } from './keys.ts';
import { type Loaded, type Outcome, Overlay } from './overlay.ts';
import type { Change, ObjectKey, RequestKey, Write } from './port.ts';
import { updateUsage } from './usage.ts';

/** The disk under a group commit. One call at a time. */
export interface CommitTarget {
  /** What there is of these keys. */
  load(keys: readonly ObjectKey[], requests: readonly RequestKey[]): Promise<Loaded>;
  /** Puts a batch on disk, whole or not at all. Rejects with CollisionError when a row is in its way that was not loaded. */
  commit(outcome: Outcome): Promise<void>;
  /** The newest revision on disk. */
  head(): Promise<number>;
  /** Called between two batches, with how many changes the one before had: a place for upkeep. Must not reject. */
  between(changes: number): Promise<void>;
}

/** A uid or name of a batch is held by an object that none of its writes has read. */
export class CollisionError extends Error {
  override readonly name = 'CollisionError';
}

/** What a metrics adapter may want to hear of. */
export interface CommitMetrics {
  /** After each batch, failed ones too. `writes` shared the commit, `changes` is how many revisions they took. */
  batch(batch: { writes: number; changes: number; durationMs: number; failed: boolean }): void;
}

export interface GroupCommitOptions {
  readonly target: CommitTarget;
  readonly clock: { now(): number };
  readonly revision: number;
  readonly chainHeads: Map<string, number>;
  /** As of that revision; kept up to date with each commit. */
  readonly usage: Map<string, number>;
  /** Called after each commit, before its writers hear of it. */
  readonly onCommit: (changes: readonly Change[], revision: number) => void;
  /** Called with what made a commit fail. */
  readonly onFailure: (error: unknown) => void;
  readonly metrics?: CommitMetrics;
  /** How many writes share one commit at most. */
  readonly maxBatchWrites?: number;
  /** From how many writes that wait on a further one is refused. */
  readonly maxWaiting?: number;
}

/** One commit does not get larger than this, but for what a single write does. */
const maxBatchChanges = 2048;
const maxBatchBytes = 8 * 1024 * 1024;

interface Pending {
  readonly write: Write<unknown>;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

type Result = { readonly ok: true; readonly value: unknown } | { readonly ok: false; readonly error: unknown };

/**
 * Gives writes their turn. While a commit is under way those that come wait; the next commit takes all of them together, so that many
 * writers share the cost of one.
 */
export class GroupCommit {
  readonly #options: GroupCommitOptions;
  readonly #maxBatchWrites: number;
  readonly #maxWaiting: number;
  #waiting: Pending[] = [];
  readonly #jobs: (() => Promise<void>)[] = [];
  #running: Promise<void> | undefined;
  #closed = false;
  #revision: number;

  constructor(options: GroupCommitOptions) {
    this.#options = options;
    this.#maxBatchWrites = options.maxBatchWrites ?? 512;
    this.#maxWaiting = options.maxWaiting ?? 20_000;
    this.#revision = options.revision;
  }

  /** Queues a write. Settles after the commit that it is part of. */
  write<T>(write: Write<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#closed) throw new UnavailableError('the store is closed');
      if (this.#waiting.length >= this.#maxWaiting) {
        throw new UnavailableError(`the store is overloaded: ${this.#waiting.length} writes are waiting`);
      }
      write.reads.forEach(checkKey);
      if (write.request) checkRequest(write.request);
      this.#waiting.push({ write, resolve: resolve as (value: unknown) => void, reject });
      this.#wake();
    });
  }

  /** Runs something between two commits. */
  alone<T>(job: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#closed) throw new UnavailableError('the store is closed');
      this.#jobs.push(() => job().then(resolve, reject));
      this.#wake();
    });
  }

  /** Takes nothing more, and resolves when all that waits is done. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#running;
  }

  #wake(): void {
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
      if (this.#waiting.length > 0 || this.#jobs.length > 0) this.#wake();
    });
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0 || this.#jobs.length > 0) {
      // What else came in with this turn of the event loop goes along.
      await nextTurn();
      const job = this.#jobs.shift();
      if (job) await job();
      if (this.#waiting.length === 0) continue;
      const batch = this.#waiting.splice(0, this.#maxBatchWrites);
      const { rest, changes } = await this.#batch(batch);
      if (rest.length > 0) this.#waiting.unshift(...rest);
      await this.#options.target.between(changes);
    }
  }

  /** Runs a batch, and settles its writes but for those that are returned: they did not fit in. Never rejects. */
  async #batch(batch: readonly Pending[]): Promise<{ rest: readonly Pending[]; changes: number }> {
    const { target, clock, chainHeads, usage, metrics } = this.#options;
    const started = performance.now();
    const results: Result[] = [];
    let changes = 0;
    let failed = false;
    try {
      const { keys, requests } = wanted(batch);
      const loaded: Loaded =
        keys.length > 0 || requests.length > 0 ? await target.load(keys, requests) : { objects: [], requests: [] };
      const overlay = new Overlay({ revision: this.#revision, chainHeads, usage, keys, loaded, nowMs: clock.now() });
      for (const { write } of batch) {
        if (overlay.changeCount >= maxBatchChanges || overlay.bytes >= maxBatchBytes) break;
        try {
          results.push({ ok: true, value: overlay.run(write) });
        } catch (error) {
          results.push({ ok: false, error });
        }
      }
      changes = overlay.changeCount;
      if (!overlay.isEmpty) await this.#commit(overlay.outcome());
    } catch (error) {
      failed = true;
      if (error instanceof CollisionError) {
        // Somebody put a uid that is taken without having read it. Whoever it is, the others are not to suffer.
        if (batch.length > 1) {
          for (const [i, one] of batch.entries()) {
            const { rest } = await this.#batch([one]);
            if (rest.length > 0) return { rest: batch.slice(i), changes };
          }
          return { rest: [], changes };
        }
        batch[0]?.reject(new AlreadyExistsError('there is an object with this uid already', { cause: error }));
        return { rest: [], changes: 0 };
      }
      this.#options.onFailure(error);
      for (const { reject } of batch) reject(error);
      return { rest: [], changes: 0 };
    } finally {
      metrics?.batch({ writes: results.length, changes, durationMs: performance.now() - started, failed });
    }
    for (const [i, result] of results.entries()) {
      if (result.ok) batch[i]?.resolve(result.value);
      else batch[i]?.reject(result.error);
    }
    return { rest: batch.slice(results.length), changes };
  }

  async #commit(outcome: Outcome): Promise<void> {
    const { target, chainHeads, usage, onCommit } = this.#options;
    const revision = this.#revision + outcome.changes.length;
    try {
      await target.commit(outcome);
    } catch (error) {
      // A commit may be told to have failed although it is on disk: then it counts, or the next would collide with it.
      const head = error instanceof CollisionError ? this.#revision : await target.head().catch(() => this.#revision);
      if (head !== revision || outcome.changes.length === 0) throw error;
    }
    this.#revision = revision;
    for (const [chain, head] of outcome.chainHeads) chainHeads.set(chain, head);
    updateUsage(usage, outcome.usage);
    onCommit(outcome.changes, revision);
  }
}

/** The keys of a batch, each once. */
const wanted = (batch: readonly Pending[]): { keys: readonly ObjectKey[]; requests: readonly RequestKey[] } => {
  const keys = new Map<string, ObjectKey>();
  const requests = new Map<string, RequestKey>();
  for (const { write } of batch) {
    for (const key of write.reads) keys.set(keyText(key), key);
    if (write.request) requests.set(requestText(write.request), write.request);
  }
  return { keys: [...keys.values()], requests: [...requests.values()] };
};
