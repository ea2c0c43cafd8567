import type { Clock } from '../clock.ts';
import { DriverError } from '../drivers/driver.ts';
import type { Log } from '../log.ts';
import { forbiddenReason, type PolicySource, refusal, type Violation } from '../policy.ts';
import type { Desired } from '../ports.ts';
import { problemOf } from './container_status.ts';
import type { Memory } from './memory.ts';
import type { Roster } from './roster.ts';
import type { Tracked } from './tracked.ts';
import type { Wanted } from './wanted.ts';

export interface OutcomesOptions {
  readonly desired: Desired;
  readonly roster: Roster;
  readonly memory: () => Memory;
  readonly policy: PolicySource;
  /** Whether the engine can be asked. */
  readonly isUp: () => boolean;
  /** Has an object worked on once more. */
  readonly again: (uid: string) => void;
  readonly clock: Clock;
  readonly log: Log;
}

/** Longest message in a status. */
const maxMessageChars = 2048;

/** What a piece of work on an object came to: kept in mind, and said. */
export class Outcomes {
  readonly #options: OutcomesOptions;

  constructor(options: OutcomesOptions) {
    this.#options = options;
  }

  /** The node's owner forbids it. Nothing is tried again until that, or what is wanted, is otherwise. */
  refuse(one: Tracked, wanted: Wanted, violations: readonly Violation[]): void {
    const { log, policy, roster, memory } = this.#options;
    const message = refusal(policy.current, violations).slice(0, maxMessageChars);
    const isNews = one.problem?.message !== message;
    one.problem = { reason: forbiddenReason, message, retryTimeMs: undefined };
    if (wanted.kind === 'present' && memory().get(one.uid).applied?.generation === wanted.generation) {
      memory().set(one.uid, { applied: undefined });
    }
    if (isNews) log.warn({ uid: one.uid, message }, 'an object is forbidden by the policy of the node');
    roster.report(one, wanted);
  }

  /** It is as asked: there, or gone. */
  async settle(one: Tracked, wanted: Wanted): Promise<void> {
    const { desired, clock, roster, memory } = this.#options;
    one.settle();
    if (wanted.kind === 'present') {
      if (memory().get(one.uid).applied?.generation !== wanted.generation) {
        memory().set(one.uid, { applied: { generation: wanted.generation, timeMs: clock.now() } });
      }
      return roster.report(one, wanted);
    }
    memory().forget(one.uid);
    const { objects, graves } = desired.current;
    if (objects.has(one.uid)) {
      roster.removed(one);
    } else {
      roster.untrack(one);
    }
    if (graves.has(one.uid)) await desired.buried(one.uid);
  }

  /** It went wrong, and is tried again. */
  fail(one: Tracked, wanted: Wanted, error: unknown): void {
    const { log, clock, roster, again, isUp } = this.#options;
    if (!(error instanceof DriverError)) {
      log.error(
        { uid: one.uid, error: error instanceof Error ? error.stack : String(error) },
        'an error of the agent itself',
      );
    } else if (error.kind === 'engine-unavailable') {
      // No fault of the object's, and the node's condition says it: everything is looked at again once the engine is back.
      one.failed(error, clock.now(), () => again(one.uid));
      if (!isUp()) roster.report(one, wanted);
      return;
    }
    const retryTimeMs = one.failed(error, clock.now(), () => again(one.uid));
    one.problem = problemOf(error, retryTimeMs);
    log.warn(
      { uid: one.uid, reason: one.problem.reason, message: one.problem.message, retryTimeMs },
      'an object is not as asked',
    );
    roster.report(one, wanted);
  }
}
