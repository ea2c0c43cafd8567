import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { type KindName, type Kinds, kinds } from './kinds.ts';
import type { ObjectMessage } from './object.ts';

/** An object as it lies in the store: what is searched by, and the whole as protobuf. */
export interface StoredRecord {
  readonly uid: string;
  /** One of the seven kinds, or a kind of the control plane's own (`JoinToken`). */
  readonly kind: string;
  readonly project: string;
  /** Empty for kinds that are not in a bay. */
  readonly bayUid: string;
  /** Empty for kinds without. */
  readonly namespace: string;
  readonly name: string;
  /** What it is assigned to: a node, or its bay, when that is a Kubernetes bay. Empty: nothing yet. */
  readonly assigneeUid: string;
  readonly generation: number;
  /** Its deletion is asked for. */
  readonly deleting: boolean;
  readonly revision: number;
  /** Epoch and sequence of the report that its status comes from (Promise 4). Of a Node: the epoch of its newest session.
   * Of a BayModel: 1 when every project saw it before this change, for what was before may be forgotten. */
  readonly epoch: number;
  readonly sequence: number;
  readonly createTimeMs: number;
  /** The object, serialized. */
  readonly body: Uint8Array;
}

/** What a stored object has beside its message. */
export interface RecordFields {
  readonly bayUid: string;
  readonly assigneeUid: string;
  readonly epoch: number;
  readonly sequence: number;
}

/** Fields of an object that has just been made. */
export const newRecord = (bayUid: string, assigneeUid: string): RecordFields => ({
  bayUid,
  assigneeUid,
  epoch: 0,
  sequence: 0,
});

/** The message of a stored object. Its revision is that of the record, whoever wrote it. */
export function decode<K extends KindName>(kind: K, stored: Pick<StoredRecord, 'body' | 'revision'>): Kinds[K] {
  const object = fromBinary(kinds[kind].schema, stored.body) as ObjectMessage;
  if (object.metadata) object.metadata.revision = BigInt(stored.revision);
  return object as Kinds[K];
}

/**
 * What `WriteView.put` takes to store this message. The record's fields come out of the message's metadata, so that the two never disagree. The
 * message has its new revision afterwards.
 */
export function encode(
  kind: KindName,
  object: ObjectMessage,
  fields: RecordFields,
): (revision: number) => StoredRecord {
  return (revision) => {
    const { metadata } = object;
    if (!metadata) throw new Error(`a ${kind} without metadata cannot be stored`);
    metadata.revision = BigInt(revision);
    return {
      uid: metadata.uid,
      kind,
      project: metadata.project,
      bayUid: fields.bayUid,
      namespace: metadata.namespace,
      name: metadata.name,
      assigneeUid: fields.assigneeUid,
      generation: Number(metadata.generation),
      deleting: metadata.deleteTime !== undefined,
      revision,
      epoch: fields.epoch,
      sequence: fields.sequence,
      createTimeMs: metadata.createTime
        ? Number(metadata.createTime.seconds) * 1000 + Math.floor(metadata.createTime.nanos / 1e6)
        : 0,
      body: toBinary(kinds[kind].schema, object),
    };
  };
}
