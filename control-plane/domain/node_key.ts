import { decodeOwn, encodeOwn } from './own_record.ts';
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
export const encodeNodeKey = (value: NodeKeyRecord, createTimeMs: number): ((revision: number) => StoredRecord) =>
  encodeOwn({ ...nodeKeyKey(value.publicKey), uid: `key-${value.publicKey}`, createTimeMs, value });

export const decodeNodeKey = (stored: StoredRecord): NodeKeyRecord =>
  decodeOwn<NodeKeyRecord>(stored, ({ publicKey }) => publicKey === stored.name);
