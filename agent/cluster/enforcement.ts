import { type Ask, judge, type Policy, refusal, restricts, type Violation } from '../policy.ts';
import { asksOfObject } from './asks.ts';
import type { Verdict, Wanted } from './plan.ts';

/** What a node's policy says to an object of the cluster. */
export interface Judgement {
  readonly verdict: Verdict | undefined;
  /** Why what is wanted is forbidden. Empty: it is not. */
  readonly violations: readonly Violation[];
}

/**
 * What is there of an older manifest goes on until it is changed to the wanted one; so it is judged only when that does not come to pass.
 *
 * @param failing The cluster does not take what is wanted.
 */
export function judgeObject(policy: Policy, wanted: Wanted, failing: boolean): Judgement {
  if (!restricts(policy) || wanted.kind !== 'present') return { verdict: undefined, violations: [] };
  const { kind, object } = wanted.manifest;
  const violations = judge(policy, asksOfObject(kind, object));
  const isForbidden = violations.length > 0;
  const verdict: Verdict = {
    wanted: isForbidden,
    live: ({ asks }) => judge(policy, asks).length > 0,
    older: isForbidden || failing,
  };
  return { verdict, violations };
}

/**
 * What somebody else has made goes on as it is when it is taken over, but for what is changed of it: so what is forbidden is not taken over, as it would
 * be judged by a manifest that does not say what it is. Undefined: nothing of it is.
 */
export function adoptionRefusal(policy: Policy, asks: readonly Ask[]): string | undefined {
  const violations = judge(policy, asks);
  return violations.length === 0
    ? undefined
    : `what has the name already is not taken over: ${refusal(policy, violations)}`;
}
