import { create } from '@bufbuild/protobuf';
import {
  type AuditEffect,
  AuditEffectSchema,
  AuditEffectState,
  type AuditedObject,
} from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import { type AssignedKind, assignedKinds } from '../domain/kinds.ts';
import { type AssignedStatus, metadataOf } from '../domain/object.ts';
import { phaseName, phasesOf } from '../domain/present.ts';
import { decode } from '../domain/record.ts';
import type { Store } from '../store/port.ts';

/** What an object's agent has done about a change, as far as it is still known: by what the agent last said of it. */
export async function effectOf(store: Pick<Store, 'get'>, changed: AuditedObject): Promise<AuditEffect> {
  const { uid, generation } = changed;
  const kind = assignedKinds.find((one) => one === changed.kind);
  if (!kind || uid === '' || generation === 0n) return effect(AuditEffectState.NONE);
  const stored = await store.get({ uid });
  if (!stored) return effect(AuditEffectState.GONE);
  const object = decode(kind, stored);
  const metadata = metadataOf(kind, object);
  if (metadata.generation > generation) return effect(AuditEffectState.OVERTAKEN);
  return saidOf(kind, object.status as AssignedStatus | undefined, generation);
}

function saidOf(kind: AssignedKind, status: AssignedStatus | undefined, generation: bigint): AuditEffect {
  const { delivery, node = '', reason = '', message = '', phase = 0 } = status ?? {};
  if ((delivery?.appliedGeneration ?? 0n) >= generation) {
    const said = message || phaseName(kind, phase);
    return effect(AuditEffectState.APPLIED, { node, time: delivery?.applyTime, reason, message: said });
  }
  const isFailed =
    (delivery?.observedGeneration ?? 0n) >= generation && (reason !== '' || phase === phasesOf(kind).failed);
  const state = isFailed ? AuditEffectState.FAILED : AuditEffectState.WAITING;
  return effect(state, { node, time: delivery?.observeTime ?? delivery?.receiveTime, reason, message });
}

const effect = (
  state: AuditEffectState,
  said: Partial<Omit<AuditEffect, '$typeName' | '$unknown'>> = {},
): AuditEffect => create(AuditEffectSchema, { state, ...said });
