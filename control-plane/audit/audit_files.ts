import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';

/** The files of an audit log, named by the number of their first record. */
export const fileName = (sequence: number): string => `${String(sequence).padStart(12, '0')}.jsonl`;
const pattern = /^(\d{12,})\.jsonl$/;

export interface AuditFile {
  readonly name: string;
  readonly first: number;
}

/** Oldest first. */
export async function auditFiles(folder: string): Promise<AuditFile[]> {
  const found = (await readdir(folder)).flatMap((name) => {
    const number = pattern.exec(name)?.[1];
    return number ? [{ name, first: Number(number) }] : [];
  });
  return found.sort((a, b) => a.first - b.first);
}

/** The lines of a file with their size in bytes, and what is after the last end of a line: a record that was being written. */
export async function readLines(
  folder: string,
  name: string,
): Promise<{ lines: string[]; bytes: number; torn: string }> {
  const content = await readFile(join(folder, name));
  const bytes = content.lastIndexOf('\n') + 1;
  const lines = bytes === 0 ? [] : content.toString('utf8', 0, bytes - 1).split('\n');
  return { lines, bytes, torn: content.toString('utf8', bytes) };
}

const sliceSize = 500;

/** The lines with their numbers from 0, and now and then a turn for others: a file has thousands of them. */
export async function* inSlices(lines: readonly string[]): AsyncGenerator<readonly [number, string]> {
  for (const [at, line] of lines.entries()) {
    if (at % sliceSize === sliceSize - 1) await setImmediate();
    yield [at, line];
  }
}
