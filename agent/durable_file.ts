import { constants } from 'node:fs';
import { type FileHandle, open, rename, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/**
 * Writes a whole file so that, whatever happens meanwhile, there is the old content or the new one, never a part: a temporary file,
 * fsync, rename, fsync of the folder. Resolves when the new one is on disk. At most one call for a path at a time.
 *
 * @param mode Permissions of the file.
 */
export async function writeDurably(path: string, pieces: readonly Uint8Array[], mode: number): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.tmp`);
  const file = await open(temporary, 'w', mode);
  try {
    try {
      await file.chmod(mode);
      await writeAll(file, pieces);
      await file.datasync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    // What was begun takes up room that a full disk does not have.
    await unlink(temporary).catch(() => undefined);
    throw error;
  }
  await syncFolder(dirname(path));
}

async function writeAll(file: FileHandle, pieces: readonly Uint8Array[]): Promise<void> {
  const total = pieces.reduce((sum, piece) => sum + piece.byteLength, 0);
  const { bytesWritten } = await file.writev([...pieces]);
  if (bytesWritten === total) return;
  // A short write: the rest in one piece, which either goes in or says why not.
  await file.writeFile(Buffer.concat(pieces, total).subarray(bytesWritten));
}

/** Makes a rename in this folder last. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, constants.O_RDONLY);
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
