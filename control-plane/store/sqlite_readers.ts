import { UnavailableError } from '../domain/errors.ts';
import { SqliteConnection } from './sqlite_connection.ts';

interface Waiter {
  readonly resolve: (connection: SqliteConnection) => void;
  readonly reject: (error: Error) => void;
}

/** Connections that only read, each used by one caller at a time: a read waits for other reads at most, and never for a write. */
export class SqliteReaders {
  readonly #idle: SqliteConnection[];
  readonly #count: number;
  readonly #waiting: Waiter[] = [];
  #closed = false;
  #onIdle: () => void = () => undefined;

  static async open(file: string, count: number, busyTimeoutMs: number): Promise<SqliteReaders> {
    const connections: SqliteConnection[] = [];
    try {
      for (let i = 0; i < count; i += 1) {
        const connection = await SqliteConnection.open({ file, readOnly: true, busyTimeoutMs });
        connections.push(connection);
        await connection.exec('PRAGMA cache_size = -4096; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF');
      }
    } catch (error) {
      for (const connection of connections) await connection.close();
      throw error;
    }
    return new SqliteReaders(connections);
  }

  private constructor(connections: SqliteConnection[]) {
    this.#idle = connections;
    this.#count = connections.length;
  }

  /** Runs one read. */
  async read<T>(use: (connection: SqliteConnection) => Promise<T>): Promise<T> {
    if (this.#closed) throw new UnavailableError('the store is closed');
    const connection =
      this.#idle.pop() ??
      (await new Promise<SqliteConnection>((resolve, reject) => this.#waiting.push({ resolve, reject })));
    try {
      return await use(connection);
    } finally {
      const next = this.#waiting.shift();
      if (next) next.resolve(connection);
      else this.#idle.push(connection);
      if (this.#idle.length === this.#count) this.#onIdle();
    }
  }

  /** Waits for the reads under way, refuses those that wait, and closes the connections. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const { reject } of this.#waiting.splice(0)) reject(new UnavailableError('the store is closed'));
    await new Promise<void>((resolve) => {
      this.#onIdle = resolve;
      if (this.#idle.length === this.#count) resolve();
    });
    for (const connection of this.#idle) await connection.close();
  }
}
