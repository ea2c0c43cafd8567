import type { KindName } from '../domain/kinds.ts';
import type { Changed } from '../domain/lifecycle.ts';
import type { ObjectMessage } from '../domain/object.ts';
import { checkSize } from '../domain/object_size.ts';
import { encode, type RecordFields } from '../domain/record.ts';
import type { StoredObject, WriteView } from '../store/port.ts';
import { isPublic } from './public_models.ts';

export type Outcome = 'created' | 'configured' | 'unchanged';

/** Stores what a user has written. Throws InvalidError when it is too large, which undoes the write. */
export function putFitting(
  view: WriteView,
  kind: KindName,
  object: ObjectMessage,
  fields: RecordFields,
  chain: string,
): StoredObject {
  const stored = view.put(encode(kind, object, fields), chain);
  checkSize(kind, object, stored.body.byteLength);
  return stored;
}

/** What a change to an object leaves beside its message. */
const fieldsAfter = (stored: StoredObject): RecordFields =>
  stored.kind === 'BayModel' ? { ...stored, epoch: isPublic(stored) ? 1 : 0 } : stored;

/** Within a write: stores what a change has made of an object. The node's agent is told of a new spec, and of nothing else. */
export function putChanged<T extends ObjectMessage>(
  view: WriteView,
  kind: KindName,
  stored: StoredObject,
  { object, changed, specChanged }: Changed<T>,
): { object: T; stored: StoredObject; outcome: Outcome } {
  if (!changed) return { object, stored, outcome: 'unchanged' };
  return {
    object,
    stored: putFitting(view, kind, object, fieldsAfter(stored), specChanged ? stored.assigneeUid : ''),
    outcome: 'configured',
  };
}
