import { auditFiles, inSlices, readLines } from './audit_files.ts';
import { follow, origin } from './chain.ts';
import { type AuditProblem, type ChainHead, damaged, lost, type Verification } from './port.ts';

const maxProblems = 100;
/** Records that say that others are missing: the chain goes on after them as if nothing had been. */
const gaps: ReadonlySet<string> = new Set([damaged, lost]);

/**
 * Reads a log from its first file to its last. `witnesses`: records that must be there as they were, the newest among them: without any, whoever takes
 * records away at the end, or writes all of them anew, leaves no trace.
 */
export async function verifyFiles(folder: string, witnesses: readonly ChainHead[]): Promise<Verification> {
  const problems: AuditProblem[] = [];
  const add = (file: string, line: number, message: string): void => {
    if (problems.length < maxProblems) problems.push({ file, line, message });
  };
  const expected = new Map<number, string[]>();
  for (const { sequence, hash } of witnesses) {
    if (sequence > 0) expected.set(sequence, [...(expected.get(sequence) ?? []), hash]);
  }
  let head: ChainHead = origin;
  let records = 0;
  const files = await auditFiles(folder);
  for (const [index, { name, first }] of files.entries()) {
    if (index === 0 && first !== 1) {
      add(name, 0, `the log begins with record ${first}: what is before it is not here`);
    }
    const { lines, torn } = await readLines(folder, name);
    for await (const [at, line] of inSlices(lines)) {
      const { record, problem } = follow(head, line);
      if (problem) add(name, at + 1, problem);
      if (at === 0 && record && record.sequence !== first) add(name, 0, `it begins with record ${record.sequence}`);
      if (!record) continue;
      records += 1;
      if (record.kind === 'system' && gaps.has(record.code)) add(name, at + 1, record.message);
      for (const hash of expected.get(record.sequence) ?? []) {
        if (hash !== record.hash) add(name, at + 1, `record ${record.sequence} is not the one that was noted`);
      }
      expected.delete(record.sequence);
      // What comes after a record that was changed is held against what is there, so that one change is told once.
      head = record;
    }
    if (torn !== '' && index < files.length - 1) add(name, lines.length + 1, 'it is no record');
  }
  for (const sequence of expected.keys()) {
    add(files.at(-1)?.name ?? '', 0, `record ${sequence} is missing: the log ends with ${head.sequence}`);
  }
  return { head, records, files: files.length, problems };
}
