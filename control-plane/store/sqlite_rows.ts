import type { Outcome } from './overlay.ts';
import type { Change, RememberedRequest, RequestKey, StoredObject } from './port.ts';
import type { SqliteValue } from './sqlite_connection.ts';

/**
 * An object without its body as a JSON array, in this order. Rows cross into JavaScript as one such text and one buffer: by columns it
 * would take several times as long.
 */
type Attributes = readonly [
  uid: string,
  kind: string,
  project: string,
  bayUid: string,
  namespace: string,
  name: string,
  assigneeUid: string,
  createTimeMs: number,
  generation: number,
  deleting: 0 | 1,
  revision: number,
  epoch: number,
  sequence: number,
];

/** The same order, as columns of `objects`. `node_uid` is the assignee's: a node's, or its bay's. */
export const attributeColumns: readonly string[] = [
  'uid',
  'kind',
  'project',
  'bay_uid',
  'namespace',
  'name',
  'node_uid',
  'create_time_ms',
  'generation',
  'deleting',
  'revision',
  'epoch',
  'sequence',
];

/** SQL that makes the array of a row of `objects`. */
export const attributesOf = (table: string): string =>
  `json_array(${attributeColumns.map((column) => `${table}.${column}`).join(', ')})`;

const attributes = (o: StoredObject): Attributes => [
  o.uid,
  o.kind,
  o.project,
  o.bayUid,
  o.namespace,
  o.name,
  o.assigneeUid,
  o.createTimeMs,
  o.generation,
  o.deleting ? 1 : 0,
  o.revision,
  o.epoch,
  o.sequence,
];

export interface ObjectRow {
  readonly attributes: string;
  readonly body: Uint8Array;
}

export const toObject = (row: ObjectRow): StoredObject => {
  const a = JSON.parse(row.attributes) as Attributes;
  return {
    uid: a[0],
    kind: a[1],
    project: a[2],
    bayUid: a[3],
    namespace: a[4],
    name: a[5],
    assigneeUid: a[6],
    createTimeMs: a[7],
    generation: a[8],
    deleting: a[9] === 1,
    revision: a[10],
    epoch: a[11],
    sequence: a[12],
    body: row.body,
  };
};

export interface ChangeRow extends ObjectRow {
  /** JSON: see changeLink. */
  readonly link: string;
  readonly previous_attributes: string | null;
  readonly previous_body: Uint8Array | null;
}

/** SQL that makes the rest of a change as a JSON array. */
export const changeLink = (table: string): string =>
  `json_array(${['revision', 'op', 'chain', 'chain_previous', 'time_ms', 'previous_revision']
    .map((column) => `${table}.${column}`)
    .join(', ')})`;

export const toChange = (row: ChangeRow): Change => {
  const [revision, op, chain, chainPrevious, timeMs, previousRevision] = JSON.parse(row.link) as [
    number,
    'put' | 'remove',
    string,
    number,
    number,
    number,
  ];
  const object = toObject(row);
  const { previous_attributes, previous_body } = row;
  return {
    revision,
    op,
    object,
    chain,
    chainPrevious,
    timeMs,
    previousRevision,
    previous:
      op === 'remove'
        ? object
        : previous_attributes !== null && previous_body !== null
          ? toObject({ attributes: previous_attributes, body: previous_body })
          : undefined,
  };
};

/** A request as `load` finds it. */
export const toRequest = (text: string): RequestKey & RememberedRequest => {
  const [project, requestId, uid, fingerprint] = JSON.parse(text) as [string, string, string, string];
  return { project, requestId, uid, fingerprint };
};

/** A batch as the parameters of the statement that writes it: lists of rows as JSON, and all bodies in one buffer. */
export const batchParameters = (outcome: Outcome): readonly SqliteValue[] => {
  const places = new Map<Uint8Array, number>();
  // From 1, as SQL counts; and the one byte keeps the buffer from being empty, which would be bound as NULL.
  let end = 2;
  const place = (body: Uint8Array): readonly [offset: number, length: number] => {
    let offset = places.get(body);
    if (offset === undefined) {
      offset = end;
      places.set(body, offset);
      end += body.byteLength;
    }
    return [offset, body.byteLength];
  };
  const inserts = outcome.inserts.map((o) => [...attributes(o), ...place(o.body)]);
  const updates = outcome.updates.map((o) => [
    o.uid,
    o.generation,
    o.deleting ? 1 : 0,
    o.revision,
    o.epoch,
    o.sequence,
    ...place(o.body),
  ]);
  const changes = outcome.changes.map((c) => [
    c.revision,
    c.op,
    c.object.uid,
    c.chain,
    c.chainPrevious,
    c.previousRevision ?? 0,
    c.timeMs,
    JSON.stringify(attributes(c.object)),
    ...place(c.object.body),
  ]);
  const requests = outcome.requests.map((r) => [r.project, r.requestId, r.uid, r.fingerprint, r.timeMs]);
  const bodies = Buffer.allocUnsafe(end - 1);
  bodies[0] = 0;
  for (const [body, offset] of places) bodies.set(body, offset - 1);
  return [
    JSON.stringify(outcome.gone),
    JSON.stringify(inserts),
    JSON.stringify(updates),
    JSON.stringify(changes),
    JSON.stringify([...outcome.chainHeads]),
    JSON.stringify(requests),
    bodies,
  ];
};
