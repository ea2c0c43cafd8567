import { setTimeout as delay } from 'node:timers/promises';
import { lastWords } from './last_words.ts';

export interface UntilOptions {
  /** Default 20 s. */
  readonly timeoutMs?: number;
  /** Default 25 ms. */
  readonly intervalMs?: number;
}

/**
 * Asks until the answer is neither undefined nor false, and returns it. A question that throws is asked again: it may say so what it sees instead.
 * Throws, with `what`, the last error, and the last words of all programs that run, when time is up.
 */
export async function until<T>(
  what: string,
  question: () => T | undefined | false | Promise<T | undefined | false>,
  { timeoutMs = 20_000, intervalMs = 25 }: UntilOptions = {},
): Promise<T> {
  const deadlineMs = performance.now() + timeoutMs;
  let cause: unknown;
  for (;;) {
    try {
      const answer = await question();
      if (answer !== undefined && answer !== false) return answer;
      cause = undefined;
    } catch (error) {
      cause = error;
    }
    if (performance.now() > deadlineMs) {
      const last = cause instanceof Error ? `; last: ${cause.message}` : '';
      throw new Error([`not within ${timeoutMs} ms: ${what}${last}`, lastWords()].join('\n').trimEnd(), { cause });
    }
    await delay(intervalMs);
  }
}
