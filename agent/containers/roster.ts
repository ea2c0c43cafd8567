import { create } from '@bufbuild/protobuf';
import { type ObjectReport, ObjectReportSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { Clock } from '../clock.ts';
import type { Desired, Reports } from '../ports.ts';
import { Unseen } from '../unseen.ts';
import type { ObjectMemory } from './memory.ts';
import { objectReport, sameReport } from './object_report.ts';
import { Tracked } from './tracked.ts';
import type { Wanted } from './wanted.ts';

/** Options of {@link Roster}. */
export interface RosterOptions {
  readonly desired: Desired;
  readonly reports: Reports;
  readonly nodeName: string;
  readonly clock: Clock;
  /** In [0, 1). Default `Math.random`. */
  readonly random?: () => number;
  /** Why the engine cannot be asked; undefined: it can. */
  readonly away: () => string | undefined;
  readonly memoryOf: (uid: string) => ObjectMemory;
}

/** The objects that are worked on, and the last word on each. */
export class Roster {
  readonly #options: RosterOptions;
  readonly #tracked = new Map<string, Tracked>();
  readonly #unseen: Unseen;

  constructor(options: RosterOptions) {
    this.#options = options;
    this.#unseen = new Unseen(options.desired);
  }

  get(uid: string): Tracked | undefined {
    return this.#tracked.get(uid);
  }

  all(): Iterable<Tracked> {
    return this.#tracked.values();
  }

  snapshot(): readonly ObjectReport[] {
    return [...this.#tracked.values()].flatMap(({ report }) => (report ? [report] : []));
  }

  /** How many objects there is no word on yet. */
  get unseen(): number {
    return this.#unseen.count;
  }

  track(uid: string): Tracked {
    let one = this.#tracked.get(uid);
    if (!one) {
      one = new Tracked(uid, this.#options);
      this.#tracked.set(uid, one);
    }
    return one;
  }

  untrack(one: Tracked): void {
    one.callOff();
    this.#unseen.seen(one.uid);
    // While something is added for it, it comes back by itself.
    if (this.#tracked.get(one.uid) === one) this.#tracked.delete(one.uid);
  }

  /** Says how an object is, when that is anything new. */
  report(one: Tracked, wanted: Wanted): void {
    const { desired, nodeName, clock } = this.#options;
    const object = desired.current.objects.get(one.uid);
    if (!object || wanted.kind === 'untouched') return;
    const { generation } = object.assignment;
    const away = this.#options.away();
    // Objects keep their last word while the engine is away: that is the node's condition. A new generation needs one of its own.
    if (away !== undefined && one.report && one.reportedGeneration === generation) return;
    one.reportedGeneration = generation;
    const memory = this.#options.memoryOf(one.uid);
    this.#put(one, objectReport({ object, wanted, one, memory, away, nodeName, nowMs: clock.now() }));
  }

  /** Says that nothing of it is left on the engine. */
  removed(one: Tracked): void {
    this.#put(one, create(ObjectReportSchema, { uid: one.uid, removed: true }));
  }

  #put(one: Tracked, report: ObjectReport): void {
    this.#unseen.seen(one.uid);
    if (one.report && sameReport(one.report, report)) return;
    one.report = report;
    this.#options.reports.put(report);
  }
}
