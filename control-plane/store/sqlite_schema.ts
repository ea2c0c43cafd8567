import { PreconditionError } from '../domain/errors.ts';
import { DamagedError, type SqliteConnection } from './sqlite_connection.ts';

/** Marks a file as ours in its header: "BayK". */
const applicationId = 0x4261794b;

/**
 * The schema, step by step: entry n leads from version n to n + 1. What has been released is never changed, only added to.
 */
const migrations: readonly string[] = [
  `
  -- The objects as they are.
  CREATE TABLE objects (
    id INTEGER PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    project TEXT NOT NULL,
    bay_uid TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    node_uid TEXT NOT NULL,
    create_time_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    deleting INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    body BLOB NOT NULL
  ) STRICT;
  -- The bay before the project: the control plane itself asks by bay alone.
  CREATE UNIQUE INDEX objects_name ON objects (kind, bay_uid, project, namespace, name);
  CREATE INDEX objects_time ON objects (kind, project, create_time_ms, uid);
  CREATE INDEX objects_node ON objects (node_uid) WHERE node_uid <> '';

  -- What became of them. From the oldest revision kept to the newest there is no gap, and the newest is always kept.
  CREATE TABLE changes (
    revision INTEGER PRIMARY KEY,
    op TEXT NOT NULL,
    uid TEXT NOT NULL,
    chain TEXT NOT NULL,
    chain_previous INTEGER NOT NULL,
    previous_revision INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    -- The object but for its body, as a JSON array: see sqlite_rows.ts.
    attributes TEXT NOT NULL,
    body BLOB NOT NULL
  ) STRICT;
  CREATE INDEX changes_chain ON changes (chain, revision, uid) WHERE chain <> '';

  -- The newest link of each node's chain, which outlives the change itself.
  CREATE TABLE chains (
    node_uid TEXT NOT NULL PRIMARY KEY,
    head_revision INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;

  -- Which request made what.
  CREATE TABLE requests (
    project TEXT NOT NULL,
    request_id TEXT NOT NULL,
    uid TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (project, request_id)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX requests_time ON requests (time_ms);
  `,
  `
  -- What others have done is not gone through to find what became of a bay, or of the few objects that are in none. Each leads to revisions in order.
  CREATE INDEX changes_kind ON changes (attributes ->> 1);
  CREATE INDEX changes_bay ON changes (attributes ->> 3) WHERE attributes ->> 3 <> '';
  `,
];

/** The version that this program writes. */
export const schemaVersion: number = migrations.length;

const number = async (connection: SqliteConnection, sql: string): Promise<number> => {
  const [row] = await connection.all<{ value: number }>(sql);
  return row?.value ?? 0;
};

const readVersion = (connection: SqliteConnection): Promise<number> =>
  number(connection, 'SELECT user_version AS value FROM pragma_user_version');

/** Rejects with PreconditionError when the file is somebody else's, or comes from a newer program. Changes nothing. */
export const checkOwner = async (connection: SqliteConnection, file: string): Promise<void> => {
  const application = await number(connection, 'SELECT application_id AS value FROM pragma_application_id');
  const tables = await number(connection, 'SELECT count(*) AS value FROM sqlite_schema');
  if (application !== applicationId && (application !== 0 || tables > 0)) {
    throw new PreconditionError(
      `${file} is a database of another program: put back the right file, or move this one away`,
    );
  }
  const version = await readVersion(connection);
  if (version > schemaVersion) {
    throw new PreconditionError(
      `${file} was written by a newer Baykeeper (schema ${version}, this one knows ${schemaVersion}): start that one, or put back a backup`,
    );
  }
};

/** Brings a file to the newest schema, step by step, each in a transaction of its own; an empty file gets all of it. */
export const migrate = async (connection: SqliteConnection): Promise<void> => {
  const version = await readVersion(connection);
  for (const [i, migration] of migrations.entries()) {
    if (i < version) continue;
    await connection.exec('BEGIN IMMEDIATE');
    try {
      await connection.exec(
        `${migration}; PRAGMA application_id = ${applicationId}; PRAGMA user_version = ${i + 1}; COMMIT`,
      );
    } catch (error) {
      // SQLite may have rolled back by itself, when the disk is full for one: then there is nothing left to undo.
      await connection.exec('ROLLBACK').catch(() => undefined);
      throw error;
    }
  }
};

/** Rejects with DamagedError when pages of the file do not fit together. Reads the whole file. */
export const checkIntegrity = async (connection: SqliteConnection, file: string): Promise<void> => {
  const rows = await connection.all<{ quick_check: string }>('PRAGMA quick_check(1)');
  const found = rows[0]?.quick_check;
  if (found !== 'ok') {
    throw new DamagedError(`${file} is damaged: put back a backup`, { cause: new Error(found ?? 'no answer') });
  }
};
