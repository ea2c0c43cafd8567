import { createHash } from 'node:crypto';
import { create, toBinary } from '@bufbuild/protobuf';
import { type ObjectReport, ObjectReportSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { timeless } from '../delivery.ts';
import type { DesiredObject } from '../ports.ts';
import type { Live } from './live.ts';
import type { ClusterKind } from './manifest.ts';
import type { Wanted } from './plan.ts';
import { statusOf } from './status.ts';
import type { Tracked } from './tracked.ts';

export interface ObjectReportInput {
  readonly kind: ClusterKind;
  readonly object: DesiredObject;
  readonly wanted: Wanted;
  readonly live: Live | undefined;
  readonly one: Tracked;
  readonly nodeName: string;
  readonly nowMs: number;
}

/** What is to be said of an object now. Pure. */
export function objectReport({ kind, object, wanted, live, one, nodeName, nowMs }: ObjectReportInput): ObjectReport {
  const { generation } = object.assignment;
  if (one.removed) return create(ObjectReportSchema, { uid: one.uid, removed: true });
  const applied = one.applied ?? appliedBefore(wanted, live, nowMs);
  const appliedGeneration = applied?.generation ?? 0n;
  const status = statusOf({
    kind,
    nodeName,
    removing: wanted.kind === 'absent',
    live,
    endpoints: one.endpoints,
    events: one.events.events(live?.clusterUid),
    problem: one.problem,
    passing: one.passing,
    note: one.note,
    delivery: {
      receivedGeneration: generation,
      appliedGeneration,
      // While the cluster is away nothing is known of a generation that it has not taken.
      observedGeneration: one.settled || (one.problem && !one.away) ? generation : appliedGeneration,
      publishMs: object.publishTimeMs,
      receiveMs: object.receiveTimeMs,
      applyMs: applied?.timeMs,
      observeMs: nowMs,
    },
  });
  return create(ObjectReportSchema, { uid: one.uid, status });
}

/** By an agent before this one, or before it was started again: what is in the cluster says so. */
function appliedBefore(wanted: Wanted, live: Live | undefined, nowMs: number): Tracked['applied'] {
  if (wanted.kind !== 'present' || live?.applied !== wanted.manifest.hash) return undefined;
  return { generation: wanted.generation, timeMs: live.appliedMs ?? nowMs };
}

/** The same for two reports that say the same, whenever they say it. When it is tried again belongs to what they say. */
export function reportKey(report: ObjectReport): string {
  const { status } = report;
  if (status.case === undefined) return report.removed ? 'removed' : '';
  const value = { ...status.value, delivery: timeless(status.value.delivery) };
  const same = create(ObjectReportSchema, {
    ...report,
    status: { case: status.case, value } as ObjectReport['status'],
  });
  return createHash('sha1').update(toBinary(ObjectReportSchema, same)).digest('base64');
}
