import { type ClusterDriver, resourceTypes } from '../drivers/cluster_driver.ts';
import type { Log } from '../log.ts';
import type { Place } from './plan.ts';

export interface ForeignWatchesOptions {
  readonly driver: Pick<ClusterDriver, 'watch'>;
  /** Ends all of them. */
  readonly signal: AbortSignal;
  /** What had the name of this object is gone. */
  readonly onFree: (objectUid: string) => void;
  readonly log: Log;
  /** Most at a time: each holds a connection. Objects beyond that have to find out by trying. Default 32. */
  readonly limit?: number;
}

/**
 * Waits until a name is free that somebody else's object has: the bay's own watches see only what bears its label. One watch for each such name,
 * which costs nothing while nothing happens.
 */
export class ForeignWatches {
  readonly #options: ForeignWatchesOptions;
  readonly #ends = new Map<string, AbortController>();

  constructor(options: ForeignWatchesOptions) {
    this.#options = options;
  }

  /** Calls `onFree` once when nothing of this name is there. Safe to repeat. */
  await(objectUid: string, place: Place): void {
    const { signal, limit = 32, log } = this.#options;
    if (signal.aborted || this.#ends.has(objectUid) || this.#ends.size >= limit) return;
    const end = new AbortController();
    this.#ends.set(objectUid, end);
    this.#watch(objectUid, place, AbortSignal.any([signal, end.signal])).catch((error: unknown) => {
      log.error({ uid: objectUid, error: (error as Error).stack }, 'the holder of a name could not be watched');
    });
  }

  /** Nobody waits any more. Safe to repeat. */
  forget(objectUid: string): void {
    this.#ends.get(objectUid)?.abort();
    this.#ends.delete(objectUid);
  }

  async #watch(objectUid: string, { kind, namespace, name }: Place, signal: AbortSignal): Promise<void> {
    const selection = { namespace, fieldSelector: `metadata.name=${name}`, signal };
    const watch = this.#options.driver.watch(resourceTypes[kind], { ...selection, transform: () => undefined });
    for await (const event of watch) {
      const isFree = event.type === 'delete' || (event.type === 'snapshot' && event.items.length === 0);
      if (!isFree || signal.aborted) continue;
      this.forget(objectUid);
      this.#options.onFree(objectUid);
      return;
    }
  }
}
