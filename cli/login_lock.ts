import { rmSync } from 'node:fs';
import { mkdir, open, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import type { Io } from './io.ts';

/** The age of a lock whose holder is gone: who has it gives up long before. */
const staleMs = 90_000;

/**
 * The right to renew a login, which one bayctl of this user has at a time: what it takes may be good only once. It ends with the program that has it.
 * Undefined: another has it. Rejects with the file system's errors.
 */
export async function lockLogin(io: Io, file: string): Promise<Disposable | undefined> {
  const lock = `${file}.lock`;
  try {
    await mkdir(path.dirname(lock), { recursive: true, mode: 0o700 });
    await (await open(lock, 'wx', 0o600)).close();
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
    const takenMs = await stat(lock).then(
      ({ mtimeMs }) => mtimeMs,
      () => Date.now(),
    );
    if (Date.now() - takenMs > staleMs) await rm(lock, { force: true });
    return undefined;
  }
  const release = (): void => rmSync(lock, { force: true });
  const keep = io.atExit(release);
  return {
    [Symbol.dispose]() {
      keep();
      release();
    },
  };
}
