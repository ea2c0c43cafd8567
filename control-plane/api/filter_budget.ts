import { setImmediate } from 'node:timers/promises';
import { ExhaustedError } from '../domain/errors.ts';
import type { Filter } from '../domain/filter.ts';

/** How long one call may spend on evaluating its filter, at once. */
const budgetMs = 2_000;
/** How long it may go on without letting others have their turn. */
const sliceMs = 20;

/**
 * Counts the time that a filter takes, so that no expression holds up the server. `share`: of the time that passes, how much a call that lasts may spend
 * once it has used up what it may at once. The filter throws ExhaustedError beyond that.
 */
export function budgeted(filter: Filter, share = 0, now: () => number = () => performance.now()): Filter {
  let leftMs = budgetMs;
  let lastMs = now();
  return (object) => {
    const startMs = now();
    const matches = filter(object);
    const endMs = now();
    leftMs = Math.min(budgetMs, leftMs + (startMs - lastMs) * share) - (endMs - startMs);
    lastMs = endMs;
    if (leftMs < 0) throw new ExhaustedError('the filter takes too long: make it simpler');
    return matches;
  };
}

/** Cuts a call that goes through many objects into slices, so that others have their turn. */
export class Slices {
  #endMs = performance.now() + sliceMs;

  get isOver(): boolean {
    return performance.now() > this.#endMs;
  }

  /** Resolves when the others have had theirs. */
  async next(): Promise<void> {
    await setImmediate();
    this.#endMs = performance.now() + sliceMs;
  }
}
