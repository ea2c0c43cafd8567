import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  create,
  type DescMethod,
  type DescMethodStreaming,
  type DescMethodUnary,
  fromJson,
  type JsonObject,
} from '@bufbuild/protobuf';
import { createClient, type Transport } from '@connectrpc/connect';
import test from 'ava';
import { changes } from '../../control-plane/api/interceptors/audit.ts';
import { permissions } from '../../control-plane/api/permissions.ts';
import { type AuditRecord, nobody } from '../../control-plane/audit/port.ts';
import { AuditEffectState, AuditService } from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { DeliverySchema } from '../../proto/gen/baykeeper/v1/delivery_pb.js';
import { canary, rows, startMatrixApi, Tenant } from '../harness/call_matrix.ts';
import { startSite } from '../harness/site.ts';
import { until } from '../harness/until.ts';

/** Calls, and takes what comes. Returns the name of the code. */
async function call(transport: Transport, method: DescMethod, request: JsonObject): Promise<void> {
  const message = fromJson(method.input, request);
  const abort = new AbortController();
  try {
    if (method.methodKind === 'unary') {
      await transport.unary(method as DescMethodUnary, undefined, 10_000, undefined, message);
      return;
    }
    const inputs = async function* () {
      yield message;
    };
    const streaming = method as DescMethodStreaming;
    const response = await transport.stream(streaming, abort.signal, 10_000, undefined, inputs());
    for await (const _ of response.message) break;
  } catch {
    // What it answered is what the record is to say.
  } finally {
    abort.abort();
  }
}

const methods = permissions.flatMap(({ service, methods: table }) =>
  service.methods.map((method) => ({ method, key: `${service.name}/${method.name}`, needed: table.get(method.name) })),
);

async function requestOf(key: string, tenant: Tenant): Promise<JsonObject> {
  const row = rows[key];
  if (!row) throw new Error(`the matrix has no row for ${key}`);
  if (row.of === 'nothing') return typeof row.request === 'function' ? row.request() : row.request;
  if (row.of === 'inside') return row.request(tenant[row.bay]);
  const { bay, name, uid } = await (row.ends ? tenant.make[row.of]() : tenant.one(row.of));
  return row.request(name ? { bay, name } : { bay, uid });
}

/** Of these the objects are not named by what is asked, or by what is refused. */
const unnamed = new Set(['QuotaService/SetQuota', 'EnrollmentService/Enroll', 'EnrollmentService/RenewCredentials']);

test('each change leaves one record, each refused call another, and what only reads leaves none', async (t) => {
  await using api = await startMatrixApi();
  const red = await Tenant.create(api, 'red-token', 'alpha', 'kappa');
  const heard: AuditRecord[] = [];
  api.audit.subscribe((records) => heard.push(...records));
  const ask = async (token: string, method: DescMethod, request: JsonObject): Promise<AuditRecord[]> => {
    heard.length = 0;
    await call(api.transport({ protocol: 'grpc', token }), method, request);
    // What is refused is recorded beside the answer: a record that is waited for comes after it.
    await api.audit.append(marker);
    // That a command has ended is another record, some time later.
    return heard.filter(({ method: name, code }) => name !== marker.method && code !== 'command_ended');
  };
  for (const { method, key, needed } of methods) {
    const isChange = changes(method, needed);
    const records = await ask('red-token', method, await requestOf(key, red));
    const isDenied = needed === 'admin';
    t.is(records.length, isChange || isDenied ? 1 : 0, key);
    const [record] = records;
    if (!record) continue;
    t.is(record.method, `${method.parent.typeName}/${method.name}`);
    t.is(record.kind, record.code === 'ok' || record.code === 'begun' ? 'change' : 'refused', key);
    t.not(record.requestId, '', key);
    t.is(record.peer, '127.0.0.1', key);
    if (needed !== 'open') t.like(record, { subject: 'rose', project: 'red', role: 'member' }, key);
    if (isChange && !unnamed.has(key)) t.true((record.objects[0]?.name ?? record.objects[0]?.uid) !== '', key);
  }
  for (const { method, key, needed } of methods) {
    if (needed === 'open') continue;
    const records = await ask('', method, await requestOf(key, red));
    // The buckets of one address are emptied by now: what is over is counted, and told later.
    if (records.length > 0) t.like(records[0], { kind: 'refused', code: 'unauthenticated', subject: '' }, key);
    t.true(records.length <= 1, key);
  }
  const text = (
    await Promise.all((await readdir(api.auditFolder)).map((name) => readFile(join(api.auditFolder, name), 'utf8')))
  ).join();
  for (const secret of [canary, 'red-token', 'busybox', 'a.b']) t.false(text.includes(secret), secret);
  t.deepEqual((await api.audit.verify()).problems, []);
});

const marker = { ...nobody, kind: 'system', method: 'test', code: '' } as const;

test('admins list, follow and verify the log, with what became of each change', async (t) => {
  await using api = await startMatrixApi();
  const red = await Tenant.create(api, 'red-token', 'alpha', 'kappa');
  const client = createClient(AuditService, api.transport({ token: 'admin-token' }));
  const containers = createClient(ContainerService, api.transport({ token: 'red-token' }));
  const { name, uid } = await red.make.container();
  await api.report(uid, (status) => {
    Object.assign(status, { node: 'host', reason: 'ForbiddenByPolicy', message: 'no' });
    status.delivery = create(DeliverySchema, { receivedGeneration: 1n, observedGeneration: 1n });
  });
  const page = await client.listAuditRecords({ filter: { object: name }, effects: true });
  t.is(page.records.length, 1);
  t.like(page.records[0], { kind: 'change', method: 'baykeeper.v1.ContainerService/CreateContainer', subject: 'rose' });
  const stored = await api.store.get({ uid });
  const [object] = page.records[0]?.objects ?? [];
  t.like(object, { kind: 'Container', bay: 'alpha', name, uid, generation: 1n });
  t.true(Number(object?.revision) > 0 && Number(object?.revision) < (stored?.revision ?? 0));
  t.like(object?.effect, { state: AuditEffectState.FAILED, node: 'host', reason: 'ForbiddenByPolicy' });

  // Page by page it is the same as at once.
  const whole = await client.listAuditRecords({ pageSize: 1_000 });
  const paged: bigint[] = [];
  for (let pageToken = ''; ; ) {
    const { records, nextPageToken } = await client.listAuditRecords({ pageSize: 3, pageToken });
    paged.push(...records.map(({ sequence }) => sequence));
    if (nextPageToken === '') break;
    pageToken = nextPageToken;
  }
  t.deepEqual(
    paged,
    whole.records.map(({ sequence }) => sequence),
  );
  t.is(paged.at(-1), 1n);

  const abort = new AbortController();
  const followed: string[] = [];
  const last = whole.records[0]?.sequence ?? 0n;
  const following = (async () => {
    for await (const { record } of client.followAuditRecords({ afterSequence: last - 1n }, { signal: abort.signal })) {
      followed.push(`${record?.sequence} ${record?.method.split('/')[1]}`);
    }
  })();
  await until('the last one was told', () => followed.length === 1);
  await containers.stopContainer({ bay: 'alpha', name });
  await until('the next is told', () => followed.length === 2);
  t.is(followed[1], `${last + 1n} StopContainer`);
  abort.abort();
  await t.throwsAsync(following);
  const again = await client.listAuditRecords({ filter: { object: uid }, effects: true });
  t.deepEqual(
    again.records.map(({ objects }) => objects[0]?.effect?.state),
    [AuditEffectState.WAITING, AuditEffectState.OVERTAKEN],
  );

  const good = await client.verifyAudit({});
  t.true(good.intact);
  t.true((await client.verifyAudit({ expectedSequence: good.headSequence, expectedHash: good.headHash })).intact);
  t.false((await client.verifyAudit({ expectedSequence: 2n, expectedHash: good.headHash })).intact);
  const [file = ''] = (await readdir(api.auditFolder)).filter((one) => one.endsWith('.jsonl'));
  const path = join(api.auditFolder, file);
  await writeFile(path, (await readFile(path, 'utf8')).replace('rose', 'bert'));
  const bad = await client.verifyAudit({});
  t.false(bad.intact);
  t.like(bad.problems[0], { file, line: 2 });
});

test('of a change that others have followed it is still known what the agent has done about it', async (t) => {
  await using site = await startSite();
  const containers = site.controlPlane.client(ContainerService);
  const audit = site.controlPlane.client(AuditService);
  const spec = { image: site.image, args: ['sleep', '10000'], stopTimeout: { seconds: 0n } };
  const create_ = (name: string, image = site.image) =>
    containers.createContainer({ container: { metadata: { bay: 'local', name }, spec: { ...spec, image } } });
  const effectsOf = async (object: string) =>
    (await audit.listAuditRecords({ filter: { object }, effects: true })).records.map(({ method, objects }) => {
      const { state = 0, node, time, reason } = objects[0]?.effect ?? {};
      return [method.split('/')[1], AuditEffectState[state], node, time !== undefined, reason].join(' ');
    });
  /** It is recorded beside the report that says so. */
  const show = async (object: string, ...expected: (string | RegExp)[]) => {
    const isAs = (effects: string[]) =>
      effects.length === expected.length &&
      expected.every((one, i) => (typeof one === 'string' ? one === effects[i] : one.test(effects[i] ?? '')));
    await until(`${object} shows ${expected.join(', ')}`, async () => isAs(await effectsOf(object)));
    t.pass();
  };
  await create_('web');
  await site.inPhase('web', ContainerPhase.RUNNING);
  await containers.stopContainer({ bay: 'local', name: 'web' });
  await site.inPhase('web', ContainerPhase.STOPPED);
  await show('web', 'StopContainer APPLIED node-1 true ', 'CreateContainer APPLIED node-1 true ');
  await containers.deleteContainer({ bay: 'local', name: 'web' });
  await site.gone('web');
  await show(
    'web',
    'DeleteContainer GONE node-1 true ',
    'StopContainer APPLIED node-1 true ',
    'CreateContainer APPLIED node-1 true ',
  );

  // One that failed, and was then given up.
  await create_('bad', 'localhost:1/nothing:here');
  await show('bad', /^CreateContainer FAILED/);
  await containers.deleteContainer({ bay: 'local', name: 'bad' });
  await site.gone('bad');
  await show('bad', 'DeleteContainer GONE node-1 true ', /^CreateContainer FAILED node-1 true \w+$/);
  // Beside what was asked for only on request.
  const { records } = await audit.listAuditRecords({ filter: { kind: 'effect' } });
  t.deepEqual(
    records.map(({ code }) => code),
    ['removed', 'failed', 'removed', 'applied', 'applied'],
  );
  t.true((await audit.verifyAudit({})).intact);
});

test('while nothing can be recorded nothing is changed, and reads go on', async (t) => {
  await using api = await startMatrixApi();
  const red = await Tenant.create(api, 'red-token', 'alpha', 'kappa');
  const containers = createClient(ContainerService, api.transport({ token: 'red-token' }));
  let problem: string | undefined;
  Object.defineProperty(api.audit, 'problem', { get: () => problem });
  problem = 'ENOSPC: no space left on device';
  await t.throwsAsync(
    containers.createContainer({ container: { metadata: { bay: 'alpha', name: 'late' }, spec: { image: 'a' } } }),
    {
      message: /\[unavailable\] nothing is changed while the audit log cannot be written: ENOSPC/,
    },
  );
  const { containers: found } = await containers.listContainers({ bay: red.docker });
  t.false(found.some(({ metadata }) => metadata?.name === 'late'));
  problem = undefined;
  t.truthy(
    await containers.createContainer({ container: { metadata: { bay: 'alpha', name: 'late' }, spec: { image: 'a' } } }),
  );
});
