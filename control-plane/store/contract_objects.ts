import type { NameKey } from './keys.ts';
import type { Change, StoredObject, Write } from './port.ts';

/** Objects and writes for the tests of stores. */

let counter = 0;

/** A uid that no other test has. */
export const newUid = (): string => {
  counter += 1;
  return `uid-${process.pid}-${String(counter).padStart(8, '0')}`;
};

/** The name of an object, or of none. */
export const nameKey = (name: string, rest: Partial<NameKey> = {}): NameKey => ({
  kind: rest.kind ?? 'Container',
  project: rest.project ?? 'red',
  bayUid: rest.bayUid ?? 'bay-1',
  namespace: rest.namespace ?? 'default',
  name,
});

export const makeObject = (fields: Partial<StoredObject> & { readonly name: string }): StoredObject => ({
  ...nameKey(fields.name),
  uid: newUid(),
  assigneeUid: '',
  generation: 1,
  deleting: false,
  revision: 0,
  epoch: 0,
  sequence: 0,
  createTimeMs: 1000,
  body: Buffer.from(`body of ${fields.name}`),
  ...fields,
});

/** Creates or replaces the object; its revision is given by the store. */
export const put = (object: StoredObject, chain = ''): Write<StoredObject> => ({
  reads: [{ uid: object.uid }, nameKey(object.name, object)],
  apply: (view) => view.put((revision) => ({ ...object, revision }), chain),
});

/** Creates the object, and does not ask whether its uid is free. */
export const create = (object: StoredObject, chain = ''): Write<StoredObject> => ({
  ...put(object, chain),
  reads: [nameKey(object.name, object)],
});

export const remove = (uid: string, chain = ''): Write<void> => ({
  reads: [{ uid }],
  apply: (view) => view.remove(uid, chain),
});

/** Does it all as one write. */
export const together = (...writes: readonly Write<unknown>[]): Write<void> => ({
  reads: writes.flatMap((write) => write.reads),
  apply: (view) => {
    for (const write of writes) write.apply(view);
  },
});

/** Does it all, and then throws. */
export const failing = (error: Error, ...writes: readonly Write<unknown>[]): Write<never> => ({
  reads: writes.flatMap((write) => write.reads),
  apply: (view) => {
    for (const write of writes) write.apply(view);
    throw error;
  },
});

/** An object as plain data, to compare. */
export const plain = (object: StoredObject | undefined): unknown =>
  object && { ...object, body: Buffer.from(object.body).toString('base64') };

/** Changes in short, to compare. */
export const inShort = (changes: readonly Change[]): unknown[] => changes.map((c) => [c.revision, c.op, c.object.name]);
