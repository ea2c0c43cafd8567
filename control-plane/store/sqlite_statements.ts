import { maxPageBytes } from '../domain/page.ts';
import type { ChangeFilter, ListQuery } from './port.ts';
import type { SqliteValue } from './sqlite_connection.ts';
import { attributeColumns, attributesOf, changeLink } from './sqlite_rows.ts';

const cells = (from: number, to: number): string =>
  Array.from({ length: to - from }, (_, i) => `r.value ->> ${from + i}`).join(', ');

/** The body of a row of the batch, whose place is in these two cells. */
const bodyAt = (cell: number): string => `substr(NEW.bodies, r.value ->> ${cell}, r.value ->> ${cell + 1})`;

/**
 * Sets up the writing connection. A batch is one INSERT into this view, and its trigger sees to the tables: so a whole commit is one
 * call, with no transaction to begin and end around it, and is undone whole by SQLite itself when any of it fails.
 */
export const batchView = `
  CREATE TEMP VIEW batch AS
    SELECT NULL AS gone, NULL AS inserts, NULL AS updates, NULL AS changes, NULL AS chains, NULL AS requests, NULL AS bodies;
  CREATE TEMP TRIGGER batch_insert INSTEAD OF INSERT ON batch BEGIN
    DELETE FROM objects WHERE uid IN (SELECT value FROM json_each(NEW.gone));
    INSERT INTO objects (${attributeColumns.join(', ')}, body)
      SELECT ${cells(0, 13)}, ${bodyAt(13)} FROM json_each(NEW.inserts) r;
    UPDATE objects SET
        generation = r.value ->> 1, deleting = r.value ->> 2, revision = r.value ->> 3,
        epoch = r.value ->> 4, sequence = r.value ->> 5, body = ${bodyAt(6)}
      FROM json_each(NEW.updates) r WHERE objects.uid = r.value ->> 0;
    INSERT INTO changes (revision, op, uid, chain, chain_previous, previous_revision, time_ms, attributes, body)
      SELECT ${cells(0, 8)}, ${bodyAt(8)} FROM json_each(NEW.changes) r;
    INSERT INTO chains (node_uid, head_revision)
      SELECT r.value ->> 0, r.value ->> 1 FROM json_each(NEW.chains) r WHERE true
      ON CONFLICT (node_uid) DO UPDATE SET head_revision = excluded.head_revision;
    INSERT INTO requests (project, request_id, uid, fingerprint, time_ms)
      SELECT ${cells(0, 5)} FROM json_each(NEW.requests) r WHERE true
      ON CONFLICT (project, request_id) DO UPDATE
        SET uid = excluded.uid, fingerprint = excluded.fingerprint, time_ms = excluded.time_ms;
  END;
`;

/** Parameters: batchParameters. */
export const insertBatch = 'INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?)';

/**
 * Parameters: uids, names as [kind, bay, project, namespace, name], requests as [project, id], uids that have to be somewhere as [uid, kind,
 * project, bay], null for anywhere; each a JSON array.
 */
export const selectKeys = `
  SELECT ${attributesOf('o')} AS attributes, o.body FROM json_each(?1) r CROSS JOIN objects o ON o.uid = r.value
  UNION ALL
  SELECT ${attributesOf('o')}, o.body FROM json_each(?2) r CROSS JOIN objects o
    ON o.kind = r.value ->> 0 AND o.bay_uid = r.value ->> 1 AND o.project = r.value ->> 2
      AND o.namespace = r.value ->> 3 AND o.name = r.value ->> 4
  UNION ALL
  SELECT ${attributesOf('o')}, o.body FROM json_each(?4) r CROSS JOIN objects o
    ON o.uid = r.value ->> 0 AND o.kind = r.value ->> 1
      AND o.project = coalesce(r.value ->> 2, o.project) AND o.bay_uid = coalesce(r.value ->> 3, o.bay_uid)
  UNION ALL
  SELECT json_array(q.project, q.request_id, q.uid, q.fingerprint), NULL FROM json_each(?3) r CROSS JOIN requests q
    ON q.project = r.value ->> 0 AND q.request_id = r.value ->> 1
`;

/** How many objects of each kind each project has, and their size. Read once, when the store is opened. */
export const selectUsage =
  'SELECT project, kind, count(*) AS count, sum(length(body)) AS bytes FROM objects GROUP BY project, kind';

export const selectHead = 'SELECT max(revision) AS revision FROM changes';

const head = 'SELECT coalesce(max(revision), 0) AS revision FROM changes';

// Several queries of one read are one statement each, a row of the head at least: so each sees one committed state, and is one call.

/**
 * A page, and one object more to tell whether there is more. Each row has the revision; without objects there is one row of nulls. What is not read, as what
 * comes before it is large enough for a page, is a row with `cut` and without an object.
 */
export const selectPage = (query: ListQuery): { sql: string; parameters: readonly SqliteValue[] } => {
  const conditions = ['kind = ?1'];
  const parameters: SqliteValue[] = [query.kind];
  const parameter = (value: SqliteValue): string => `?${parameters.push(value)}`;
  if (query.bayUid !== undefined) conditions.push(`bay_uid = ${parameter(query.bayUid)}`);
  if (query.project !== undefined) conditions.push(`project = ${parameter(query.project)}`);
  if (query.namespace !== undefined) conditions.push(`namespace = ${parameter(query.namespace)}`);
  if (query.name !== undefined) conditions.push(`name = ${parameter(query.name)}`);
  const columns = query.orderBy === 'name' ? ['namespace', 'name', 'uid'] : ['create_time_ms', 'uid'];
  if (query.after) {
    const { namespace, name, createTimeMs, uid } = query.after;
    const position = query.orderBy === 'name' ? [namespace, name, uid] : [createTimeMs, uid];
    const sign = query.descending ? '<' : '>';
    conditions.push(`(${columns.join(', ')}) ${sign} (${position.map(parameter).join(', ')})`);
  }
  const order = columns.map((column) => (query.descending ? `${column} DESC` : column)).join(', ');
  const chosen = `FROM objects WHERE ${conditions.join(' AND ')} ORDER BY ${order} LIMIT ${parameter(query.limit + 1)}`;
  const bytes = query.maxBytes ?? (query.limit <= fewObjects ? undefined : maxPageBytes);
  const rows = bytes === undefined ? whole(chosen) : asFarAs(chosen, columns, order, parameter(bytes));
  return { sql: `SELECT h.revision, o.cut, o.attributes, o.body FROM (${head}) h LEFT JOIN (${rows}) o`, parameters };
};

/** So few are never too large together. */
const fewObjects = 20;

const whole = (chosen: string): string => `SELECT 0 AS cut, ${attributesOf('objects')} AS attributes, body ${chosen}`;

/** Sizes are added up before anything is read: a body's length is known without it. */
const asFarAs = (chosen: string, columns: readonly string[], order: string, bytes: string): string => `
  SELECT before >= ${bytes} AS cut,
    CASE WHEN before < ${bytes} THEN attributes END AS attributes,
    CASE WHEN before < ${bytes} THEN (SELECT body FROM objects WHERE id = place) END AS body
  FROM (
    SELECT place, attributes, sum(size) OVER (ORDER BY ${order} ROWS UNBOUNDED PRECEDING) - size AS before, ${columns.join(', ')}
    FROM (SELECT id AS place, ${attributesOf('objects')} AS attributes, length(body) AS size, ${columns.join(', ')} ${chosen})
  ) ORDER BY ${order}
`;

/** Parameter: the bay. */
export const countInBay = `
  WITH RECURSIVE kinds (kind) AS (
    SELECT min(kind) FROM objects
    UNION ALL SELECT (SELECT min(kind) FROM objects WHERE kind > kinds.kind) FROM kinds WHERE kinds.kind IS NOT NULL
  )
  SELECT count(*) AS count FROM kinds CROSS JOIN objects o ON o.kind = kinds.kind AND o.bay_uid = ?1
  WHERE kinds.kind <> 'Node'
`;

/** Parameter: the node. */
export const selectAssigned = `
  SELECT h.head, o.attributes, o.body
  FROM (SELECT coalesce((SELECT head_revision FROM chains WHERE node_uid = ?1), 0) AS head) h
  LEFT JOIN (
    SELECT ${attributesOf('objects')} AS attributes, body FROM objects WHERE node_uid = ?1 AND node_uid <> '' ORDER BY id
  ) o
`;

/**
 * Parameters: the node, the revision, the limit plus one. `gap`: the newest link that is not kept, or that the asker must have had.
 */
export const selectChain = `
  SELECT h.head, h.gap, ${changeLink('c')} AS link, c.attributes, c.body, NULL AS previous_attributes, NULL AS previous_body
  FROM (SELECT
    coalesce((SELECT head_revision FROM chains WHERE node_uid = ?1), 0) AS head,
    (SELECT chain_previous FROM changes WHERE chain = ?1 AND chain <> '' AND revision > ?2 ORDER BY revision LIMIT 1) AS gap
  ) h
  LEFT JOIN (
    SELECT max(revision) AS revision FROM changes WHERE chain = ?1 AND chain <> '' AND revision > ?2
    GROUP BY uid ORDER BY 1 LIMIT ?3
  ) newest
  LEFT JOIN changes c ON c.revision = newest.revision
`;

/** The changes after a revision, oldest first. Each row has the oldest revision kept. */
export const selectChanges = (
  revision: number,
  limit: number,
  { kind, project, bayUid }: Partial<ChangeFilter>,
  maxBytes: number,
): { sql: string; parameters: readonly SqliteValue[] } => {
  const conditions = ['revision > ?1'];
  const parameters: SqliteValue[] = [revision, limit, maxBytes];
  // As the indexes have them.
  for (const [cell, value] of [
    [1, kind],
    [2, project],
    [3, bayUid],
  ] as const) {
    if (value !== undefined) conditions.push(`attributes ->> ${cell} = ?${parameters.push(value)}`);
  }
  if (bayUid) conditions.push("attributes ->> 3 <> ''");
  const by = bayUid ? 'INDEXED BY changes_bay' : kind ? 'INDEXED BY changes_kind' : '';
  const sql = `
    SELECT h.oldest, ${changeLink('c')} AS link, c.attributes, c.body,
      p.attributes AS previous_attributes, p.body AS previous_body
    FROM (SELECT coalesce(min(revision), 1) AS oldest FROM changes) h
    LEFT JOIN (
      SELECT place, sum(size) OVER (ORDER BY place ROWS UNBOUNDED PRECEDING) - size AS before FROM (
        SELECT revision AS place, length(body) AS size FROM changes ${by}
        WHERE ${conditions.join(' AND ')} ORDER BY revision LIMIT ?2
      )
    ) chosen ON chosen.before < ?3
    LEFT JOIN changes c ON c.revision = chosen.place
    LEFT JOIN changes p ON p.revision = c.previous_revision AND c.op = 'put'
    ORDER BY c.revision`;
  return { sql, parameters };
};

/** Parameter: how many bytes the changes may have from the first one on that is asked for. Nothing is added up while the whole file has no more. */
export const selectFirstWithin = `
  SELECT coalesce(max(revision), 0) + 1 AS revision FROM (
    SELECT revision, sum(length(body)) OVER (ORDER BY revision DESC) AS bytes FROM changes
    WHERE (SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()) > ?1
  ) WHERE bytes > ?1
`;

/** Parameters: the first revision to keep, and how many to forget at most. The newest stays, whatever is asked. */
export const deleteChanges = `
  DELETE FROM changes WHERE revision < min(
    ?1, (SELECT max(revision) FROM changes), (SELECT min(revision) FROM changes) + ?2
  )
`;

/** Parameters: the first time to keep, and how many to forget at most. */
export const deleteRequests = `
  DELETE FROM requests WHERE (project, request_id) IN (
    SELECT project, request_id FROM requests WHERE time_ms < ?1 ORDER BY time_ms LIMIT ?2
  )
`;

/** How many rows the statement before it on this connection deleted. */
export const selectDeleted = 'SELECT changes() AS count';
