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

/** The lines of a file, and what is after the last end of a line: a record that was being written. */
export async function readLines(folder: string, name: string): Promise<{ lines: string[]; torn: string }> {
  const lines = (await readFile(join(folder, name), 'utf8')).split('\n');
  const torn = lines.pop() ?? '';
  return { lines, torn };
}

const sliceSize = 500;

/** The lines with their numbers from 0, and now and then a turn for others: a file has thousands of them. */
export async function* inSlices(lines: readonly string[]): AsyncGenerator<readonly [number, string]> {
  for (const [at, line] of lines.entries()) {
    if (at % sliceSize === sliceSize - 1) await setImmediate();
    yield [at, line];
  }
}
