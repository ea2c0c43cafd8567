import { execFile } from 'node:child_process';
import { rm, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { pino } from 'pino';
import { FileAuditLog } from '../../control-plane/audit/audit_log.ts';
import { type AuditEntry, nobody } from '../../control-plane/audit/port.ts';
import { UnavailableError } from '../../control-plane/domain/errors.ts';
import { type AuditRecord, AuditService } from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { type ControlPlane, startControlPlane } from '../harness/control_plane.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';

const run = promisify(execFile);

/** Everything that is recorded, oldest first. */
async function recorded(controlPlane: ControlPlane): Promise<AuditRecord[]> {
  const records: AuditRecord[] = [];
  for (let pageToken = ''; ; ) {
    const page = await controlPlane.client(AuditService).listAuditRecords({ pageSize: 1_000, pageToken });
    records.push(...page.records);
    pageToken = page.nextPageToken;
    if (pageToken === '') return records.reverse();
  }
}

test('kill -9 loses the record of no acknowledged change, and the chain goes on', async (t) => {
  await using controlPlane = await startControlPlane({ args: ['--log-level', 'warn'] });
  await controlPlane.createBay('local');
  const acknowledged = new Set<string>();
  for (let round = 0; round < 3; round += 1) {
    const containers = controlPlane.client(ContainerService);
    let down = false;
    const writers = Array.from({ length: 8 }, async () => {
      while (!down) {
        try {
          const { container } = await containers.createContainer({
            container: { metadata: { bay: 'local' }, spec: { image: 'busybox' } },
          });
          acknowledged.add(container?.metadata?.uid ?? '');
        } catch {
          // It is down: whether this one was made is not known.
          return;
        }
      }
    });
    const before = acknowledged.size;
    await until('some were made', () => acknowledged.size > before + 50);
    await controlPlane.kill9();
    down = true;
    await Promise.all(writers);
    await controlPlane.start();
  }
  const records = await recorded(controlPlane);
  const named = records.flatMap(({ objects }) => objects.flatMap(({ uid }) => uid || []));
  const known = new Set(named);
  t.deepEqual(
    [...acknowledged].filter((uid) => !known.has(uid)),
    [],
  );
  t.is(known.size, named.length, 'one is recorded twice');
  // Also of those that nobody was told of, as the crash came before.
  const containers = controlPlane.client(ContainerService);
  const found: string[] = [];
  for (let pageToken = ''; ; ) {
    const page = await containers.listContainers({ bay: 'local', pageSize: 1_000, pageToken });
    found.push(...page.containers.map(({ metadata }) => metadata?.uid ?? ''));
    pageToken = page.nextPageToken;
    if (pageToken === '') break;
  }
  t.true(found.length >= acknowledged.size);
  t.deepEqual(
    found.filter((uid) => !known.has(uid)),
    [],
  );
  t.deepEqual(
    records.filter(({ code }) => code === 'started').map(({ message }) => message.replace(/\d+$/, 'N')),
    Array(4).fill('version 0.1.0 has started, with the store at revision N'),
  );
  await controlPlane.stop();
  await controlPlane.start();
  // Nothing was under way, so that there is nothing to be found.
  t.deepEqual(
    (await recorded(controlPlane)).slice(records.length).map(({ code }) => code),
    ['stopped', 'started'],
  );
  const { intact, problems } = await controlPlane.client(AuditService).verifyAudit({});
  t.true(intact, JSON.stringify(problems));
});

test('a log that is taken away as a whole is missed at the next start', async (t) => {
  await using controlPlane = await startControlPlane();
  t.true((await controlPlane.client(AuditService).verifyAudit({})).intact, 'it was never there');
  await controlPlane.createBay('local');
  await controlPlane.stop();
  await rm(join(controlPlane.dataDir, 'audit'), { recursive: true });
  await controlPlane.start();
  const { intact, problems } = await controlPlane.client(AuditService).verifyAudit({});
  t.false(intact);
  t.regex(problems[0]?.message ?? '', /the log is empty, and the store is at revision \d+: records were taken away/);
});

test('a full disk is said, what is refused is so, and the chain goes on when there is space', async (t) => {
  await using folder = await temporaryFolder('audit-full');
  await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder.path]);
  const filler = join(folder.path, 'filler');
  const audit = await FileAuditLog.open({
    folder: join(folder.path, 'audit'),
    clock: Date,
    log: pino({ level: 'silent' }),
    maxFileBytes: 40_000,
    retryMs: 20,
  });
  try {
    const done: string[] = [];
    const append = async (name: string): Promise<unknown> => {
      const entry: AuditEntry = { ...nobody, kind: 'change', method: 'a/B', code: 'ok', message: name.padEnd(500) };
      return await audit.append(entry).then(
        () => void done.push(name),
        (error: unknown) => error,
      );
    };
    const { bavail, bsize } = await statfs(folder.path);
    await writeFile(filler, Buffer.alloc(bavail * bsize - 100_000));
    let refused = 0;
    for (let i = 0; refused < 5; i += 1) {
      const error = await append(`record-${i}`);
      if (error === undefined) continue;
      refused += 1;
      t.true(error instanceof UnavailableError);
      t.regex(String(error), /the audit log cannot be written: its disk is full/);
      t.true(done.length < 1_000);
    }
    t.true(done.length > 20);
    await rm(filler);
    await until('there is no problem any more', () => audit.problem === undefined);
    t.is(await append('after'), undefined);
    const found: string[] = [];
    for await (const { message } of audit.read(undefined)) found.push(message.trim());
    t.deepEqual(
      found.reverse().filter((name) => done.includes(name)),
      done,
    );
    // What waited was recorded, too.
    t.is(found.length, done.length + refused);
    t.deepEqual((await audit.verify()).problems, []);
  } finally {
    await audit.close();
    await run('umount', [folder.path]);
  }
});
