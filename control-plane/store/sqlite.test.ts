import { execFile } from 'node:child_process';
import { open, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { makeStoreFolder, openSqliteBed } from '../../test/harness/sqlite_bed.ts';
import { PreconditionError, UnavailableError } from '../domain/errors.ts';
import { storeContract } from './contract.ts';
import { makeObject, nameKey, put } from './contract_objects.ts';
import type { ObjectKey, Store } from './port.ts';
import { openSqliteStore } from './sqlite.ts';
import { SqliteConnection } from './sqlite_connection.ts';
import { loadKeys } from './sqlite_disk.ts';

const log = pino({ level: 'silent' });

storeContract(test, openSqliteBed);

/** A folder of its own, removed when the test ends. */
const fileFor = async (t: ExecutionContext): Promise<string> => {
  const folder = await makeStoreFolder();
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  return join(folder, 'deep', 'store.db');
};
const openFile = (file: string): Promise<Store> => openSqliteStore({ file, clock: Date, log });

const fill = async (file: string, count: number): Promise<void> => {
  const store = await openFile(file);
  const writes = Array.from({ length: count }, (_, i) =>
    put(makeObject({ name: `o-${i}`, body: Buffer.alloc(500, i) })),
  );
  await Promise.all(writes.map((write) => store.write(write)));
  await store.close();
};

test('of an object that is elsewhere than its key says nothing leaves the database', async (t) => {
  const file = await fileFor(t);
  const store = await openFile(file);
  const object = makeObject({ name: 'web', project: 'red' });
  await store.write(put(object));
  await store.close();
  const connection = await SqliteConnection.open({ file, readOnly: true, busyTimeoutMs: 1000 });
  t.teardown(() => connection.close());
  const rows = async (key: ObjectKey) => (await loadKeys(connection, [key], [])).objects.length;
  t.is(await rows({ uid: object.uid, within: { kind: 'Container', project: 'red' } }), 1);
  t.is(await rows({ uid: object.uid, within: { kind: 'Container', project: 'blue' } }), 0);
  t.is(await rows({ uid: object.uid, within: { kind: 'Container', project: 'red', bayUid: 'bay-2' } }), 0);
  t.is(await rows(nameKey('web', { project: 'blue' })), 0);
});

test('what others have changed is not gone through for those who go on from long ago, also in a file from before', async (t) => {
  const file = await fileFor(t);
  await fill(file, 10_000);
  // As the first version has made it.
  const connection = await SqliteConnection.open({ file, readOnly: false, busyTimeoutMs: 1000 });
  await connection.exec('DROP INDEX changes_kind; DROP INDEX changes_bay; PRAGMA user_version = 1');
  await connection.close();
  const store = await openFile(file);
  t.teardown(() => store.close());
  await store.write(put(makeObject({ name: 'web', project: 'blue', bayUid: 'bay-2' })));
  await store.write(put(makeObject({ name: 'local', project: 'blue', bayUid: '', kind: 'Bay' })));
  await store.write(put(makeObject({ name: 'small', project: 'red', bayUid: '', kind: 'BayModel' })));
  const before = process.cpuUsage();
  for (let i = 0; i < 50; i += 1) {
    for (const only of [
      { kind: 'Container', project: 'blue', bayUid: 'bay-2' },
      { kind: 'Bay', project: 'blue' },
      { kind: 'BayModel' },
    ]) {
      t.is((await store.changesSince(0, 100, only)).length, 1);
    }
  }
  t.true(process.cpuUsage(before).user < 200_000);
});

test('the files are for their owner alone, and the log is gone after a close', async (t) => {
  const file = await fileFor(t);
  const store = await openFile(file);
  await store.write(put(makeObject({ name: 'a' })));
  for (const path of [file, `${file}-wal`]) t.is((await stat(path)).mode & 0o777, 0o600);
  await store.close();
  await t.throwsAsync(stat(`${file}-wal`), { code: 'ENOENT' });
});

test('a second opening of a store is refused until the first is closed', async (t) => {
  const file = await fileFor(t);
  const store = await openFile(file);
  const error = await t.throwsAsync(openFile(file), { instanceOf: UnavailableError });
  t.regex(error?.message ?? '', /in use by another control plane/);
  const script = `
    import { openSqliteStore } from ${JSON.stringify(import.meta.resolve('./sqlite.ts'))};
    const log = { info() {}, warn() {}, error() {} };
    await openSqliteStore({ file: process.argv[1], clock: Date, log }).then(() => process.exit(3), (e) => console.log(e.message));`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script, file]);
  t.regex(stdout, /in use by another control plane/);
  await store.write(put(makeObject({ name: 'a' })));
  await store.close();
  await (await openFile(file)).close();
});

test('a file that is no database, or of another program, is left alone', async (t) => {
  const file = await fileFor(t);
  await fill(file, 1);
  await writeFile(file, 'hello, this is no database at all'.repeat(1000));
  const before = await readFile(file);
  let error = await t.throwsAsync(openFile(file), { instanceOf: PreconditionError });
  t.regex(error?.message ?? '', /is not a database/);
  t.deepEqual(await readFile(file), before);

  await rm(file);
  const other = await SqliteConnection.open({ file, readOnly: false, busyTimeoutMs: 0 });
  await other.exec('CREATE TABLE theirs (x)');
  await other.close();
  const theirs = await readFile(file);
  error = await t.throwsAsync(openFile(file), { instanceOf: PreconditionError });
  t.regex(error?.message ?? '', /another program/);
  t.deepEqual(await readFile(file), theirs);
});

test('a file of a newer schema is refused with what to do', async (t) => {
  const file = await fileFor(t);
  await fill(file, 1);
  const connection = await SqliteConnection.open({ file, readOnly: false, busyTimeoutMs: 0 });
  await connection.exec('PRAGMA user_version = 99');
  await connection.close();
  const error = await t.throwsAsync(openFile(file), { instanceOf: PreconditionError });
  t.regex(error?.message ?? '', /newer Baykeeper \(schema 99/);
});

test('a damaged or shortened file is told at the start', async (t) => {
  const file = await fileFor(t);
  await fill(file, 300);
  const whole = await readFile(file);
  for (const damage of [
    async () => {
      const handle = await open(file, 'r+');
      await handle.write(Buffer.alloc(40_000, 0xa5), 0, 40_000, 16_384);
      await handle.close();
    },
    () => truncate(file, 65_536),
    () => truncate(file, 50),
  ]) {
    await writeFile(file, whole);
    await damage();
    const error = await t.throwsAsync(openFile(file), { instanceOf: PreconditionError });
    t.regex(error?.message ?? '', /is damaged|is not a database/);
  }
  await writeFile(file, whole);
  const store = await openFile(file);
  t.is(store.revision, 300);
  await store.close();
});

test('a folder that cannot be used is named', async (t) => {
  const file = await fileFor(t);
  await fill(file, 1);
  const error = await t.throwsAsync(openFile(join(file, 'below-a-file')), { instanceOf: UnavailableError });
  t.true(error?.message.includes(file));
});

test('reads are answered while a commit is held up', async (t) => {
  const file = await fileFor(t);
  const store = await openFile(file);
  await store.write(put(makeObject({ name: 'a' })));
  const blocker = await SqliteConnection.open({ file, readOnly: false, busyTimeoutMs: 0 });
  await blocker.exec('BEGIN IMMEDIATE');
  let written = false;
  const write = store.write(put(makeObject({ name: 'b' }))).then(() => {
    written = true;
  });
  for (let i = 0; i < 20; i += 1) {
    const page = await store.list({ kind: 'Container', orderBy: 'name', descending: false, limit: 10 });
    t.is(page.objects.length, 1);
    t.is((await store.changesSince(0, 10)).length, 1);
  }
  t.false(written);
  await blocker.exec('ROLLBACK');
  await write;
  t.is(store.revision, 2);
  await blocker.close();
  await store.close();
});

test('the log is cut back under load', async (t) => {
  const file = await fileFor(t);
  const store = await openFile(file);
  const body = Buffer.alloc(100_000, 1);
  const objects = Array.from({ length: 20 }, (_, i) => makeObject({ name: `o-${i}`, body }));
  let largest = 0;
  for (let round = 0; round < 40; round += 1) {
    await Promise.all(objects.map((object) => store.write(put({ ...object, generation: round }))));
    await store.compact(store.revision, 0);
    largest = Math.max(largest, (await stat(`${file}-wal`)).size);
  }
  // 160 MB went through it.
  t.true(largest < 64 * 1024 * 1024, `${largest}`);
  await store.close();
});

test('more waiting writes than allowed are refused, the others are done', async (t) => {
  const file = await fileFor(t);
  const store = await openSqliteStore({ file, clock: Date, log, maxWaiting: 10 });
  const results = await Promise.allSettled(
    Array.from({ length: 15 }, (_, i) => store.write(put(makeObject({ name: `o-${i}` })))),
  );
  t.is(results.filter((r) => r.status === 'rejected' && r.reason instanceof UnavailableError).length, 5);
  t.is(store.revision, 10);
  await store.close();
});
