import type { Clock } from '../clock.ts';
import { ClusterError } from '../drivers/cluster_error.ts';
import type { Log } from '../log.ts';
import { forbiddenReason, type PolicySource, refusal, type Violation } from '../policy.ts';
import type { ForeignWatches } from './foreign_watches.ts';
import type { KeptAddresses } from './kept_addresses.ts';
import type { Live } from './live.ts';
import { placeOf, type Wanted } from './plan.ts';
import { bounded, ObjectError, problemOf } from './reasons.ts';
import type { Reporting } from './reporting.ts';
import { endingMessage } from './status.ts';
import type { Tracked } from './tracked.ts';

export interface OutcomesOptions {
  readonly reporting: Reporting;
  readonly foreign: ForeignWatches;
  readonly addresses: KeptAddresses;
  readonly policy: PolicySource;
  /** Has an object worked on once more. */
  readonly again: (uid: string) => void;
  readonly clock: Clock;
  readonly log: Log;
}

/** What a look at an object came to: kept in mind, and said. */
export class Outcomes {
  readonly #options: OutcomesOptions;

  constructor(options: OutcomesOptions) {
    this.#options = options;
  }

  /** The node's owner forbids it. Nothing is tried again until that, or what is wanted, is otherwise. */
  forbid(one: Tracked, wanted: Wanted, violations: readonly Violation[]): void {
    const { log, policy } = this.#options;
    const message = bounded(refusal(policy.current, violations));
    if (one.problem?.message !== message) {
      log.warn({ uid: one.uid, message }, 'an object is forbidden by the policy of the node');
    }
    one.unsettle();
    one.passing = false;
    one.away = false;
    one.problem = { reason: forbiddenReason, message, retryTimeMs: undefined };
    if (wanted.kind === 'present' && one.applied?.generation === wanted.generation) one.applied = undefined;
  }

  /** It is there, as asked. */
  settle(one: Tracked, wanted: Wanted): void {
    const { clock } = this.#options;
    this.waitNoMore(one);
    one.settle();
    const message = one.contention.message(clock.now());
    if (message) {
      one.problem = { reason: 'FieldContested', message, retryTimeMs: undefined };
      one.passing = true;
    }
    this.#options.reporting.report(one, wanted);
  }

  /** What is there has to end first. */
  awaitEnd(one: Tracked, wanted: Wanted, live: Live): void {
    one.unsettle();
    const message = endingMessage(live);
    one.note =
      wanted.kind === 'absent'
        ? { reason: 'Ending', message }
        : { reason: 'Replacing', message: `the one before it has to end first: ${message}` };
    this.#options.reporting.report(one, wanted);
  }

  /** It went wrong, and is tried again. */
  fail(one: Tracked, wanted: Wanted, error: unknown): void {
    const { log } = this.#options;
    if (!(error instanceof ClusterError) && !(error instanceof ObjectError)) {
      log.error({ uid: one.uid, error: (error as Error).stack ?? String(error) }, 'an error of the agent itself');
    }
    one.unsettle();
    const retryTimeMs = one.failed(error, () => this.#options.again(one.uid));
    const place = placeOf(wanted);
    const isForeign = error instanceof ObjectError && (error.reason === 'Conflict' || error.reason === forbiddenReason);
    if (place && isForeign) this.#options.foreign.await(one.uid, place);
    one.problem = problemOf(error, retryTimeMs);
    const { reason, message } = one.problem;
    log.warn({ uid: one.uid, reason, message, retryTimeMs }, 'an object is not as asked');
    this.#options.reporting.report(one, wanted);
  }

  /** It needs neither its name nor what its predecessor had. */
  waitNoMore({ uid }: Tracked): void {
    this.#options.foreign.forget(uid);
    void this.#options.addresses.forget(uid);
  }
}
