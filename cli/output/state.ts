import { type DescEnum, isMessage } from '@bufbuild/protobuf';
import { BayModelSchema } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import { BayPhaseSchema, BaySchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerPhaseSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { NodePhaseSchema, NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { type Pod, PodPhaseSchema } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { ReplicationControllerPhaseSchema } from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ServicePhaseSchema } from '../../proto/gen/baykeeper/v1/service_pb.js';
import type { AnyObject } from '../objects.ts';
import { enumName } from './enum_name.ts';

/** The short name of an object's phase: RUNNING. Empty when it has none. */
export function phaseOf(object: AnyObject): string {
  const found = phaseEnum(object);
  return found ? enumName(found.desc, found.phase) : '';
}

/** Why a phase is not as one would wish; empty while it runs. */
export function reasonOf(object: AnyObject): string {
  const phase = phaseOf(object);
  const parts: string[] = [];
  if (isMessage(object, NodeSchema) && (object.spec?.unschedulable || object.status?.cluster?.unschedulable))
    parts.push('Cordoned');
  const said = statusOf(object)?.reason ?? '';
  if (said && !['RUNNING', 'READY', 'SUCCEEDED'].includes(phase)) parts.push(said);
  const found = phaseEnum(object);
  if (phase === 'UNKNOWN' && found && found.lastKnown !== 0) parts.push(`was ${enumName(found.desc, found.lastKnown)}`);
  return parts.join(', ');
}

function phaseEnum(object: AnyObject): { desc: DescEnum; phase: number; lastKnown: number } | undefined {
  if (isMessage(object, BayModelSchema)) return undefined;
  if (isMessage(object, BaySchema)) return { desc: BayPhaseSchema, phase: object.status?.phase ?? 0, lastKnown: 0 };
  if (isMessage(object, NodeSchema)) return { desc: NodePhaseSchema, phase: object.status?.phase ?? 0, lastKnown: 0 };
  const desc = {
    'baykeeper.v1.Container': ContainerPhaseSchema,
    'baykeeper.v1.Pod': PodPhaseSchema,
    'baykeeper.v1.Service': ServicePhaseSchema,
    'baykeeper.v1.ReplicationController': ReplicationControllerPhaseSchema,
  }[object.$typeName];
  return { desc, phase: object.status?.phase ?? 0, lastKnown: object.status?.lastKnownPhase ?? 0 };
}

/** What all statuses but a BayModel's have. */
export function statusOf(object: AnyObject): { readonly reason: string; readonly message: string } | undefined {
  const { status: own } = object;
  return own && 'reason' in own ? own : undefined;
}

/** How far word of the object has come; for the kinds that agents report on. */
export function deliveryOf(object: AnyObject): NonNullable<Pod['status']>['delivery'] {
  const { status: own } = object;
  return own && 'delivery' in own ? own.delivery : undefined;
}
