import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { rm, stat, statfs, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { UnavailableError } from '../../control-plane/domain/errors.ts';
import type { Store, StoredObject, Write } from '../../control-plane/store/port.ts';
import { openSqliteStore } from '../../control-plane/store/sqlite.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';

const run = promisify(execFile);
const log = { info: () => undefined, warn: () => undefined, error: () => undefined };

let counter = 0;
const create = (size: number): Write<StoredObject> => {
  counter += 1;
  const key = { kind: 'Container', project: 'red', bayUid: 'bay-1', namespace: '', name: `name-${counter}` };
  const uid = `uid-${String(counter).padStart(8, '0')}`;
  const rest = { generation: 1, deleting: false, epoch: 0, sequence: 0, createTimeMs: counter };
  const body = randomBytes(size);
  return {
    reads: [key],
    request: { project: 'red', requestId: uid },
    apply: (view) => {
      view.remember(uid, 'fingerprint');
      return view.put((revision) => ({ ...key, uid, assigneeUid: 'node-1', ...rest, revision, body }), 'node-1');
    },
  };
};

/** Writes until the disk is full, says what was acknowledged, and that each refusal was as it should be. */
const fill = async (t: ExecutionContext, store: Store): Promise<StoredObject[]> => {
  const done: StoredObject[] = [];
  const heard: number[] = [];
  const end = store.subscribe((changes) => heard.push(...changes.map((change) => change.revision)));
  let refused = 0;
  // Several commits fail, large ones and small ones.
  for (let size = 20_000; refused < 60; size = refused > 30 ? 100 : 20_000) {
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => store.write(create(size))));
    for (const result of results) {
      if (result.status === 'fulfilled') done.push(result.value);
      else {
        refused += 1;
        t.true(result.reason instanceof UnavailableError, String(result.reason));
        t.regex(String(result.reason), /disk/);
      }
    }
    t.true(done.length < 20_000);
  }
  end();
  t.deepEqual(
    heard,
    done.map((object) => object.revision),
  );
  return done;
};

/** Holds the whole store against what was acknowledged. */
const verify = async (t: ExecutionContext, store: Store, expected: readonly StoredObject[]): Promise<void> => {
  t.is(store.revision, expected.length);
  const { objects, revision } = await store.list({
    kind: 'Container',
    orderBy: 'createTime',
    descending: false,
    limit: 100_000,
  });
  const text = (o: StoredObject): string => `${o.uid} ${o.revision} ${Buffer.from(o.body).toString('base64')}`;
  t.is(revision, expected.length);
  t.true(objects.map(text).join() === expected.map(text).join());
  const changes = await store.changesSince(0, 100_000);
  t.deepEqual(
    changes.map((change) => [change.revision, change.chainPrevious]),
    expected.map((_, i) => [i + 1, i]),
  );
  t.is((await store.assigned('node-1')).head, expected.length);
};

/** The whole story, on a disk that `setFull` fills up and frees again. */
const story = async (
  t: ExecutionContext,
  folder: string,
  setFull: (full: boolean, file: string) => Promise<void>,
): Promise<void> => {
  const file = path.join(folder, 'store.db');
  let store = await openSqliteStore({ file, clock: Date, log });
  const done: StoredObject[] = [];
  for (let i = 0; i < 20; i += 1) done.push(await store.write(create(1000)));
  for (let round = 0; round < 3; round += 1) {
    await setFull(true, file);
    done.push(...(await fill(t, store)));
    await verify(t, store, done);
    if (round === 1) {
      // Closed and opened while there is no space: it may say that it cannot, but must lose nothing.
      await store.close();
      const opened = await openSqliteStore({ file, clock: Date, log }).catch((error: unknown) => error);
      if (opened instanceof Error) t.true(opened instanceof UnavailableError, String(opened));
      else await (opened as Store).close();
      await setFull(false, file);
      store = await openSqliteStore({ file, clock: Date, log });
      await verify(t, store, done);
    }
    await setFull(false, file);
    done.push(await store.write(create(20_000)));
  }
  await store.close();
  store = await openSqliteStore({ file, clock: Date, log });
  await verify(t, store, done);
  await store.close();
};

test.serial('a full disk refuses writes, loses nothing, and when it has space again they go on', async (t) => {
  await using folder = await temporaryFolder('store-full');
  await run('mount', ['-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', folder.path]);
  try {
    const filler = path.join(folder.path, 'filler');
    await story(t, folder.path, async (full) => {
      await rm(filler, { force: true });
      const { bavail, bsize } = await statfs(folder.path);
      if (full) await writeFile(filler, Buffer.alloc(Math.max(0, bavail * bsize - 1_500_000)));
    });
  } finally {
    await run('umount', [folder.path]);
  }
});

test.serial('the same where files may not grow further', async (t) => {
  await using folder = await temporaryFolder('store-limit');
  const limit = (bytes: number | 'unlimited'): Promise<unknown> =>
    run('prlimit', ['--pid', String(process.pid), `--fsize=${bytes}:`]);
  t.teardown(() => limit('unlimited'));
  await story(t, folder.path, async (full, file) => {
    const sizes = await Promise.all(
      [file, `${file}-wal`].map((each) =>
        stat(each).then(
          ({ size }) => size,
          () => 0,
        ),
      ),
    );
    await limit(full ? Math.max(...sizes) + 1_000_000 : 'unlimited');
  });
});
