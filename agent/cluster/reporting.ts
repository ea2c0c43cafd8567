import type { ObjectReport } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { Clock } from '../clock.ts';
import type { ClusterError } from '../drivers/cluster_error.ts';
import type { Desired, Reports } from '../ports.ts';
import type { Unseen } from '../unseen.ts';
import { type ObjectReportInput, objectReport, reportKey } from './object_report.ts';
import type { Observed } from './observed.ts';
import { isAt, placeOf, type Wanted } from './plan.ts';
import { isAway, problemOf } from './reasons.ts';
import type { Tracked } from './tracked.ts';

export interface ReportingOptions {
  readonly desired: Pick<Desired, 'current'>;
  readonly reports: Reports;
  readonly observed: Observed;
  readonly unseen: Unseen;
  readonly nodeName: string;
  /** Aborts when this agent has no word any more. */
  readonly term: AbortSignal;
  readonly clock: Clock;
}

/** Says how objects are, whenever that is anything new. */
export class Reporting {
  readonly #options: ReportingOptions;

  constructor(options: ReportingOptions) {
    this.#options = options;
  }

  /** How an object is now; undefined: nobody waits for word of it, or it was not looked at yet. */
  current(one: Tracked, wanted: Wanted): ObjectReport | undefined {
    const input = one.reported === '' ? undefined : this.#inputOf(one, wanted);
    return input && objectReport(input, this.#options.clock.now());
  }

  report(one: Tracked, wanted: Wanted): void {
    const { reports, unseen, term, clock } = this.#options;
    const input = this.#inputOf(one, wanted);
    if (!input || term.aborted) return;
    unseen.seen(one.uid);
    one.reportedGeneration = input.object.assignment.generation;
    const key = reportKey(input);
    if (key === one.reported) return;
    one.reported = key;
    reports.put(objectReport(input, clock.now()));
  }

  /**
   * Nothing can be done about an object now, as the cluster cannot be asked. Objects keep their last word meanwhile: that is the node's condition.
   * A new generation needs one of its own.
   */
  reportAway(one: Tracked, wanted: Wanted, error: ClusterError | undefined): void {
    const generation = this.#options.desired.current.objects.get(one.uid)?.assignment.generation;
    if (!error || (one.reported !== '' && one.reportedGeneration === generation)) return;
    one.away = isAway(error);
    one.passing = error.retryable;
    one.problem = problemOf(error, undefined);
    this.report(one, wanted);
  }

  #inputOf(one: Tracked, wanted: Wanted): ObjectReportInput | undefined {
    const { desired, observed, nodeName } = this.#options;
    const object = desired.current.objects.get(one.uid);
    const place = placeOf(wanted);
    if (!object || !place) return undefined;
    const live = observed.of(one.uid).find((found) => isAt(found, place));
    return { kind: place.kind, object, wanted, live, one, nodeName };
  }
}
