import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createClient } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { Role } from '../../proto/gen/baykeeper/v1/access_token_pb.js';
import { AccessTokenService } from '../../proto/gen/baykeeper/v1/access_token_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { QuotaService } from '../../proto/gen/baykeeper/v1/quota_service_pb.js';
import { startApi } from '../../test/harness/api_fixture.ts';
import { FileAuditLog } from '../audit/audit_log.ts';
import { type AuditRecord, nobody, noObject } from '../audit/port.ts';
import { decode, encode } from '../domain/record.ts';
import { storeObject, unrecordedChanges } from './unrecorded.ts';

/** An API whose audit log loses what it is told to: as a crash between store and log would, though the callers go on. */
async function fixture(t: ExecutionContext) {
  const folder = await mkdtemp(join(tmpdir(), 'unrecorded-'));
  const real = await FileAuditLog.open({ folder, clock: Date, log: pino({ level: 'silent' }) });
  let loses = false;
  const { append, note } = real;
  real.append = async (entry) => (loses ? undefined : append.call(real, entry));
  real.note = (entry) => (loses ? undefined : note.call(real, entry));
  const api = await startApi({ api: { audit: real } });
  t.teardown(async () => {
    await api[Symbol.asyncDispose]();
    await real.close();
    await rm(folder, { recursive: true });
  });
  const red = api.transport();
  const ops = api.transport({ token: 'admin-token', project: 'red' });
  return {
    api,
    bays: createClient(BayService, red),
    containers: createClient(ContainerService, red),
    nodes: createClient(NodeService, red),
    join: createClient(JoinTokenService, red),
    tokens: createClient(AccessTokenService, ops),
    quotas: createClient(QuotaService, ops),
    audit: real,
    /** What its calls do is not recorded. */
    async crash(calls: () => Promise<unknown>) {
      loses = true;
      await calls();
      loses = false;
    },
    /** As a start does. */
    async start() {
      const found = await unrecordedChanges(api.store, real);
      for (const entry of found) real.note(entry);
      await real.append({ ...nobody, kind: 'system', method: '', code: 'started', objects: [storeObject(api.store)] });
      return found.map(({ code, project, subject, objects }) => {
        const { kind = '', bay, name, outcome } = objects[0] ?? {};
        return [code, subject || 'nobody', project, kind, bay || '-', /Token$/.test(kind) ? 'ID' : name, outcome].join(
          ' ',
        );
      });
    },
  };
}

type Fixture = Awaited<ReturnType<typeof fixture>>;

/** One of each kind of change. */
async function everything({ api, bays, containers, nodes, join, tokens, quotas }: Fixture, name: string) {
  const { bay } = await bays.createBay({ bay: { metadata: { name } } });
  const bayUid = bay?.metadata?.uid ?? '';
  const container = { metadata: { bay: name, name: 'web' }, spec: { image: 'a' } };
  await containers.createContainer({ container });
  await containers.updateContainer({
    container: { ...container, metadata: { ...container.metadata, labels: { a: 'b' } } },
  });
  await containers.stopContainer({ bay: name, name: 'web' });
  const { uid = '' } = (await containers.getContainer({ bay: name, name: 'web' })).container?.metadata ?? {};
  // What an agent says is not a caller's.
  await api.report(uid, (status) => Object.assign(status, { reason: 'X' }));
  await containers.createContainer({ container: { ...container, metadata: { bay: name, name: 'gone' } } });
  await containers.deleteContainer({ bay: name, name: 'gone' });
  const { accessToken } = await tokens.createAccessToken({ role: Role.READER });
  await tokens.revokeAccessToken({ id: accessToken?.id });
  const { joinToken } = await join.createJoinToken({ bay: name });
  await join.revokeJoinToken({ id: joinToken?.id });
  await quotas.setQuota({ set: { bays: 7n } });
  const { node } = await api.addNode(bayUid, 'n');
  await nodes.revokeNode({ bay: name, name: 'n' });
  return node.uid;
}

test('what is recorded is not told of again, whatever it was', async (t) => {
  const f = await fixture(t);
  await f.start();
  const nodeUid = await everything(f, 'edge');
  // It enrolled by no call.
  t.deepEqual(await f.start(), ['unacknowledged nobody red Node edge n created']);
  await f.nodes.deleteNode({ bay: 'edge', name: 'n' });
  t.is(await f.api.store.get({ uid: nodeUid }), undefined);
  await f.bays.deleteBay({ name: 'edge', force: true });
  await t.throwsAsync(f.containers.createContainer({ container: { metadata: { bay: 'nope' } } }));
  t.deepEqual(await f.start(), []);
  t.deepEqual(await f.start(), []);
});

test('what a crash has kept out of the log is told of at the next start, and once', async (t) => {
  const f = await fixture(t);
  await f.start();
  await f.bays.createBay({ bay: { metadata: { name: 'before' } } });
  await f.crash(() => everything(f, 'edge'));
  const of = (kind: string, bay: string, name: string, ...outcomes: string[]) =>
    outcomes.map((outcome) => `unacknowledged nobody red ${kind} ${bay} ${name} ${outcome}`);
  t.deepEqual(await f.start(), [
    ...of('Bay', '-', 'edge', 'created'),
    ...of('Container', 'edge', 'web', 'created', 'configured', 'configured'),
    ...of('Container', 'edge', 'gone', 'created', 'removed'),
    ...of('AccessToken', '-', 'ID', 'created', 'configured'),
    ...of('JoinToken', '-', 'ID', 'created', 'configured'),
    ...of('Quota', '-', 'quota', 'created'),
    ...of('Node', 'edge', 'n', 'created', 'configured'),
  ]);
  t.deepEqual(await f.start(), []);
  t.deepEqual((await f.audit.verify()).problems, []);
});

test('an object that was last changed before the feed begins is told from one that an agent spoke of', async (t) => {
  const f = await fixture(t);
  await f.bays.createBay({ bay: { metadata: { name: 'edge' } } });
  const make = async (name: string) =>
    (await f.containers.createContainer({ container: { metadata: { bay: 'edge', name }, spec: { image: 'a' } } }))
      .container?.metadata?.uid ?? '';
  const [old] = [await make('old'), await make('other')];
  // Its last change by a caller was an hour ago.
  await f.api.store.write({
    reads: [{ uid: old }],
    apply: (view) => {
      const stored = view.get({ uid: old });
      if (!stored) throw new Error('it is gone');
      const container = decode('Container', stored);
      const { updateTime } = container.metadata ?? {};
      if (updateTime) updateTime.seconds -= 3_600n;
      view.put(encode('Container', container, stored), '');
    },
  });
  await f.start();
  await f.api.store.compact(f.api.store.revision + 1, 0);
  await f.api.report(old, (status) => Object.assign(status, { reason: 'X' }));
  await f.crash(() => f.containers.stopContainer({ bay: 'edge', name: 'other' }));
  t.deepEqual(await f.start(), ['unacknowledged nobody red Container edge other configured']);
});

test('what a crash has kept out of the log is found where the feed no longer goes back to the start before', async (t) => {
  const f = await fixture(t);
  await f.start();
  for (let i = 0; i < 20; i += 1) await f.bays.createBay({ bay: { metadata: { name: `bay-${i}` } } });
  await f.api.store.compact(f.api.store.revision - 5, 0);
  await f.crash(() => f.bays.createBay({ bay: { metadata: { name: 'late' } } }));
  t.deepEqual(await f.start(), ['unacknowledged nobody red Bay - late created']);
});

test('what was recorded out of order is not told of again, however many records came after it', async (t) => {
  const f = await fixture(t);
  for (const name of ['one', 'two']) await f.bays.createBay({ bay: { metadata: { name } } });
  const recorded: AuditRecord[] = [];
  for await (const record of f.audit.read(undefined)) recorded.push(record);
  const [newer, older] = recorded;
  if (!newer || !older) throw new Error('both are recorded');
  const later = { ...newer, objects: [{ ...noObject, uid: 'another', revision: 1_000 }] };
  const read = async function* () {
    yield older;
    for (let i = 0; i < 4_500; i += 1) yield later;
    yield newer;
  };
  t.deepEqual(await unrecordedChanges(f.api.store, { read }), []);
});
