import { appendFile, copyFile, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { FileAuditLog, type FileAuditLogOptions } from './audit_log.ts';
import { type AuditEntry, type AuditRecord, nobody } from './port.ts';

const log = pino({ level: 'silent' });
const entry = (name: string, over: Partial<AuditEntry> = {}): AuditEntry => ({
  ...nobody,
  kind: 'change',
  method: 'baykeeper.v1.BayService/CreateBay',
  subject: 'rose',
  project: 'red',
  code: 'ok',
  objects: [{ kind: 'Bay', bay: '', namespace: '', name, uid: 'u', revision: 7, generation: 1, outcome: '' }],
  ...over,
});

async function folderOf(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'bk-audit-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  return join(folder, 'audit');
}

async function open(t: ExecutionContext, folder: string, over: Partial<FileAuditLogOptions> = {}) {
  const audit = await FileAuditLog.open({ folder, clock: { now: () => 1_700_000_000_000 }, log, ...over });
  t.teardown(() => audit.close());
  return audit;
}

const all = async (audit: FileAuditLog): Promise<AuditRecord[]> => {
  const records: AuditRecord[] = [];
  for await (const record of audit.read(undefined)) records.push(record);
  return records.reverse();
};

/** A log of `count` records in several files, closed. */
async function written(t: ExecutionContext, count = 40): Promise<string> {
  const folder = await folderOf(t);
  const audit = await open(t, folder, { maxFileBytes: 2_000 });
  for (let i = 1; i <= count; i += 1) await audit.append(entry(`bay-${i}`));
  await audit.close();
  return folder;
}

test('records come back as they were given, in order, and hang together', async (t) => {
  const folder = await folderOf(t);
  const audit = await open(t, folder);
  const heard: number[] = [];
  audit.subscribe((records) => heard.push(...records.map(({ sequence }) => sequence)));
  const strange = { subject: 'r\u2028\n"\ud800', requestId: 'r1', message: 'é', count: 3, role: 'member', peer: '::1' };
  await Promise.all([
    audit.append(entry('a')),
    audit.append(entry('b', strange)),
    audit.append(entry('c', { objects: [] })),
  ]);
  const records = await all(audit);
  t.like(records[1], { ...entry('b'), ...strange, sequence: 2, timeMs: 1_700_000_000_000, previous: records[0]?.hash });
  t.deepEqual(heard, [1, 2, 3]);
  t.like(await audit.verify(), { head: { sequence: 3, hash: records[2]?.hash }, records: 3, files: 1, problems: [] });
  const before: number[] = [];
  for await (const { sequence } of audit.read(3)) before.push(sequence);
  t.deepEqual(before, [2, 1]);
  t.is((await stat(join(folder, '000000000001.jsonl'))).mode & 0o777, 0o600);
});

test('the chain goes on over files and restarts', async (t) => {
  const folder = await written(t);
  t.true((await readdir(folder)).filter((name) => name.endsWith('.jsonl')).length > 3);
  const audit = await open(t, folder);
  t.is(audit.head.sequence, 40);
  await audit.append(entry('more'));
  for (const after of [0, 7, 8, 39, 41]) {
    const found: number[] = [];
    for await (const { sequence } of audit.readAfter(after)) found.push(sequence);
    t.deepEqual(
      found,
      Array.from({ length: 41 - after }, (_, i) => after + i + 1),
      String(after),
    );
  }
  const { problems, records } = await audit.verify();
  t.deepEqual(problems, []);
  t.is(records, 41);
  t.deepEqual(
    (await all(audit)).map(({ sequence }) => sequence),
    Array.from({ length: 41 }, (_, i) => i + 1),
  );
});

const lines = async (path: string): Promise<string[]> => (await readFile(path, 'utf8')).trimEnd().split('\n');

/** What somebody does to the files, and what is said of it. `files`: oldest first. */
const tamperings: Record<string, { do: (files: string[]) => Promise<unknown>; says: RegExp }> = {
  'a record that is edited': {
    do: async ([, second = '']) =>
      writeFile(second, (await readFile(second, 'utf8')).replace('"subject":"rose"', '"subject":"bert"')),
    says: /does not follow record \d+ as that is now/,
  },
  'the newest record edited': {
    do: async (files) => {
      const last = files.at(-1) ?? '';
      const text = await readFile(last, 'utf8');
      const at = text.lastIndexOf('rose');
      await writeFile(last, `${text.slice(0, at)}bert${text.slice(at + 4)}`);
    },
    says: /record 40 is not the one that was noted/,
  },
  'a record that is taken out': {
    do: async ([, second = '']) => writeFile(second, `${(await lines(second)).toSpliced(1, 1).join('\n')}\n`),
    says: /has number \d+ where \d+ was to come/,
  },
  'two records in another order': {
    do: async ([, second = '']) => {
      const [a = '', b = '', ...rest] = await lines(second);
      await writeFile(second, `${[b, a, ...rest].join('\n')}\n`);
    },
    says: /has number \d+ where \d+ was to come/,
  },
  'the end cut off': {
    do: async (files) =>
      writeFile(files.at(-1) ?? '', `${(await lines(files.at(-1) ?? '')).slice(0, -1).join('\n')}\n`),
    says: /record 40 is missing: the log ends with 39/,
  },
  'the last file taken away': { do: async (files) => rm(files.at(-1) ?? ''), says: /record 40 is missing/ },
  'a file in the middle taken away': { do: async ([, second = '']) => rm(second), says: /where \d+ was to come/ },
  'the first file taken away': { do: async ([first = '']) => rm(first), says: /what is before it is not here/ },
  'two files exchanged': {
    do: async ([, second = '', third = '']) => {
      await rename(second, `${second}.x`);
      await copyFile(third, second);
      await rename(`${second}.x`, third);
    },
    says: /it begins with record|where \d+ was to come/,
  },
  'something else written between': {
    do: async ([, second = '']) => writeFile(second, `hello\n${await readFile(second, 'utf8')}`),
    says: /it is no record/,
  },
};

for (const [what, { do: tamper, says }] of Object.entries(tamperings)) {
  test(`${what} is found`, async (t) => {
    const folder = await written(t);
    const audit = await open(t, folder);
    t.deepEqual((await audit.verify()).problems, []);
    const files = (await readdir(folder)).filter((name) => name.endsWith('.jsonl')).sort();
    await tamper(files.map((name) => join(folder, name)));
    const { problems } = await audit.verify();
    t.true(
      problems.some(({ message }) => says.test(message)),
      JSON.stringify(problems),
    );
  });
}

test('what was taken away while nobody looked is recorded at the start', async (t) => {
  const folder = await written(t, 5);
  const [file = ''] = (await readdir(folder))
    .filter((name) => name.endsWith('.jsonl'))
    .sort()
    .reverse();
  await writeFile(join(folder, file), `${(await lines(join(folder, file))).slice(0, -1).join('\n')}\n`);
  const audit = await open(t, folder);
  const last = (await all(audit)).at(-1);
  t.like(last, { kind: 'system', code: 'audit_damaged', sequence: 5 });
  t.regex(last?.message ?? '', /ended with record 5 .*, and ends with 4 now/);
  // What is wrong stays to be seen, also when nothing is left to hold it against.
  await audit.append(entry('more'));
  await audit.close();
  const { problems } = await (await open(t, folder)).verify();
  t.like(problems, [{ line: 5 }]);
  t.regex(problems[0]?.message ?? '', /records were taken away or changed/);
});

test('a log that was written anew in one piece differs from what somebody has noted', async (t) => {
  const noted = (await open(t, await written(t, 3))).head;
  const audit = await open(t, await folderOf(t));
  for (const name of ['x', 'y', 'z']) await audit.append(entry(name));
  t.deepEqual((await audit.verify()).problems, []);
  t.regex((await audit.verify([noted])).problems[0]?.message ?? '', /record 3 is not the one that was noted/);
});

test('a record that a crash has left half written is taken out, and that is recorded', async (t) => {
  const folder = await written(t, 3);
  const [file = ''] = (await readdir(folder)).filter((name) => name.endsWith('.jsonl'));
  await appendFile(join(folder, file), '{"sequence":4,"prev');
  const audit = await open(t, folder);
  t.like((await all(audit)).at(-1), {
    sequence: 4,
    code: 'audit_torn',
    message: 'a record of 19 characters was not finished',
  });
  await audit.append(entry('next'));
  t.deepEqual((await audit.verify()).problems, []);
});

test('bytes that are no text do not move what is written after them', async (t) => {
  const folder = await written(t, 3);
  const [file = ''] = (await readdir(folder)).filter((name) => name.endsWith('.jsonl'));
  const path = join(folder, file);
  const content = await readFile(path);
  content[content.indexOf('rose')] = 0xff;
  await writeFile(path, content);
  const audit = await open(t, folder);
  await audit.append(entry('next'));
  t.is((await readFile(path)).indexOf('\0'), -1);
  t.deepEqual(
    (await audit.verify()).problems.map(({ line }) => line),
    [2],
    'one record was changed, and no other',
  );
});

test('a record of another shape is none', async (t) => {
  const folder = await written(t, 3);
  const [file = ''] = (await readdir(folder)).filter((name) => name.endsWith('.jsonl'));
  const path = join(folder, file);
  const good = await readFile(path, 'utf8');
  const audit = await open(t, folder);
  for (const [what, by] of [
    ['"kind":"change"', '"kind":"change","count":1.5'],
    ['"revision":7', '"revision":"seven"'],
    ['"revision":7', '"revision":7.5'],
    ['"objects":[', '"objects":[null,{"name":7},'],
  ] as const) {
    await writeFile(path, good.replace(what, by));
    t.deepEqual(
      (await all(audit)).map(({ sequence }) => sequence),
      [2, 3],
      by,
    );
    t.is((await audit.verify()).problems[0]?.message, 'it is no record', by);
  }
});

test('while the disk takes nothing that is said, and what was to be recorded is recorded after it', async (t) => {
  const folder = await folderOf(t);
  const audit = await open(t, folder, { maxFileBytes: 1, retryMs: 10 });
  await audit.append(entry('first'));
  // The next file cannot be made: the folder is another thing.
  await rename(folder, `${folder}.away`);
  await t.throwsAsync(audit.append(entry('second')), { message: /the audit log cannot be written: ENOENT/ });
  t.regex(audit.problem ?? '', /ENOENT/);
  audit.note(entry('third', { kind: 'refused' }));
  await rename(`${folder}.away`, folder);
  while (audit.problem !== undefined) await new Promise((resolve) => setTimeout(resolve, 5));
  await audit.append(entry('fourth'));
  t.deepEqual(
    (await all(audit)).map(({ objects }) => objects[0]?.name),
    ['first', 'second', 'third', 'fourth'],
  );
  t.deepEqual((await audit.verify()).problems, []);
});
