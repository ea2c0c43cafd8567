import { copyFile, stat, truncate } from 'node:fs/promises';

/**
 * Keeps log files that their writers hold open from filling the disk: one that has grown past `maxBytes` is copied to `FILE.1` and emptied.
 * Its writers append, so they go on at its beginning.
 */
export async function trimLogs(files: readonly string[], maxBytes: number): Promise<void> {
  for (const file of files) {
    const size = await stat(file).then(
      (found) => found.size,
      () => 0,
    );
    if (size <= maxBytes) continue;
    // Emptied even when there is no room for the copy: a full disk is what this is against.
    await copyFile(file, `${file}.1`).catch(() => undefined);
    await truncate(file);
  }
}
