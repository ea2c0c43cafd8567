import { clone, create, equals } from '@bufbuild/protobuf';
import { type ObjectReport, ObjectReportSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { type Problem, timeless as timelessDelivery } from '../delivery.ts';
import type { DesiredObject } from '../ports.ts';
import { containerStatus } from './container_status.ts';
import type { ObjectMemory } from './memory.ts';
import type { Tracked } from './tracked.ts';
import type { Wanted } from './wanted.ts';

export interface ObjectReportInput {
  readonly object: DesiredObject;
  readonly wanted: Wanted;
  readonly one: Pick<Tracked, 'uid' | 'container' | 'problem' | 'doing' | 'settled' | 'observedMs'>;
  readonly memory: ObjectMemory;
  /** Why the engine cannot be used; undefined: it can. */
  readonly away: string | undefined;
  readonly nodeName: string;
  readonly nowMs: number;
}

/** What is to be said of an object now. Pure. */
export function objectReport({ object, wanted, one, memory, away, nodeName, nowMs }: ObjectReportInput): ObjectReport {
  const { generation, spec } = object.assignment;
  const appliedGeneration = memory.applied?.generation ?? 0n;
  const problem = problemNow(wanted, away) ?? one.problem;
  const status = containerStatus({
    nodeName,
    removing: wanted.kind === 'absent',
    spec: spec.case === 'container' ? spec.value : undefined,
    container: one.container,
    memory,
    problem,
    doing: one.doing,
    delivery: {
      receivedGeneration: generation,
      appliedGeneration,
      // While the engine is away nothing is known of a generation that it has not taken.
      observedGeneration: one.settled || (problem && away === undefined) ? generation : appliedGeneration,
      publishMs: object.publishTimeMs,
      receiveMs: object.receiveTimeMs,
      applyMs: memory.applied?.timeMs,
      observeMs: one.observedMs ?? nowMs,
    },
  });
  return create(ObjectReportSchema, { uid: one.uid, status: { case: 'container', value: status } });
}

function problemNow(wanted: Wanted, away: string | undefined): Problem | undefined {
  if (wanted.kind === 'unusable') return { reason: 'Unsupported', message: wanted.message, retryTimeMs: undefined };
  return away === undefined ? undefined : { reason: 'EngineUnavailable', message: away, retryTimeMs: undefined };
}

/** Whether two reports say the same, whenever they say it. When it runs since, and when it is tried again, belongs to what they say. */
export function sameReport(a: ObjectReport, b: ObjectReport): boolean {
  return equals(ObjectReportSchema, timeless(a), timeless(b));
}

function timeless(report: ObjectReport): ObjectReport {
  const copy = clone(ObjectReportSchema, report);
  if (copy.status.case === 'container') copy.status.value.delivery = timelessDelivery(copy.status.value.delivery);
  return copy;
}
