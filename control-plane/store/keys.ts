import { InvalidError } from '../domain/errors.ts';
import type { ObjectKey, ObjectScope, RequestKey, StoredObject } from './port.ts';

/** What an object's name is unique by. */
export interface NameKey {
  readonly kind: string;
  readonly project: string;
  readonly bayUid: string;
  readonly namespace: string;
  readonly name: string;
}

/** The key by name as one string, to look up in a Map. */
export const nameText = (key: NameKey): string =>
  `${key.kind}\0${key.project}\0${key.bayUid}\0${key.namespace}\0${key.name}`;

/** Any key as one string; a uid never looks like a name. */
export const keyText = (key: ObjectKey): string => {
  if (!('uid' in key)) return nameText(key);
  if (!key.within) return key.uid;
  const { kind, project, bayUid } = key.within;
  return `${key.uid}\0${kind}\0${given(project)}\0${given(bayUid)}`;
};
/** So that none is not the empty one. */
const given = (text: string | undefined): string => (text === undefined ? '' : `=${text}`);

/** Whether an object is where a key says that it has to be. */
export const isWithin = (object: StoredObject, { kind, project, bayUid }: ObjectScope): boolean =>
  object.kind === kind &&
  (project === undefined || object.project === project) &&
  (bayUid === undefined || object.bayUid === bayUid);

export const requestText = (key: RequestKey): string => `${key.project}\0${key.requestId}`;

/**
 * Whether a store can keep this text and give back the same: a NUL would let two keys look alike, half a surrogate pair has no UTF-8.
 */
export const isStorable = (text: string): boolean => !text.includes('\0') && text.isWellFormed();

const keyFields = ['uid', 'kind', 'project', 'bayUid', 'namespace', 'name'] as const;

const fieldsOf = (key: ObjectKey): Partial<Record<(typeof keyFields)[number], string>> =>
  'uid' in key ? { ...key.within, uid: key.uid } : key;

/** Whether there can be anything with this key. */
export const isStorableKey = (key: ObjectKey): boolean =>
  Object.values(fieldsOf(key)).every((text) => text === undefined || isStorable(text));

/** Throws InvalidError when a key holds text that cannot be kept. */
export const checkKey = (key: ObjectKey): void => {
  const fields = fieldsOf(key);
  for (const field of keyFields) {
    const text = fields[field];
    if (text !== undefined && !isStorable(text)) throw new InvalidError(field, 'expected text without NUL characters');
  }
};

/** Throws InvalidError when a request key holds text that cannot be kept. */
export const checkRequest = (key: RequestKey): void => {
  if (!isStorable(key.project) || !isStorable(key.requestId)) {
    throw new InvalidError('request_id', 'expected text without NUL characters');
  }
};

const numberFields = ['generation', 'revision', 'epoch', 'sequence', 'createTimeMs'] as const;

/** Throws when an object could not be read back as it is. */
export const checkObject = (object: StoredObject, revision: number): void => {
  checkKey({ uid: object.uid });
  checkKey(object as NameKey);
  if (object.uid === '') throw new TypeError('an object without a uid was put');
  if (!isStorable(object.assigneeUid)) throw new InvalidError('assigneeUid', 'expected text without NUL characters');
  for (const field of numberFields) {
    if (!Number.isSafeInteger(object[field])) throw new TypeError(`${field} of an object is not a safe integer`);
  }
  if (object.revision !== revision) {
    throw new TypeError(`an object was put with revision ${object.revision} in place of ${revision}`);
  }
};
