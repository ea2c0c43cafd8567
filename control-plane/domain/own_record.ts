import type { StoredRecord } from './record.ts';

/** What the control plane keeps for itself beside the seven kinds, as JSON: tokens, and keys of nodes. */
export interface OwnRecord<T extends object> {
  readonly kind: string;
  readonly uid: string;
  /** Empty: of no project. */
  readonly project: string;
  readonly name: string;
  readonly createTimeMs: number;
  readonly value: T;
}

/** As it is stored. It is in no bay's column, so that it does not count as something in a bay. */
export function encodeOwn<T extends object>({ value, ...row }: OwnRecord<T>): (revision: number) => StoredRecord {
  return (revision) => ({
    ...row,
    bayUid: '',
    namespace: '',
    assigneeUid: '',
    generation: 1,
    deleting: false,
    revision,
    epoch: 0,
    sequence: 0,
    body: Buffer.from(JSON.stringify(value)),
  });
}

/** Only the control plane itself writes these: throws for one that cannot be read, or is another than its row says, as then the store is broken. */
export function decodeOwn<T extends object>(stored: StoredRecord, isIt: (value: T) => boolean): T {
  const value: unknown = JSON.parse(Buffer.from(stored.body).toString('utf8'));
  if (typeof value !== 'object' || value === null || !isIt(value as T)) {
    throw new Error(`${stored.kind} ${stored.name} is broken in the store`);
  }
  return value as T;
}
