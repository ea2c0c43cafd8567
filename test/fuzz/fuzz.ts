import { readFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import type { ExecutionContext } from 'ava';
import fc from 'fast-check';

/**
 * Runs of random input against what reads it. Each run draws a new seed, and says it when it fails; `BAYKEEPER_FUZZ_SEED` repeats it, and
 * `BAYKEEPER_FUZZ_TIMES` makes it so many times as long. What has once found a fault is kept in `kept.json`, in base64 and by target, and is tried
 * first: seeds mean something else as soon as a sample changes, bytes do not.
 */
export interface FuzzOptions {
  /** Its name in `kept.json`. */
  readonly target: string;
  readonly input: fc.Arbitrary<Uint8Array>;
  /** How many inputs in an ordinary run. */
  readonly runs: number;
  /** Throws when the input did harm. */
  readonly check: (input: Uint8Array) => void | Promise<void>;
}

interface Kept {
  /** What was wrong with it. */
  readonly found: string;
  readonly base64: string;
}

const file = path.join(import.meta.dirname, 'kept.json');

export async function fuzz(t: ExecutionContext, { target, input, runs, check }: FuzzOptions): Promise<void> {
  const kept = JSON.parse(readFileSync(file, 'utf8')) as Readonly<Record<string, readonly Kept[]>>;
  for (const { found, base64 } of kept[target] ?? []) {
    await t.notThrowsAsync(async () => check(Buffer.from(base64, 'base64')), `again: ${found}`);
  }
  // What a parser says past us may quote what it read: a token in a file, for one.
  const warnings: string[] = [];
  const onWarning = (warning: Error): unknown => warnings.push(String(warning));
  process.on('warning', onWarning);
  const seed = process.env.BAYKEEPER_FUZZ_SEED === undefined ? undefined : Number(process.env.BAYKEEPER_FUZZ_SEED);
  const numRuns = runs * Number(process.env.BAYKEEPER_FUZZ_TIMES ?? 1);
  const result = await fc.check(
    fc.asyncProperty(input, async (bytes) => check(bytes)),
    { numRuns, ...(seed === undefined ? {} : { seed }) },
  );
  // They are told in a later turn of the event loop.
  await new Promise((resolve) => setImmediate(resolve));
  process.off('warning', onWarning);
  t.deepEqual(warnings, [], `${target}: warnings of the process, seed ${result.seed}`);
  if (!result.failed) return;
  const [bytes] = result.counterexample ?? [];
  t.fail(
    `${target}: ${String(result.errorInstance)}\nseed ${result.seed}; keep it in kept.json as\n${Buffer.from(bytes ?? []).toString('base64')}`,
  );
}
