import { realpath } from 'node:fs/promises';
import type { EngineContainer } from '../drivers/driver.ts';
import { type Ask, type HostMount, isUnder, judge, type Policy, restricts, type Violation } from '../policy.ts';
import { StreamError } from '../ports.ts';
import { asksOfGrants, asksOfSpec } from './asks.ts';
import { isForbidden, nothingForbidden, type ObjectView, type Verdict } from './plan.ts';
import type { Wanted } from './wanted.ts';

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

/** Commands go into no container that is forbidden, and has not ended yet. Rejects with StreamError. */
export async function checkAllowed(policy: Policy, wanted: Wanted, container: EngineContainer): Promise<void> {
  const { verdict } = await judgeObject(policy, wanted, { owned: [container], occupant: undefined });
  if (!isForbidden(wanted, container, verdict)) return;
  throw new StreamError('forbidden', `the policy of the node (${policy.source}) forbids this container`);
}

/**
 * A container that may write in an allowed folder can put a link to another one there. The engine follows it, and so does this. Who changes it between
 * the look and the mount is not seen: a folder that is to be a wall must not be writable from within.
 */
async function judgeAll(policy: Policy, asks: readonly Ask[]): Promise<Violation[]> {
  const violations = judge(policy, asks);
  const { hostMounts: allowed } = policy.rules;
  if (violations.length > 0 || typeof allowed === 'string') return violations;
  // Nothing is outside of the root.
  const isAll = allowed.some(({ path, readOnly }) => path === '/' && !readOnly);
  const mounts = isAll ? [] : asks.filter(({ rule }) => rule === 'hostMounts');
  if (mounts.length === 0) return [];
  const owners = allowed.filter((one) => !allowed.some((other) => mayReplace(other, one)));
  const there = await Promise.all(owners.map(async (one) => ({ ...one, path: await leadsTo(one.path) })));
  const followed: Policy = { ...policy, rules: { ...policy.rules, hostMounts: [...allowed, ...there] } };
  return (await Promise.all(mounts.map((ask) => judgeFollowed(followed, ask)))).flat();
}

async function judgeFollowed(policy: Policy, ask: Ask): Promise<Violation[]> {
  try {
    return judge(policy, [{ ...ask, value: await realpath(ask.value) }]);
  } catch (error) {
    // It may be there for the engine, which sees more than an agent in a container, or one that is not root.
    const why = (error as NodeJS.ErrnoException).code ?? String(error);
    const message = `the mount of ${ask.value} of the node, as the agent cannot see where its links lead (${why})`;
    return [{ field: ask.field, message }];
  }
}

/** Whether who writes in one folder can put a link in the place of the other. */
const mayReplace = (folder: HostMount, other: HostMount): boolean =>
  other.path !== folder.path && !folder.readOnly && isUnder(other.path, folder.path);

/** An allowed folder may be a link itself, which its owner has made. */
const leadsTo = (path: string): Promise<string> => realpath(path).catch(() => path);
