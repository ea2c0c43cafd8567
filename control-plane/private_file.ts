import { randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';

/** Files of the data folder that nobody but the control plane may read. */

/** A file cannot be used. The message is one sentence that names it, and says what to do. */
export class FileError extends Error {
  override readonly name = 'FileError';
}

/** Makes a folder of mode 0700, and those above it. Rejects with FileError naming it. */
export async function makePrivateFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new FileError(`cannot make the folder ${path}: ${messageOf(cause)}`, { cause });
  }
}

/** Replaces a file whole, on disk before it resolves, mode 0600: a reader, or a start after a crash, sees the old or the new. */
export async function writePrivateFile(path: string, data: string): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const file = await open(temporary, 'wx', 0o600);
    try {
      await file.writeFile(data);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncFolder(dirname(path));
  } catch (cause) {
    await rm(temporary, { force: true });
    throw new FileError(`cannot write ${path}: ${messageOf(cause)}`, { cause });
  }
}

/** Removes what a write, or the making of the keys, has left in a folder when it was cut off. */
export async function removeLeftovers(folder: string): Promise<void> {
  try {
    for (const name of await readdir(folder)) {
      if (/\.[0-9a-f]{12}\.tmp$/.test(name)) await rm(join(folder, name), { recursive: true, force: true });
    }
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT') return;
    throw new FileError(`cannot clear the folder ${folder}: ${messageOf(cause)}`, { cause });
  }
}

/** Makes a rename in a folder durable. */
export async function syncFolder(path: string): Promise<void> {
  const folder: FileHandle = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** A small file as text; undefined when there is none. Rejects with FileError naming the file. */
export async function readSmallFile(path: string, maxBytes: number): Promise<string | undefined> {
  try {
    const info = await stat(path);
    if (!info.isFile()) throw new FileError(`${path} is not a file: move it away`);
    if (info.size > maxBytes)
      throw new FileError(`${path} is ${info.size} bytes long, more than the ${maxBytes} it may be`);
    const file = await open(path, 'r');
    try {
      return await file.readFile('utf8');
    } finally {
      await file.close();
    }
  } catch (cause) {
    if (cause instanceof FileError) throw cause;
    if (systemErrorCode(cause) === 'ENOENT') return undefined;
    throw new FileError(`cannot read ${path}: ${messageOf(cause)}`, { cause });
  }
}

/** Rejects with FileError when others than the owner may read or write the file or folder. */
export async function checkPrivate(path: string, mode: '0600' | '0700'): Promise<void> {
  let found: number;
  try {
    found = (await stat(path)).mode & 0o777;
  } catch (cause) {
    throw new FileError(`cannot read ${path}: ${messageOf(cause)}`, { cause });
  }
  if ((found & 0o077) === 0) return;
  const has = `0${found.toString(8)}`;
  throw new FileError(
    `${path} has mode ${has}, so others can reach the keys in it: replace the keys if anybody may have, then run chmod ${mode} ${path}`,
  );
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

function systemErrorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}
