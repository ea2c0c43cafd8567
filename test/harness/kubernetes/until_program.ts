import type { Program } from '../program.ts';
import { until } from '../until.ts';

/** Like `until`, for 60 s and while this program runs. */
export async function untilProgram(what: string, program: Program, question: () => Promise<boolean>): Promise<void> {
  const options = { timeoutMs: 60_000, intervalMs: 100 };
  const state = await until(what, async () => (program.running ? (await question()) && 'so' : 'ended'), options);
  if (state === 'ended') throw new Error(`it ended before ${what}; its output:\n${program.output.slice(-4_000)}`);
}
