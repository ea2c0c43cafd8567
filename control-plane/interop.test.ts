import http2 from 'node:http2';
import { resolve } from 'node:path';
import { create, createFileRegistry, type DescMethodUnary, fromBinary } from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { createClient } from '@connectrpc/connect';
import * as grpc from '@grpc/grpc-js';
import * as loader from '@grpc/proto-loader';
import test from 'ava';
import { ServerReflection, ServerReflectionRequestSchema } from '../proto/gen/grpc/reflection/v1/reflection_pb.js';
import { container, curl, fixture, json } from '../test/harness/server_bed.ts';
import { until } from '../test/harness/until.ts';

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
