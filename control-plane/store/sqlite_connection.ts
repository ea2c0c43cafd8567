import sqlite3 from 'sqlite3';
import { UnavailableError } from '../domain/errors.ts';
import { CollisionError } from './group_commit.ts';

export type SqliteValue = string | number | null | Uint8Array;

export interface SqliteConnectionOptions {
  readonly file: string;
  readonly readOnly: boolean;
  /** How long to wait for a lock that somebody else holds, a backup say. */
  readonly busyTimeoutMs: number;
}

/**
 * A connection to an SQLite file, with promises, prepared statements, and errors that a user can act on.
 *
 * Calls run one after the other in the order in which they are made: each takes a thread of Node's pool while it runs, and a second
 * one on the same connection would only hold another thread waiting.
 */
export class SqliteConnection {
  readonly #database: sqlite3.Database;
  readonly #file: string;
  readonly #statements = new Map<string, sqlite3.Statement>();
  #last: Promise<unknown> = Promise.resolve();

  static async open({ file, readOnly, busyTimeoutMs }: SqliteConnectionOptions): Promise<SqliteConnection> {
    const mode = readOnly ? sqlite3.OPEN_READONLY : sqlite3.OPEN_READWRITE | sqlite3.OPEN_CREATE;
    const database = await new Promise<sqlite3.Database>((resolve, reject) => {
      const opened: sqlite3.Database = new sqlite3.Database(file, mode, (error) =>
        error ? reject(readable(error, file)) : resolve(opened),
      );
    });
    database.configure('busyTimeout', busyTimeoutMs);
    return new SqliteConnection(database, file);
  }

  private constructor(database: sqlite3.Database, file: string) {
    this.#database = database;
    this.#file = file;
  }

  /** Runs statements without parameters, several of them perhaps. */
  exec(sql: string): Promise<void> {
    return this.#inTurn(
      () =>
        new Promise((resolve, reject) =>
          this.#database.exec(sql, (error) => (error ? reject(readable(error, this.#file)) : resolve())),
        ),
    );
  }

  /** Runs one statement to its end; it is prepared once for the life of the connection. */
  all<Row>(sql: string, parameters: readonly SqliteValue[] = []): Promise<readonly Row[]> {
    return this.#inTurn(async () => {
      const statement = this.#statements.get(sql) ?? (await this.#prepare(sql));
      return new Promise<Row[]>((resolve, reject) =>
        statement.all<Row>(parameters, (error, rows) => (error ? reject(readable(error, this.#file)) : resolve(rows))),
      );
    });
  }

  /** Waits for what is under way, and closes. */
  close(): Promise<void> {
    return this.#inTurn(async () => {
      for (const statement of this.#statements.values()) {
        await new Promise<void>((resolve) => statement.finalize(() => resolve()));
      }
      this.#statements.clear();
      await new Promise<void>((resolve, reject) =>
        this.#database.close((error) => (error ? reject(readable(error, this.#file)) : resolve())),
      );
    });
  }

  #inTurn<T>(call: () => Promise<T>): Promise<T> {
    const result = this.#last.then(call);
    this.#last = result.catch(() => undefined);
    return result;
  }

  async #prepare(sql: string): Promise<sqlite3.Statement> {
    const statement = await new Promise<sqlite3.Statement>((resolve, reject) => {
      const prepared: sqlite3.Statement = this.#database.prepare(sql, (error: Error | null) =>
        error ? reject(readable(error, this.#file)) : resolve(prepared),
      );
    });
    this.#statements.set(sql, statement);
    return statement;
  }
}

/** Another process holds a lock for longer than the busy timeout. */
export class BusyError extends UnavailableError {}

/** The file is not what it should be, and will not become so by waiting. */
export class DamagedError extends Error {
  override readonly name = 'DamagedError';
}

/** What an error of SQLite means to whoever has to see to it. */
const readable = (error: Error & { code?: string }, file: string): Error => {
  const options = { cause: error };
  switch (error.code) {
    case 'SQLITE_FULL':
      return new UnavailableError(`the disk that holds ${file} is full: nothing was written; free some space`, options);
    case 'SQLITE_IOERR':
      return new UnavailableError(
        `the disk that holds ${file} does not read or write as it should (full, or failing)`,
        options,
      );
    case 'SQLITE_BUSY':
    case 'SQLITE_LOCKED':
      return new BusyError(`${file} is locked by another program`, options);
    case 'SQLITE_CANTOPEN':
      return new UnavailableError(
        `${file} cannot be opened: check the folder, its rights and the space on its disk`,
        options,
      );
    case 'SQLITE_READONLY':
    case 'SQLITE_PERM':
      return new UnavailableError(
        `${file} may not be written: check the rights of the file and of its folder`,
        options,
      );
    case 'SQLITE_NOTADB':
      return new DamagedError(`${file} is not a database: put back the right file, or move this one away`, options);
    case 'SQLITE_CORRUPT':
      return new DamagedError(`${file} is damaged: put back a backup`, options);
    case 'SQLITE_NOMEM':
      return new UnavailableError('SQLite has no memory left', options);
    case 'SQLITE_CONSTRAINT':
      return new CollisionError(error.message, options);
    default:
      return error;
  }
};
