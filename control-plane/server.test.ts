import { execFile } from 'node:child_process';
import { once } from 'node:events';
import http2 from 'node:http2';
import net from 'node:net';
import { resolve } from 'node:path';
import { promisify } from 'node:util';
import { create, createFileRegistry, type DescMethodUnary, fromBinary } from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import * as grpc from '@grpc/grpc-js';
import * as loader from '@grpc/proto-loader';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { BayService } from '../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../proto/gen/baykeeper/v1/container_service_pb.js';
import { SystemService } from '../proto/gen/baykeeper/v1/system_service_pb.js';
import { ServerReflection, ServerReflectionRequestSchema } from '../proto/gen/grpc/reflection/v1/reflection_pb.js';
import { Health, HealthCheckResponse_ServingStatus as Serving } from '../proto/gen/health/v1/health_pb.js';
import { type ApiFixtureOptions, startApi } from '../test/harness/api_fixture.ts';
import { until } from '../test/harness/until.ts';
import { ListenError, startServer } from './server.ts';

const run = promisify(execFile);

async function fixture(t: ExecutionContext, options: ApiFixtureOptions = {}) {
  const api = await startApi(options);
  t.teardown(() => api[Symbol.asyncDispose]());
  await createClient(BayService, api.transport()).createBay({ bay: { metadata: { name: 'local' } } });
  return api;
}
const container = (name: string) => ({ metadata: { bay: 'local', name }, spec: { image: 'busybox' } });

/** Asks with curl: status and body. */
async function curl(...args: string[]): Promise<{ status: number; body: string; headers: string }> {
  const { stdout } = await run('curl', ['-s', '-i', '-w', '\n%{http_code}', ...args], { maxBuffer: 64 * 1024 * 1024 });
  const status = Number(stdout.slice(stdout.lastIndexOf('\n') + 1));
  const text = stdout.slice(0, stdout.lastIndexOf('\n'));
  const split = text.lastIndexOf('\r\n\r\n');
  return { status, headers: text.slice(0, split), body: text.slice(split + 4) };
}
const json = (token = 'red-token') => ['-H', 'content-type: application/json', '-H', `x-auth-token: ${token}`];

for (const [protocol, httpVersion] of [
  ['connect', '1.1'],
  ['connect', '2'],
  ['grpc', '2'],
  ['grpc-web', '1.1'],
  ['grpc-web', '2'],
] as const) {
  test(`the Connect client speaks ${protocol} over HTTP/${httpVersion}`, async (t) => {
    const api = await fixture(t);
    const transport = api.transport({ protocol, httpVersion });
    const client = createClient(ContainerService, transport);
    const made = await client.createContainer({ container: container('web') });
    t.is(made.container?.metadata?.name, 'web');
    t.is((await client.listContainers({ bay: 'local' })).containers.length, 1);
    const error = await t.throwsAsync(client.getContainer({ bay: 'local', name: 'none' }), {
      instanceOf: ConnectError,
    });
    t.is(error?.code, Code.NotFound);
    t.regex(error?.metadata.get('x-request-id') ?? '', /^[0-9a-f-]{36}$/);
    const abort = new AbortController();
    for await (const event of client.watchContainers({ bay: 'local' }, { signal: abort.signal })) {
      t.is(event.container?.metadata?.name, 'web');
      break;
    }
  });
}

test('grpc-js with proto-loader works from the proto files alone', async (t) => {
  const api = await fixture(t);
  const definition = await loader.load(['baykeeper/v1/container_service.proto', 'baykeeper/v1/system_service.proto'], {
    includeDirs: [resolve(import.meta.dirname, '../proto')],
    keepCase: true,
    longs: String,
    enums: String,
  });
  const loaded = grpc.loadPackageDefinition(definition) as unknown as {
    baykeeper: { v1: Record<string, grpc.ServiceClientConstructor> };
  };
  const Client = loaded.baykeeper.v1.ContainerService;
  if (!Client) throw new Error('the service was not loaded');
  const client = new Client(`127.0.0.1:${api.server.port}`, grpc.credentials.createInsecure());
  t.teardown(() => client.close());
  const metadata = new grpc.Metadata();
  metadata.set('authorization', 'Bearer red-token');
  const call = (method: string, request: object, more = metadata) =>
    new Promise<Record<string, never>>((done, fail) => {
      const fn = client[method]?.bind(client) as (...args: unknown[]) => void;
      fn(request, more, { deadline: Date.now() + 10_000 }, (error: Error | null, answer: never) =>
        error ? fail(error) : done(answer),
      );
    });
  const made = (await call('CreateContainer', { container: container('web') })) as unknown as {
    container: { metadata: { uid: string; generation: string }; spec: { restart_policy: string } };
  };
  t.is(made.container.spec.restart_policy, 'RESTART_POLICY_ALWAYS');
  t.is(made.container.metadata.generation, '1');
  const missing = await t.throwsAsync<grpc.ServiceError>(call('GetContainer', { bay: 'local', name: 'none' }));
  t.is(missing?.code, grpc.status.NOT_FOUND);
  t.is(missing?.details, 'there is no container "none" in bay "local"');
  const nobody = await t.throwsAsync<grpc.ServiceError>(
    call('GetContainer', { bay: 'local', name: 'web' }, new grpc.Metadata()),
  );
  t.is(nobody?.code, grpc.status.UNAUTHENTICATED);
  const invalid = await t.throwsAsync<grpc.ServiceError>(call('CreateContainer', { container: container('BAD') }));
  t.is(invalid?.code, grpc.status.INVALID_ARGUMENT);
  t.true((invalid?.metadata.get('grpc-status-details-bin').length ?? 0) > 0);

  const watch = (client.WatchContainers as (...args: unknown[]) => grpc.ClientReadableStream<{ type: string }>).call(
    client,
    { bay: 'local' },
    metadata,
  );
  const types: string[] = [];
  watch.on('error', () => undefined);
  watch.on('data', (event: { type: string }) => types.push(event.type));
  await until('the snapshot', () => types.includes('WATCH_EVENT_TYPE_SYNCED'));
  await call('DeleteContainer', { bay: 'local', name: 'web' });
  await until('the end of it', () => types.includes('WATCH_EVENT_TYPE_DELETED'));
  watch.cancel();
});

test('curl with JSON is enough', async (t) => {
  const api = await fixture(t);
  const service = `${api.server.url}/baykeeper.v1.ContainerService`;
  const body = JSON.stringify({ container: container('web') });
  const made = await curl(...json(), '-H', 'x-request-id: mine-1', '-d', body, `${service}/CreateContainer`);
  t.is(made.status, 200, made.body);
  t.is(JSON.parse(made.body).container.spec.stopTimeout, '10s');
  t.regex(made.headers, /x-request-id: mine-1/i);
  const masked = {
    container: { metadata: { bay: 'local', name: 'web' }, spec: { stopTimeout: '3s' } },
    updateMask: 'spec.stopTimeout',
  };
  const updated = await curl(...json(), '-d', JSON.stringify(masked), `${service}/UpdateContainer`);
  t.is(JSON.parse(updated.body).container.spec.stopTimeout, '3s', updated.body);
  const query = new URLSearchParams({
    connect: 'v1',
    encoding: 'json',
    message: JSON.stringify({ bay: 'local', name: 'web' }),
  });
  const got = await curl('-H', 'authorization: Bearer red-token', `${service}/GetContainer?${query}`);
  t.is(JSON.parse(got.body).container.metadata.generation, '2', got.body);

  const unknown = await curl(...json(), '-d', '{"container":{"specc":{}}}', `${service}/CreateContainer`);
  t.is(unknown.status, 400);
  t.regex(unknown.body, /specc/);
  const missing = await curl(...json(), '-d', '{"bay":"local","name":"x"}', `${service}/GetContainer`);
  t.is(missing.status, 404);
  t.is(JSON.parse(missing.body).code, 'not_found');
  t.is((await curl('-d', '{}', '-H', 'content-type: application/json', `${service}/ListContainers`)).status, 401);
  t.is((await curl(...json(), '-d', '{"bay":', `${service}/ListContainers`)).status, 400);
  t.is(
    (await curl('--http2-prior-knowledge', ...json(), '-d', '{"bay":"local"}', `${service}/ListContainers`)).status,
    200,
  );
  const invalid = await curl(
    ...json(),
    '-d',
    JSON.stringify({ container: container('BAD') }),
    `${service}/CreateContainer`,
  );
  t.is(JSON.parse(invalid.body).details[0].debug.fieldViolations[0].field, 'container.metadata.name');
});

test('health follows what the server depends on', async (t) => {
  const api = await fixture(t, { api: {} });
  const health = createClient(Health, api.transport({ protocol: 'grpc', token: '' }));
  t.is((await health.check({})).status, Serving.SERVING);
  t.is((await health.check({ service: 'baykeeper.v1.ContainerService' })).status, Serving.SERVING);
  await t.throwsAsync(health.check({ service: 'nothing' }), { message: /no service "nothing"/ });
  const statuses: Serving[] = [];
  const abort = new AbortController();
  t.teardown(() => abort.abort());
  void (async () => {
    for await (const { status } of health.watch({ service: 'broker' }, { signal: abort.signal })) statuses.push(status);
  })().catch(() => undefined);
  await until('serving', () => statuses.length === 1);
  api.bus.connected = false;
  t.is((await health.check({})).status, Serving.NOT_SERVING);
  t.is((await health.check({ service: 'store' })).status, Serving.SERVING);
  await until('not serving', () => statuses.at(-1) === Serving.NOT_SERVING);
  t.is((await curl(`${api.server.url}/readyz`)).status, 503);
  t.is((await curl(`${api.server.url}/readyz`)).body, 'not ready: broker\n');
  t.is((await curl(`${api.server.url}/healthz`)).status, 200);
  api.bus.connected = true;
  t.is((await curl(`${api.server.url}/readyz`)).status, 200);
  t.is((await curl(`${api.server.url}/nothing`)).status, 404);
  t.is((await curl(`${api.server.url}/toString`)).status, 404);
});

test('reflection tells a client all that it needs to call us', async (t) => {
  const api = await fixture(t);
  const client = createClient(ServerReflection, api.transport({ protocol: 'grpc', token: '' }));
  async function* ask() {
    yield create(ServerReflectionRequestSchema, { messageRequest: { case: 'listServices', value: '' } });
    yield create(ServerReflectionRequestSchema, {
      messageRequest: { case: 'fileContainingSymbol', value: 'baykeeper.v1.ContainerService.CreateContainer' },
    });
    yield create(ServerReflectionRequestSchema, { messageRequest: { case: 'fileByFilename', value: 'nothing.proto' } });
  }
  const answers = [];
  for await (const { messageResponse } of client.serverReflectionInfo(ask())) answers.push(messageResponse);
  const [services, files, missing] = answers;
  t.true(
    services?.case === 'listServicesResponse' &&
      services.value.service.some(({ name }) => name === 'baykeeper.v1.BayService'),
  );
  t.is(missing?.case, 'errorResponse');
  const protos =
    files?.case === 'fileDescriptorResponse'
      ? files.value.fileDescriptorProto.map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes))
      : [];
  // Dependencies come after what needs them; a registry takes them the other way round.
  const byName = new Map(protos.map((file) => [file.name, file]));
  const ordered = new Set<(typeof protos)[number]>();
  const add = (name: string): void => {
    const file = byName.get(name);
    if (!file || ordered.has(file)) return;
    for (const dependency of file.dependency) add(dependency);
    ordered.add(file);
  };
  for (const { name } of protos) add(name);
  const registry = createFileRegistry(create(FileDescriptorSetSchema, { file: [...ordered] }));
  const service = registry.getService('baykeeper.v1.ContainerService');
  t.truthy(service);
  if (!service) return;
  // A client that knows nothing of ours but this.
  const method = service.method.listContainers as DescMethodUnary | undefined;
  const transport = api.transport({ protocol: 'grpc' });
  if (!method) throw new Error('no such method');
  const { message } = await transport.unary(method, undefined, 5000, undefined, { bay: 'local' } as never);
  t.is((message as unknown as { containers: unknown[] }).containers.length, 0);

  const session = http2.connect(api.server.url);
  t.teardown(() => session.close());
  const stream = session.request({
    ':method': 'POST',
    ':path': '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo',
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  // list_services, field 7: "".
  stream.end(Buffer.from([0, 0, 0, 0, 2, 0x3a, 0]));
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  t.true(Buffer.concat(chunks).includes('baykeeper.v1.BayService'));
});

test('metrics count calls by method and code', async (t) => {
  const api = await fixture(t);
  const client = createClient(ContainerService, api.transport());
  await client.listContainers({ bay: 'local' });
  await t.throwsAsync(client.getContainer({ bay: 'local', name: 'x' }));
  const { body } = await curl(`${api.server.url}/metrics`);
  t.regex(body, /baykeeper_api_requests_total\{method="baykeeper\.v1\.ContainerService\/ListContainers",code="ok"\} 1/);
  t.regex(body, /GetContainer",code="not_found"\} 1/);
  t.regex(body, /baykeeper_api_request_duration_seconds_bucket/);
  t.regex(body, /baykeeper_api_watches 0/);
});

test('what a caller sends never ends up in the log, and what goes wrong inside never with the caller', async (t) => {
  const lines: string[] = [];
  const log = pino({ level: 'debug' }, { write: (line: string) => void lines.push(line) });
  const api = await fixture(t, {
    log,
    api: {
      placement: {
        choose() {
          throw new TypeError('a secret of the inside');
        },
      },
    },
  });
  const client = createClient(ContainerService, api.transport());
  const error = await t.throwsAsync(client.createContainer({ container: container('web') }), {
    instanceOf: ConnectError,
  });
  t.is(error?.code, Code.Internal);
  t.false(error?.message.includes('secret'));
  const requestId = /request ([0-9a-f-]{36})/.exec(error?.message ?? '')?.[1] ?? 'none';
  t.true(lines.some((line) => line.includes(requestId) && line.includes('a secret of the inside')));
  t.true(lines.some((line) => line.includes('"code":"internal"') && line.includes('"subject":"rose"')));
  t.false(lines.join().includes('red-token'));
});

test('garbage on the port does not harm the server', async (t) => {
  const api = await fixture(t);
  const raw = async (bytes: Buffer | string, end = true): Promise<void> => {
    const socket = net.connect(api.server.port, '127.0.0.1');
    socket.on('error', () => undefined);
    await once(socket, 'connect');
    if (end) socket.end(bytes);
    else socket.write(bytes);
    socket.resume();
    // It may be reset, which is an end as well.
    if (end) await new Promise((done) => socket.once('close', done));
    else socket.destroy();
  };
  for (const bytes of [
    '',
    'P',
    'PR',
    'PRI',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    'PRI nonsense nonsense nonsense',
    'GET',
    '\0\0\0',
    'POST / HTTP/1.1\r\n\r\n',
  ]) {
    await raw(bytes);
    await raw(bytes, false);
  }
  await raw(Buffer.alloc(100_000, 0xff));
  await raw(`GET / HTTP/1.1\r\nx: ${'a'.repeat(100_000)}\r\n\r\n`);
  // The first bytes may come one by one.
  const slow = net.connect(api.server.port, '127.0.0.1');
  await once(slow, 'connect');
  slow.setNoDelay(true);
  for (const byte of 'GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n') {
    slow.write(byte);
    await new Promise((done) => setImmediate(done));
  }
  const [answer] = (await once(slow, 'data')) as [Buffer];
  t.regex(answer.toString(), /200 OK/);
  const service = `${api.server.url}/baykeeper.v1.ContainerService/CreateContainer`;
  const proto = ['-H', 'x-auth-token: red-token', '-H', 'content-type: application/proto'];
  t.is((await curl('--http2-prior-knowledge', ...proto, '-d', 'complete nonsense', service)).status, 400);
  t.true((await curl(...proto, '-d', 'complete nonsense', service)).status >= 400);
  t.true((await curl(...json(), '-H', 'content-encoding: gzip', '-d', 'no gzip', service)).status >= 400);
  t.is((await curl(...json(), '-X', 'PUT', '-d', '{}', service)).status, 405);
  t.is((await curl(`${api.server.url}/healthz`)).status, 200);
});

test('a message that is too large is refused', async (t) => {
  const api = await fixture(t, { server: { readMaxBytes: 64 * 1024 } });
  const client = createClient(ContainerService, api.transport());
  const large = { ...container('web'), spec: { image: 'x', args: ['a'.repeat(100_000)] } };
  const error = await t.throwsAsync(client.createContainer({ container: large }), { instanceOf: ConnectError });
  t.is(error?.code, Code.ResourceExhausted);
});

test('calls beyond the limit are refused, and a call that takes too long is ended', async (t) => {
  const limited = await fixture(t, { api: { callerLimit: { perSecond: 1, burst: 5 } } });
  const system = createClient(SystemService, limited.transport());
  const calls = await Promise.allSettled(Array.from({ length: 20 }, () => system.whoAmI({})));
  t.true(calls.filter(({ status }) => status === 'fulfilled').length <= 5);

  const slow = await startApi({
    api: {
      unaryTimeoutMs: 50,
      authenticator: {
        authenticate: ({ token }) =>
          token === 'red-token'
            ? { subject: 'rose', project: 'red', role: 'member' }
            : new Promise<undefined>(() => undefined),
      },
    },
  });
  t.teardown(() => slow[Symbol.asyncDispose]());
  const error = await t.throwsAsync(createClient(SystemService, slow.transport({ token: 'slow' })).whoAmI({}), {
    instanceOf: ConnectError,
  });
  t.is(error?.code, Code.DeadlineExceeded);
});

test('shutting down ends watches with UNAVAILABLE, and lets calls finish', async (t) => {
  let release: () => void = () => undefined;
  const api = await fixture(t, {
    api: {
      authenticator: {
        authenticate: ({ token }) => {
          const principal = { subject: 'rose', project: 'red', role: 'member' } as const;
          if (token !== 'held') return principal;
          return new Promise((done) => {
            release = () => done(principal);
          });
        },
      },
    },
  });
  const watching = Promise.all(
    (['connect', 'grpc', 'grpc-web'] as const).map(async (protocol) => {
      const client = createClient(ContainerService, api.transport({ protocol }));
      let synced = false;
      const end = (async () => {
        for await (const _ of client.watchContainers({ bay: 'local' })) synced = true;
      })();
      end.catch(() => undefined);
      await until('synced', () => synced);
      return { end };
    }),
  );
  const watches = await watching;
  const held = createClient(SystemService, api.transport({ token: 'held' })).whoAmI({});
  await until('the call is under way', () => release.name !== 'release' || release.toString().includes('done'));
  const closing = api.server.close({ graceMs: 600_000 });
  for (const { end } of watches) {
    const error = await t.throwsAsync(end, { instanceOf: ConnectError });
    t.is(Code[error?.code ?? 0], 'Unavailable');
  }
  release();
  t.is((await held).subject, 'rose');
  // As soon as that is over, and not when the grace is.
  await closing;
  await t.throwsAsync(createClient(SystemService, api.transport()).whoAmI({}));
});

test('only loopback addresses are listened on, and a port in use is told', async (t) => {
  const api = await fixture(t);
  const options = {
    api: { routes: () => undefined, interceptors: [], dependencies: {}, close: () => undefined },
    registry: api.registry,
    log: pino({ level: 'silent' }),
  };
  for (const host of ['0.0.0.0', '::', '192.0.2.1', 'example.com']) {
    await t.throwsAsync(startServer({ ...options, host, port: 0 }), {
      instanceOf: ListenError,
      message: /without TLS/,
    });
  }
  await t.throwsAsync(startServer({ ...options, host: '127.0.0.1', port: api.server.port }), {
    instanceOf: ListenError,
    message: /in use/,
  });
});
