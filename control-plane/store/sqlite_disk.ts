import type { Logger } from 'pino';
import type { CommitTarget } from './group_commit.ts';
import type { Loaded, Outcome } from './overlay.ts';
import type { ObjectKey, RequestKey, StoredObject } from './port.ts';
import type { SqliteConnection } from './sqlite_connection.ts';
import { batchParameters, toObject, toRequest } from './sqlite_rows.ts';
import {
  deleteChanges,
  deleteRequests,
  insertBatch,
  selectDeleted,
  selectHead,
  selectKeys,
} from './sqlite_statements.ts';

/** After so many bytes of log, by estimate, a checkpoint runs beside the writes. */
const checkpointBytes = 4 * 1024 * 1024;
/** At so many pages of log the writes wait until it can begin anew: it does not grow further under unbroken load. */
const restartPages = 8192;
const compactRows = 1000;

export interface SqliteDiskOptions {
  readonly writer: SqliteConnection;
  readonly checkpointer: SqliteConnection;
  readonly log: Pick<Logger, 'warn'>;
}

/** The side of the store that writes: batches, and the upkeep of the log between them. */
export class SqliteDisk implements CommitTarget {
  readonly #options: SqliteDiskOptions;
  #logBytes = 0;
  #checkpoint: Promise<number> | undefined;
  #logPages = 0;

  constructor(options: SqliteDiskOptions) {
    this.#options = options;
  }

  load(keys: readonly ObjectKey[], requests: readonly RequestKey[]): Promise<Loaded> {
    return loadKeys(this.#options.writer, keys, requests);
  }

  async commit(outcome: Outcome): Promise<void> {
    const parameters = batchParameters(outcome);
    for (const part of parameters) this.#logBytes += typeof part === 'string' ? part.length : 0;
    // The bodies twice, and a page or so for each change in the indexes.
    const bodies = parameters.at(-1);
    if (bodies instanceof Uint8Array) this.#logBytes += 2 * bodies.byteLength + 4096 * outcome.changes.length;
    await this.#options.writer.all(insertBatch, parameters);
  }

  async head(): Promise<number> {
    const [row] = await this.#options.writer.all<{ revision: number | null }>(selectHead);
    return row?.revision ?? 0;
  }

  async between(): Promise<void> {
    if (this.#logPages >= restartPages) {
      await this.#checkpoint;
      await this.#runCheckpoint('RESTART');
      // When a long read was in its way, the next checkpoint says so, and it is tried again.
      this.#logPages = 0;
      return;
    }
    if (this.#logBytes < checkpointBytes || this.#checkpoint) return;
    this.#logBytes = 0;
    this.#checkpoint = this.#runCheckpoint('PASSIVE').then((pages) => {
      this.#checkpoint = undefined;
      this.#logPages = pages;
      return pages;
    });
  }

  /** Forgets a slice of old changes and requests, and says whether there may be more. */
  async compact(revision: number, requestsBeforeMs: number): Promise<boolean> {
    const { writer } = this.#options;
    let more = false;
    for (const [sql, before] of [
      [deleteChanges, revision],
      [deleteRequests, requestsBeforeMs],
    ] as const) {
      await writer.all(sql, [before, compactRows]);
      const [row] = await writer.all<{ count: number }>(selectDeleted);
      more ||= (row?.count ?? 0) >= compactRows;
    }
    this.#logBytes += checkpointBytes / 8;
    return more;
  }

  /** Waits for the checkpoint that is under way. */
  async settle(): Promise<void> {
    await this.#checkpoint;
  }

  /** Returns how many pages the log has. A failure is no loss: the log goes on growing until one succeeds. */
  async #runCheckpoint(mode: 'PASSIVE' | 'RESTART'): Promise<number> {
    try {
      const [row] = await this.#options.checkpointer.all<{ busy: number; log: number; checkpointed: number }>(
        `PRAGMA wal_checkpoint(${mode})`,
      );
      return row?.log ?? 0;
    } catch (error) {
      this.#options.log.warn({ err: error }, 'store checkpoint failed');
      return 0;
    }
  }
}

/** What there is of these keys, in one statement. */
export const loadKeys = async (
  connection: SqliteConnection,
  keys: readonly ObjectKey[],
  requests: readonly RequestKey[],
): Promise<Loaded> => {
  const uids: string[] = [];
  const scoped: (string | undefined)[][] = [];
  const names: string[][] = [];
  for (const key of keys) {
    if (!('uid' in key)) names.push([key.kind, key.bayUid, key.project, key.namespace, key.name]);
    else if (key.within) scoped.push([key.uid, key.within.kind, key.within.project, key.within.bayUid]);
    else uids.push(key.uid);
  }
  const rows = await connection.all<{ attributes: string; body: Uint8Array | null }>(selectKeys, [
    JSON.stringify(uids),
    JSON.stringify(names),
    JSON.stringify(requests.map((request) => [request.project, request.requestId])),
    JSON.stringify(scoped),
  ]);
  const objects = new Map<string, StoredObject>();
  const found: Loaded['requests'][number][] = [];
  for (const { attributes, body } of rows) {
    if (body === null) found.push(toRequest(attributes));
    else {
      const object = toObject({ attributes, body });
      objects.set(object.uid, object);
    }
  }
  return { objects: [...objects.values()], requests: found };
};
