import { Code, createClient, createContextValues, type UnaryRequest } from '@connectrpc/connect';
import test from 'ava';
import { ManifestService } from '../../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { SystemService } from '../../../proto/gen/baykeeper/v1/system_service_pb.js';
import { ServerReflection } from '../../../proto/gen/grpc/reflection/v1/reflection_pb.js';
import { Health } from '../../../proto/gen/health/v1/health_pb.js';
import { startApi } from '../../../test/harness/api_fixture.ts';
import { refused } from '../../../test/harness/refused.ts';
import { until } from '../../../test/harness/until.ts';
import { DeniedError, ExhaustedError, UnauthenticatedError } from '../../domain/errors.ts';
import { peerKey } from '../call.ts';
import type { SessionGuard } from '../session_guard.ts';
import { createIdentity } from './identity.ts';

test('who is known and has no rights here is recorded by name, and may ask no more often than strangers', async (t) => {
  const authenticator = {
    authenticate: ({ token }: { token: string }) => {
      if (token !== 'oscars') return undefined;
      throw new DeniedError('oscar has no role here', { subject: 'oscar' });
    },
  };
  await using api = await startApi({ api: { authenticator, peerLimit: { perSecond: 0.001, burst: 3 } } });
  const { whoAmI } = createClient(SystemService, api.transport({ token: 'oscars' }));
  for (let i = 0; i < 3; i += 1) await refused(t, whoAmI({}), Code.PermissionDenied, /oscar has no role here/);
  for (let i = 0; i < 3; i += 1) await refused(t, whoAmI({}), Code.ResourceExhausted, /too many calls/);
  const recorded = await until('they are recorded', async () => {
    const records: string[] = [];
    for await (const { kind, code, subject } of api.audit.read(undefined)) {
      if (kind === 'refused') records.unshift(`${code} ${subject}`);
    }
    return records.length === 6 && records;
  });
  t.deepEqual(recorded, [
    ...['permission_denied oscar', 'permission_denied oscar', 'permission_denied oscar'],
    ...['resource_exhausted ', 'resource_exhausted ', 'resource_exhausted '],
  ]);
});

const twoAtOnce = { perSecond: 0.001, burst: 2 };

test('a caller has one share, by whichever way and token it calls', async (t) => {
  const rose = { subject: 'rose', project: 'red', role: 'member' } as const;
  await using api = await startApi({
    api: {
      callerLimit: { perSecond: 0.001, burst: 6 },
      authenticator: { authenticate: ({ token }) => (token.startsWith('of-rose') ? rose : undefined) },
    },
  });
  const ways = [
    { protocol: 'grpc' },
    { protocol: 'connect' },
    { protocol: 'grpc-web' },
    { protocol: 'connect', httpVersion: '1.1' },
    { protocol: 'grpc-web', httpVersion: '1.1' },
  ] as const;
  const calls = ways.map((way, i) =>
    createClient(SystemService, api.transport({ ...way, token: `of-rose-${i}` })).whoAmI({}),
  );
  await Promise.all(calls);
  // Connect's GET.
  const get = () =>
    fetch(`${api.server.url}/baykeeper.v1.SystemService/WhoAmI?connect=v1&encoding=json&message=%7B%7D`, {
      headers: { authorization: 'Bearer of-rose-get' },
    });
  t.is((await get()).status, 200);
  t.is((await get()).status, 429);
  for (const way of ways) {
    const { whoAmI } = createClient(SystemService, api.transport({ ...way, token: 'of-rose' }));
    await refused(t, whoAmI({}), Code.ResourceExhausted, /too many calls/);
  }
});

test('each manifest that is applied is a call', async (t) => {
  await using api = await startApi({ api: { callerLimit: { perSecond: 0.001, burst: 5 } } });
  const { apply } = createClient(ManifestService, api.transport());
  const manifests = Array.from({ length: 10 }, (_, i) => ({
    object: { case: 'bayModel' as const, value: { metadata: { name: `m${i}` }, spec: {} } },
  }));
  t.is((await apply({ manifests })).results.filter(({ error }) => !error).length, 10, 'all of them, or none');
  await refused(t, apply({ manifests: manifests.slice(1) }), Code.ResourceExhausted, /too many calls/);
});

test('strangers are counted by their network, as one has more addresses than there are callers', async (t) => {
  const { interceptor } = createIdentity({
    authenticator: { authenticate: () => undefined },
    permissionOf: () => 'open',
    callerLimit: twoAtOnce,
    peerLimit: twoAtOnce,
    clock: { now: () => 0 },
    guard: undefined as unknown as SessionGuard,
  });
  const check = interceptor(async () => 'called' as never);
  const from = async (peer: string) =>
    await check({
      stream: false,
      method: Health.method.check,
      contextValues: createContextValues().set(peerKey, peer),
    } as unknown as UnaryRequest);
  await from('2001:db8::1');
  await from('2001:db8::2');
  await t.throwsAsync(from('2001:db8:0:0:ffff::3'), { instanceOf: ExhaustedError });
  await from('2001:db8:0:1::1');
});

test('each question in a stream that is open to all is a call', async (t) => {
  await using api = await startApi({ api: { peerLimit: { perSecond: 0.001, burst: 3 } } });
  const reflection = createClient(ServerReflection, api.transport({ protocol: 'grpc', token: '' }));
  const questions = async function* () {
    for (;;) yield { messageRequest: { case: 'listServices' as const, value: '' } };
  };
  let answers = 0;
  const ask = async () => {
    for await (const _ of reflection.serverReflectionInfo(questions())) answers += 1;
  };
  await refused(t, ask(), Code.ResourceExhausted, /too many calls/);
  t.is(answers, 3);
});

test('a method that is not in the table is denied to everybody, an admin too, and not called', async (t) => {
  const ada = { subject: 'ada', project: 'ops', role: 'admin' } as const;
  const { interceptor } = createIdentity({
    authenticator: { authenticate: ({ token }) => (token === 'adas' ? ada : undefined) },
    permissionOf: () => undefined,
    callerLimit: { perSecond: 10, burst: 10 },
    peerLimit: { perSecond: 10, burst: 10 },
    clock: { now: () => 0 },
    guard: undefined as unknown as SessionGuard,
  });
  const called = interceptor(async () => t.fail() as never);
  const by = async (token: string, stream: boolean) => {
    const header = new Headers({ authorization: `Bearer ${token}` });
    const { whoAmI: method } = SystemService.method;
    await called({ stream, method, header, contextValues: createContextValues() } as unknown as UnaryRequest);
  };
  for (const stream of [false, true]) {
    await t.throwsAsync(by('adas', stream), { instanceOf: DeniedError, message: /nobody may call WhoAmI/ });
    await t.throwsAsync(by('nobodys', stream), { instanceOf: UnauthenticatedError });
  }
});
