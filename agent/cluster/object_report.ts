import { hash } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { type ObjectReport, ObjectReportSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
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
}

/** What is to be said of an object now. Pure. */
export function objectReport(input: ObjectReportInput, nowMs: number): ObjectReport {
  const { kind, object, wanted, live, one, nodeName } = input;
  if (one.removed) return create(ObjectReportSchema, { uid: one.uid, removed: true });
  const { appliedMs, ...generations } = progressOf(input);
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
      ...generations,
      publishMs: object.publishTimeMs,
      receiveMs: object.receiveTimeMs,
      applyMs: generations.appliedGeneration > 0n ? (appliedMs ?? nowMs) : undefined,
      observeMs: nowMs,
    },
  });
  return create(ObjectReportSchema, { uid: one.uid, status });
}

/**
 * The same for two reports that say the same, whenever they say it. When it is tried again belongs to what they say. Far cheaper than a report,
 * as most of what a cluster tells is nothing new.
 */
export function reportKey(input: ObjectReportInput): string {
  const { wanted, live, one } = input;
  if (one.removed) return 'removed';
  const { appliedMs: _, ...generations } = progressOf(input);
  const said = [
    wanted.kind,
    Object.values(generations).join(' '),
    one.problem,
    one.passing,
    one.note,
    one.endpoints,
    one.events.version,
    live?.clusterUid,
    live?.facts,
    live?.ending,
    live?.finalizers,
  ];
  return hash('sha1', `${JSON.stringify(said)}${live?.status}`, 'base64');
}

interface Progress {
  readonly receivedGeneration: bigint;
  readonly appliedGeneration: bigint;
  readonly observedGeneration: bigint;
  readonly appliedMs: number | undefined;
}

function progressOf({ object, wanted, live, one }: ObjectReportInput): Progress {
  const { generation } = object.assignment;
  const applied = one.applied ?? appliedBefore(wanted, live);
  const appliedGeneration = applied?.generation ?? 0n;
  return {
    receivedGeneration: generation,
    appliedGeneration,
    // While the cluster is away nothing is known of a generation that it has not taken.
    observedGeneration: one.settled || (one.problem && !one.away) ? generation : appliedGeneration,
    appliedMs: applied?.timeMs,
  };
}

/** By an agent before this one, or before it was started again: what is in the cluster says so. */
function appliedBefore(
  wanted: Wanted,
  live: Live | undefined,
): { readonly generation: bigint; readonly timeMs: number | undefined } | undefined {
  if (wanted.kind !== 'present' || live?.applied !== wanted.manifest.hash) return undefined;
  return { generation: wanted.generation, timeMs: live.appliedMs };
}
