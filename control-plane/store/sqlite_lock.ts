import { UnavailableError } from '../domain/errors.ts';
import { BusyError, SqliteConnection } from './sqlite_connection.ts';

/**
 * Makes this process the only one that has the store open, until it closes the lock or ends, however it ends: what is held is a lock
 * of the operating system on a file beside it, and the file itself means nothing. (A lock on the store's own file would keep our own
 * readers out.)
 *
 * Rejects with UnavailableError when another process has it.
 */
export const lockStore = async (file: string): Promise<{ release(): Promise<void> }> => {
  const lockFile = `${file}.lock`;
  const connection = await SqliteConnection.open({ file: lockFile, readOnly: false, busyTimeoutMs: 0 });
  try {
    await connection.exec('BEGIN EXCLUSIVE');
  } catch (error) {
    await connection.close();
    if (error instanceof BusyError) {
      throw new UnavailableError(
        `${file} is in use by another control plane: stop that one first, or use another folder`,
        {
          cause: error,
        },
      );
    }
    throw error;
  }
  return { release: () => connection.close() };
};
