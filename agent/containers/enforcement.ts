import { realpath } from 'node:fs/promises';
import type { EngineContainer } from '../drivers/driver.ts';
import { type Ask, judge, type Policy, restricts, type Violation } from '../policy.ts';
import { asksOfGrants, asksOfSpec } from './asks.ts';
import { nothingForbidden, type ObjectView, type Verdict, type Wanted } from './plan.ts';

/** What a node's policy says to an object, and to what the engine has of it. */
export interface Judgement {
  readonly verdict: Verdict;
  /** Why what is wanted is forbidden. Empty: it is not. */
  readonly violations: readonly Violation[];
}

export async function judgeObject(policy: Policy, wanted: Wanted, { owned }: ObjectView): Promise<Judgement> {
  if (!restricts(policy)) return { verdict: nothingForbidden, violations: [] };
  const violations = wanted.kind === 'present' ? await judgeAll(policy, asksOfSpec(wanted.spec)) : [];
  const forbidden = new Set<EngineContainer>();
  for (const container of owned) {
    if ((await judgeAll(policy, asksOfGrants(container.grants))).length > 0) forbidden.add(container);
  }
  return {
    verdict: { wanted: violations.length > 0, container: (container) => forbidden.has(container) },
    violations,
  };
}

/**
 * A container that may write in an allowed folder can put a link to another one there. The engine follows it, and so does this. Who changes it between
 * the look and the mount is not seen: a folder that is to be a wall must not be writable from within.
 */
async function judgeAll(policy: Policy, asks: readonly Ask[]): Promise<Violation[]> {
  const violations = judge(policy, asks);
  if (violations.length > 0 || typeof policy.rules.hostMounts === 'string') return violations;
  const followed = await Promise.all(
    asks.filter(({ rule }) => rule === 'hostMounts').map(async (ask) => ({ ...ask, value: await followedPath(ask) })),
  );
  return judge(policy, followed);
}

async function followedPath({ value }: Ask): Promise<string> {
  try {
    return await realpath(value);
  } catch {
    // Where there is nothing there is nothing to mount, which the engine says; it may also have another root than the agent.
    return value;
  }
}
