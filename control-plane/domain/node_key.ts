import type { StoredRecord } from './record.ts';

/** The store's kind of the records that say which node a public key belongs to. Found by name: the key. */
export const nodeKeyKind = 'NodeKey';

/** Whose a public key is, or was: it outlives its node, so that a key that was cut off does not come back as a new node. */
export interface NodeKeyRecord {
  readonly publicKey: string;
  readonly nodeUid: string;
  readonly project: string;
  readonly bayUid: string;
}

/** Where a key's record is found. Keys are unique over all projects. */
export const nodeKeyKey = (publicKey: string) => ({
  kind: nodeKeyKind,
  project: '',
  bayUid: '',
  namespace: '',
  name: publicKey,
});

/** As it is stored. */
export function encodeNodeKey(record: NodeKeyRecord, createTimeMs: number): (revision: number) => StoredRecord {
  return (revision) => ({
    uid: `key-${record.publicKey}`,
    kind: nodeKeyKind,
    project: '',
    bayUid: '',
    namespace: '',
    name: record.publicKey,
    assigneeUid: '',
    generation: 1,
    deleting: false,
    revision,
    epoch: 0,
    sequence: 0,
    createTimeMs,
    body: Buffer.from(JSON.stringify(record)),
  });
}

/** Only the control plane itself writes these; one that cannot be read is a broken store. */
export function decodeNodeKey(stored: StoredRecord): NodeKeyRecord {
  const record: unknown = JSON.parse(Buffer.from(stored.body).toString('utf8'));
  if (typeof record !== 'object' || record === null || (record as NodeKeyRecord).publicKey !== stored.name) {
    throw new Error(`the record of key ${stored.name} is broken in the store`);
  }
  return record as NodeKeyRecord;
}
