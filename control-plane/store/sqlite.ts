import { mkdir, open, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Logger } from 'pino';
import { CompactedError, PreconditionError, UnavailableError } from '../domain/errors.ts';
import { ChangeFeed } from './feed.ts';
import { type CommitMetrics, GroupCommit } from './group_commit.ts';
import { isStorableKey, isWithin, keyText, nameText } from './keys.ts';
import type {
  AssignedSet,
  ChainDelta,
  Change,
  ChangeFilter,
  ListPage,
  ListQuery,
  ObjectKey,
  Store,
  StoredObject,
  Usage,
  Write,
} from './port.ts';
import { DamagedError, SqliteConnection, type SqliteValue } from './sqlite_connection.ts';
import { loadKeys, SqliteDisk } from './sqlite_disk.ts';
import { lockStore } from './sqlite_lock.ts';
import { SqliteReaders } from './sqlite_readers.ts';
import { type ChangeRow, type ObjectRow, toChange, toObject } from './sqlite_rows.ts';
import { checkIntegrity, checkOwner, migrate } from './sqlite_schema.ts';
import {
  batchView,
  countInBay,
  selectAssigned,
  selectChain,
  selectChanges,
  selectFirstWithin,
  selectPage,
  selectUsage,
} from './sqlite_statements.ts';
import { bytesKey, countKey, usageOf } from './usage.ts';

export interface SqliteStoreOptions {
  /** Path of the database. It is made, with its folder, when it is not there; `-wal`, `-shm` and `.lock` files lie beside it. */
  readonly file: string;
  readonly clock: { now(): number };
  readonly log: Pick<Logger, 'info' | 'warn' | 'error'>;
  readonly metrics?: CommitMetrics;
  /** How many reads run at a time. Each takes a thread of Node's pool (4, unless UV_THREADPOOL_SIZE says more); the writer takes one. */
  readonly readers?: number;
  /** How many writes wait at most before a further one is refused. */
  readonly maxWaiting?: number;
}

const busyTimeoutMs = 5000;
/** A file up to this size is checked whole when it is opened (some tenths of a second). */
const checkUpToBytes = 256 * 1024 * 1024;
const getsTogether = 256;

/**
 * Opens the store in an SQLite file, for this process alone.
 *
 * Rejects with UnavailableError when another process has it open, the disk is full, or the folder cannot be used; with
 * PreconditionError when the file is damaged, is not ours, or was written by a newer program.
 */
export const openSqliteStore = async (options: SqliteStoreOptions): Promise<Store> => {
  const { log } = options;
  const started = performance.now();
  const file = await prepareFile(options.file);
  const opened: { close(): Promise<void> }[] = [];
  try {
    const lock = await lockStore(file);
    opened.unshift({ close: () => lock.release() });
    const connect = async (timeoutMs: number): Promise<SqliteConnection> => {
      const connection = await SqliteConnection.open({ file, readOnly: false, busyTimeoutMs: timeoutMs });
      opened.unshift(connection);
      return connection;
    };
    const writer = await connect(busyTimeoutMs);
    await checkOwner(writer, file);
    const [mode] = await writer.all<{ journal_mode: string }>('PRAGMA journal_mode = WAL');
    if (mode?.journal_mode !== 'wal')
      throw new UnavailableError(`the disk of ${file} cannot keep a shared log: use a local disk`);
    await writer.exec(`
      PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 33554432;
      PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;
    `);
    if ((await stat(file)).size <= checkUpToBytes) await checkIntegrity(writer, file);
    await migrate(writer);
    await writer.exec(batchView);
    const checkpointer = await connect(100);
    await checkpointer.exec('PRAGMA cache_size = -256; PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = FULL');
    const readers = await SqliteReaders.open(file, options.readers ?? 2, busyTimeoutMs);
    opened.unshift(readers);
    const chains = await writer.all<{ node_uid: string; head_revision: number }>(
      'SELECT node_uid, head_revision FROM chains',
    );
    const chainHeads = new Map(chains.map((row) => [row.node_uid, row.head_revision]));
    const usage = new Map<string, number>();
    for (const row of await writer.all<UsageRow>(selectUsage)) {
      usage.set(countKey(row), row.count);
      usage.set(bytesKey(row), (usage.get(bytesKey(row)) ?? 0) + row.bytes);
    }
    const disk = new SqliteDisk({ writer, checkpointer, log });
    const revision = await disk.head();
    log.info({ file, revision, durationMs: Math.round(performance.now() - started) }, 'store opened');
    return new SqliteStore({ options, disk, readers, revision, chainHeads, usage, opened });
  } catch (error) {
    for (const part of opened) {
      await part.close().catch((cause) => log.warn({ err: cause, file }, 'store did not close cleanly'));
    }
    if (error instanceof DamagedError) throw new PreconditionError(error.message, { cause: error });
    throw error;
  }
};

/** Makes folder and file when they are not there (the file for its owner alone), and returns its path without symbolic links. */
const prepareFile = async (file: string): Promise<string> => {
  try {
    await mkdir(dirname(file), { recursive: true, mode: 0o700 });
    const folder = await realpath(dirname(file));
    // Never opened when it is there: closing it would end the locks that this process may hold on it (the way of POSIX).
    const made = await open(file, 'wx', 0o600).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
    await made?.close();
    const directory = await open(folder, 'r');
    await directory.sync();
    await directory.close();
    return await realpath(join(folder, basename(file)));
  } catch (error) {
    throw new UnavailableError(`${file} cannot be opened: ${error instanceof Error ? error.message : error}`, {
      cause: error,
    });
  }
};

interface UsageRow {
  readonly project: string;
  readonly kind: string;
  readonly count: number;
  readonly bytes: number;
}

interface Get {
  readonly key: ObjectKey;
  readonly resolve: (object: StoredObject | undefined) => void;
  readonly reject: (error: unknown) => void;
}

interface SqliteStoreParts {
  readonly options: SqliteStoreOptions;
  readonly disk: SqliteDisk;
  readonly readers: SqliteReaders;
  readonly revision: number;
  readonly chainHeads: Map<string, number>;
  readonly usage: Map<string, number>;
  /** Everything to close, in this order. */
  readonly opened: readonly { close(): Promise<void> }[];
}

class SqliteStore implements Store {
  readonly #parts: SqliteStoreParts;
  readonly #feed: ChangeFeed;
  readonly #commits: GroupCommit;
  #revision: number;
  #gets: Get[] = [];
  #getting = false;
  #closing: Promise<void> | undefined;

  constructor(parts: SqliteStoreParts) {
    this.#parts = parts;
    this.#revision = parts.revision;
    const { clock, log, metrics, maxWaiting } = parts.options;
    this.#feed = new ChangeFeed((error) => log.error({ err: error }, 'a listener of the store failed'));
    this.#commits = new GroupCommit({
      target: parts.disk,
      clock,
      metrics,
      maxWaiting,
      revision: parts.revision,
      chainHeads: parts.chainHeads,
      usage: parts.usage,
      onCommit: (changes, revision) => {
        this.#revision = revision;
        this.#feed.publish(changes);
      },
      onFailure: (error) => log.error({ err: error }, 'store commit failed'),
    });
  }

  get revision(): number {
    return this.#revision;
  }

  usage(project: string): Usage {
    return usageOf(project, (key) => this.#parts.usage.get(key));
  }

  projects(): readonly string[] {
    return [...new Set([...this.#parts.usage.keys()].map((key) => key.slice(0, key.indexOf('\0'))))].sort();
  }

  write<T>(write: Write<T>): Promise<T> {
    return this.#commits.write(write);
  }

  subscribe(listener: (changes: readonly Change[]) => void, only?: ChangeFilter): () => void {
    return this.#feed.subscribe(listener, only);
  }

  get(key: ObjectKey): Promise<StoredObject | undefined> {
    return new Promise((resolve, reject) => {
      if (!isStorableKey(key)) return resolve(undefined);
      this.#gets.push({ key, resolve, reject });
      if (!this.#getting) void this.#answerGets();
    });
  }

  /** Gets that come while one is under way are answered together by the next: a call costs much more than a row. */
  async #answerGets(): Promise<void> {
    this.#getting = true;
    while (this.#gets.length > 0) {
      const gets = this.#gets.splice(0, getsTogether);
      try {
        const keys = new Map(gets.map(({ key }) => [keyText(key), key]));
        const { objects } = await this.#parts.readers.read((reader) => loadKeys(reader, [...keys.values()], []));
        const found = new Map<string, StoredObject>();
        for (const object of objects) {
          found.set(object.uid, object);
          found.set(nameText(object), object);
        }
        for (const { key, resolve } of gets) {
          if (!('uid' in key)) resolve(found.get(nameText(key)));
          else {
            // Another of these gets may have asked for the same object, and may see it.
            const object = found.get(key.uid);
            resolve(object && key.within && !isWithin(object, key.within) ? undefined : object);
          }
        }
      } catch (error) {
        for (const { reject } of gets) reject(error);
      }
    }
    this.#getting = false;
  }

  async list(query: ListQuery): Promise<ListPage> {
    const { sql, parameters } = selectPage(query);
    const rows = await this.#read<{ revision: number; cut: number | null } & Partial<Nullable<ObjectRow>>>(
      sql,
      parameters,
    );
    const objects = rows.filter(hasObject).map(toObject);
    const isFull = objects.length > query.limit;
    if (isFull) objects.length = query.limit;
    return { objects, revision: rows[0]?.revision ?? 0, more: isFull || rows.at(-1)?.cut === 1 };
  }

  async countInBay(bayUid: string): Promise<number> {
    const [row] = await this.#read<{ count: number }>(countInBay, [bayUid]);
    return row?.count ?? 0;
  }

  async assigned(assigneeUid: string): Promise<AssignedSet> {
    const rows = await this.#read<{ head: number } & Partial<Nullable<ObjectRow>>>(selectAssigned, [assigneeUid]);
    return { objects: rows.filter(hasObject).map(toObject), head: rows[0]?.head ?? 0 };
  }

  async chainSince(assigneeUid: string, revision: number, limit: number): Promise<ChainDelta | undefined> {
    const rows = await this.#read<{ head: number; gap: number | null } & Partial<Nullable<ChangeRow>>>(selectChain, [
      assigneeUid,
      revision,
      limit + 1,
    ]);
    const first = rows[0];
    if (!first) return undefined;
    // Complete when the first link kept follows on one that the asker has: it does not matter then what else is forgotten.
    const complete = first.gap === null ? first.head <= revision : first.gap <= revision;
    const changes = rows.filter(hasChange).map(toChange);
    return complete && changes.length <= limit ? { changes, head: first.head } : undefined;
  }

  async changesSince(
    revision: number,
    limit: number,
    only?: ChangeFilter,
    maxBytes: number = Number.MAX_SAFE_INTEGER,
  ): Promise<readonly Change[]> {
    const { sql, parameters } = selectChanges(revision, limit, only ?? {}, maxBytes);
    const rows = await this.#read<{ oldest: number } & Partial<Nullable<ChangeRow>>>(sql, parameters);
    const oldest = (rows[0]?.oldest ?? 1) - 1;
    if (revision < oldest) throw new CompactedError(revision, oldest);
    return rows.filter(hasChange).map(toChange);
  }

  async compact(revision: number, requestsBeforeMs: number, keepBytes?: number): Promise<void> {
    const [row] = keepBytes === undefined ? [] : await this.#read<{ revision: number }>(selectFirstWithin, [keepBytes]);
    const first = Math.max(revision, row?.revision ?? 0);
    // In slices, between which writes have their turn.
    while (await this.#commits.alone(() => this.#parts.disk.compact(first, requestsBeforeMs)));
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#commits.close();
    await this.#parts.disk.settle();
    const { log } = this.#parts.options;
    for (const part of this.#parts.opened) {
      await part.close().catch((error) => log.warn({ err: error }, 'store did not close cleanly'));
    }
    log.info({ revision: this.#revision }, 'store closed');
  }

  #read<Row>(sql: string, parameters: readonly SqliteValue[]): Promise<readonly Row[]> {
    return this.#parts.readers.read((reader) => reader.all<Row>(sql, parameters));
  }
}

type Nullable<T> = { readonly [K in keyof T]: T[K] | null };

const hasObject = <T extends Partial<Nullable<ObjectRow>>>(row: T): row is T & ObjectRow =>
  row.attributes != null && row.body != null;

const hasChange = <T extends Partial<Nullable<ChangeRow>>>(row: T): row is T & ChangeRow =>
  row.link != null && row.body != null;
