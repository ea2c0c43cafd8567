import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  type AuditEffect,
  AuditEffectSchema,
  AuditEffectState,
  type AuditedObject,
  type AuditRecord as AuditRecordMessage,
} from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import type { AuditLog, AuditRecord } from '../audit/port.ts';
import { effectOn } from '../domain/effect.ts';
import { type AssignedKind, assignedKinds } from '../domain/kinds.ts';
import { type AssignedStatus, metadataOf } from '../domain/object.ts';
import { phaseName } from '../domain/present.ts';
import { decode } from '../domain/record.ts';
import type { Store } from '../store/port.ts';

/** How many records are looked at for what agents have done about changes that are not the newest of their objects any more. */
const maxLooked = 50_000;

/**
 * Says of each change what the object's agent has done about it: by what it last said, as long as that is about this change; else by what was recorded
 * when it said so.
 */
export async function addEffects(
  { store, audit }: { readonly store: Pick<Store, 'get'>; readonly audit: Pick<AuditLog, 'readAfter'> },
  records: readonly AuditRecordMessage[],
): Promise<void> {
  const past: Past[] = [];
  for (const { kind, method, sequence, objects } of records) {
    if (kind !== 'change') continue;
    for (const object of objects) {
      const ends = deletes(method);
      object.effect = await effectNow(store, object, ends);
      const { state } = object.effect;
      if (state !== AuditEffectState.OVERTAKEN && state !== AuditEffectState.GONE) continue;
      past.push({ object, sequence: Number(sequence), ends });
    }
  }
  if (past.length > 0) await addPast(audit, past);
}

/** A change whose object has gone on since. */
interface Past {
  readonly object: AuditedObject;
  readonly sequence: number;
  /** It was to remove the object. */
  readonly ends: boolean;
}

async function addPast(audit: Pick<AuditLog, 'readAfter'>, past: readonly Past[]): Promise<void> {
  const open = new Map<string, Set<Past>>();
  for (const one of past) open.set(one.object.uid, (open.get(one.object.uid) ?? new Set()).add(one));
  let looked = 0;
  for await (const record of audit.readAfter(Math.min(...past.map(({ sequence }) => sequence)))) {
    looked += 1;
    if (open.size === 0 || looked > maxLooked) return;
    for (const { uid, generation } of record.objects) {
      const those = open.get(uid);
      if (!those) continue;
      for (const one of those) {
        if (one.sequence < record.sequence && isOver(one, record, generation)) those.delete(one);
      }
      if (those.size === 0) open.delete(uid);
    }
  }
}

const deletes = (method: string): boolean => /\/Delete\w*$/.test(method);

/** Whether there is nothing more to come about a change after this record. */
function isOver({ object, ends }: Past, record: AuditRecord, generation: number): boolean {
  if (record.kind === 'change') return !ends && (generation > Number(object.generation) || deletes(record.method));
  if (record.kind !== 'effect') return false;
  const { code, timeMs, message, subject } = record;
  const isRemoved = code === 'removed';
  if (isRemoved !== ends) return isRemoved;
  if (!isRemoved && generation !== Number(object.generation)) return false;
  const state = states[code];
  if (state === undefined) return false;
  const node = subject.replace(/^node\//, '');
  object.effect = effect(state, { node, time: timestampFromMs(timeMs), reason: message });
  // What has failed may still have been done afterwards.
  return state !== AuditEffectState.FAILED;
}

const states: Readonly<Record<string, AuditEffectState>> = {
  applied: AuditEffectState.APPLIED,
  failed: AuditEffectState.FAILED,
  removed: AuditEffectState.GONE,
};

async function effectNow(store: Pick<Store, 'get'>, changed: AuditedObject, ends: boolean): Promise<AuditEffect> {
  const { uid, generation } = changed;
  const kind = assignedKinds.find((one) => one === changed.kind);
  if (!kind || uid === '' || generation === 0n) return effect(AuditEffectState.NONE);
  const stored = await store.get({ uid });
  if (!stored) return effect(AuditEffectState.GONE);
  const object = decode(kind, stored);
  const metadata = metadataOf(kind, object);
  if (metadata.generation > generation) return effect(AuditEffectState.OVERTAKEN);
  const status = object.status as AssignedStatus | undefined;
  // It is still there.
  if (ends) return effect(AuditEffectState.WAITING, { node: status?.node, reason: status?.reason });
  return saidOf(kind, status, generation);
}

function saidOf(kind: AssignedKind, status: AssignedStatus | undefined, generation: bigint): AuditEffect {
  const { delivery, node = '', reason = '', message = '', phase = 0 } = status ?? {};
  const found = effectOn(kind, status, generation);
  if (found === 'applied') {
    const said = message || phaseName(kind, phase);
    return effect(AuditEffectState.APPLIED, { node, time: delivery?.applyTime, reason, message: said });
  }
  const state = found === 'failed' ? AuditEffectState.FAILED : AuditEffectState.WAITING;
  return effect(state, { node, time: delivery?.observeTime ?? delivery?.receiveTime, reason, message });
}

const effect = (
  state: AuditEffectState,
  said: Partial<Omit<AuditEffect, '$typeName' | '$unknown'>> = {},
): AuditEffect => create(AuditEffectSchema, { state, ...said });
