import { once } from 'node:events';
import http2 from 'node:http2';
import net from 'node:net';
import {
  create,
  type DescField,
  type DescMessage,
  type DescMethodStreaming,
  type DescMethodUnary,
  type Message,
  ScalarType,
} from '@bufbuild/protobuf';
import { reflect } from '@bufbuild/protobuf/reflect';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import test from 'ava';
import { kindServices } from '../../control-plane/api/kind_services.ts';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { EnrollmentService } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { ExplainService } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { PodService } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import { SystemService } from '../../proto/gen/baykeeper/v1/system_service_pb.js';
import { ServerReflection } from '../../proto/gen/grpc/reflection/v1/reflection_pb.js';
import { Health } from '../../proto/gen/health/v1/health_pb.js';
import { startApi } from '../harness/api_fixture.ts';
import { until } from '../harness/until.ts';

/** What is put into every field of its type. */
interface Poison {
  readonly name: string;
  readonly text: string;
  readonly number: number;
  readonly enumNumber: number;
  readonly items: number;
  readonly depth: number;
}
const poisons: readonly Poison[] = [
  { name: 'empty', text: '', number: 0, enumNumber: 0, items: 0, depth: 4 },
  { name: 'plain', text: 'a', number: 1, enumNumber: 1, items: 1, depth: 4 },
  { name: 'a name that is there', text: 'local', number: 1, enumNumber: 2, items: 1, depth: 4 },
  { name: 'huge', text: 'a'.repeat(50_000), number: 2 ** 31 - 1, enumNumber: 2 ** 31 - 1, items: 2, depth: 3 },
  { name: 'NUL', text: 'a\0b', number: -1, enumNumber: -1, items: 2, depth: 4 },
  { name: 'keys of objects', text: '__proto__', number: -(2 ** 31), enumNumber: 99, items: 1, depth: 4 },
  { name: 'not ASCII', text: '\u{1f4a9}é\u202e', number: 7, enumNumber: 3, items: 3, depth: 4 },
  { name: 'paths and code', text: '../../etc/passwd; $(id) {{x}} %00', number: 8, enumNumber: 4, items: 1, depth: 4 },
  { name: 'deep', text: 'a', number: 1, enumNumber: 1, items: 1, depth: 60 },
];

/** A message with poison in every field. `branch` chooses among the members of a oneof. */
function poisoned(desc: DescMessage, poison: Poison, branch: number, depth = poison.depth): Message {
  const message = create(desc);
  const target = reflect(desc, message);
  const chosen = new Set(desc.oneofs.map((oneof) => oneof.fields[branch % oneof.fields.length]));
  for (const field of desc.fields) {
    if (field.oneof && !chosen.has(field)) continue;
    switch (field.fieldKind) {
      case 'list':
        for (let i = 0; i < poison.items; i += 1) {
          const item = field.listKind === 'message' ? inner(field.message, poison, branch, depth) : leaf(field, poison);
          if (item !== undefined) target.get(field).add(item);
        }
        break;
      case 'map': {
        const value = field.mapKind === 'message' ? inner(field.message, poison, branch, depth) : leaf(field, poison);
        if (value !== undefined && poison.items > 0 && field.mapKey === ScalarType.STRING) {
          target.get(field).set(poison.text, value);
        }
        break;
      }
      case 'message': {
        const value = inner(field.message, poison, branch, depth);
        if (value !== undefined) target.set(field, value);
        break;
      }
      default:
        target.set(field, leaf(field, poison));
    }
  }
  return message;
}
const inner = (desc: DescMessage, poison: Poison, branch: number, depth: number) =>
  depth > 0 ? reflect(desc, poisoned(desc, poison, branch, depth - 1)) : undefined;

function leaf(field: DescField, poison: Poison): string | number | bigint | boolean | Uint8Array {
  if (field.enum) return poison.enumNumber;
  switch (field.scalar) {
    case ScalarType.STRING:
      return poison.text;
    case ScalarType.BYTES:
      return Buffer.from(poison.text);
    case ScalarType.BOOL:
      return poison.number % 2 === 1;
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return Number.NaN;
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return Math.abs(poison.number) % 2 ** 31;
    case ScalarType.UINT64:
    case ScalarType.FIXED64:
      return 2n ** 64n - 1n;
    case ScalarType.INT64:
    case ScalarType.SINT64:
    case ScalarType.SFIXED64:
      return poison.number > 1 ? 2n ** 63n - 1n : BigInt(poison.number);
    default:
      return poison.number;
  }
}

const services = [
  ...Object.values(kindServices),
  ManifestService,
  JoinTokenService,
  EnrollmentService,
  ExplainService,
  SystemService,
  Health,
  ServerReflection,
];

test('whatever is put into the fields of any call, it is answered, and never as an error of ours', async (t) => {
  const limit = { perSecond: 1e6, burst: 1e6 };
  await using api = await startApi({ api: { callerLimit: limit, peerLimit: limit } });
  const transport = api.transport({ protocol: 'grpc' });
  const bays = createClient(BayService, transport);
  await bays.createBay({ bay: { metadata: { name: 'local' } } });
  let calls = 0;
  const wrong: string[] = [];
  for (const poison of poisons) {
    for (const service of services) {
      for (const method of service.methods) {
        const branches = Math.max(1, ...method.input.oneofs.map(({ fields }) => fields.length));
        for (let branch = 0; branch < branches; branch += 1) {
          const message = poisoned(method.input, poison, branch);
          const abort = new AbortController();
          calls += 1;
          try {
            if (method.methodKind === 'unary') {
              await transport.unary(method as DescMethodUnary, abort.signal, 20_000, undefined, message);
            } else {
              const input = (async function* () {
                yield message;
              })();
              const answer = await transport.stream(
                method as DescMethodStreaming,
                abort.signal,
                20_000,
                undefined,
                input,
              );
              for await (const _ of answer.message) break;
            }
          } catch (error) {
            const { code, message: text } = ConnectError.from(error);
            const where = `${service.typeName}/${method.name} with ${poison.name}: ${text}`;
            if ([Code.Internal, Code.Unknown, Code.DeadlineExceeded, Code.DataLoss].includes(code)) wrong.push(where);
          } finally {
            abort.abort();
          }
        }
      }
    }
  }
  t.deepEqual(wrong, []);
  t.true(calls > 500);
  await bays.listBays({});
});

test('deep JSON and large bodies are refused, and others are served meanwhile', async (t) => {
  await using api = await startApi();
  const post = (method: string, body: string | Uint8Array<ArrayBuffer>, type = 'application/json') =>
    fetch(`${api.server.url}/baykeeper.v1.${method}`, {
      method: 'POST',
      headers: { authorization: 'Bearer red-token', 'content-type': type },
      body,
    });
  const depth = 100_000;
  for (const deep of [
    '['.repeat(depth),
    `${'{"pod":'.repeat(depth)}1${'}'.repeat(depth)}`,
    `{"pod":{"metadata":{"bay":"local"},"spec":{"template":${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}}}}`,
    `{"pod":{"metadata":{"bay":"local"},"spec":${'['.repeat(depth)}${']'.repeat(depth)}}}`,
  ]) {
    const answer = await post('PodService/CreatePod', deep);
    t.is(answer.status, 400, (await answer.text()).slice(0, 200));
  }
  // Protobuf nests by length: a Struct in a Struct in a Struct …
  let nested: Buffer = Buffer.alloc(0);
  const wrap = (tag: number, body: Buffer): Buffer => {
    const length: number[] = [];
    for (let rest = body.length; ; rest >>>= 7) {
      length.push(rest > 127 ? (rest & 127) | 128 : rest);
      if (rest <= 127) break;
    }
    return Buffer.concat([Buffer.from([tag, ...length]), body]);
  };
  for (let i = 0; i < 3000; i += 1) nested = wrap(0x12, wrap(0x12, nested));
  const deepProto = await post('PodService/CreatePod', new Uint8Array(nested), 'application/proto');
  t.true([400, 404, 501].includes(deepProto.status), String(deepProto.status));
  const large = JSON.stringify({ container: { spec: { args: ['a'.repeat(5 * 1024 * 1024)] } } });
  const refused = await Promise.all(Array.from({ length: 10 }, () => post('ContainerService/CreateContainer', large)));
  for (const answer of refused) {
    t.is(answer.status, 429);
    t.regex(await answer.text(), /resource_exhausted/);
  }
  t.is((await fetch(`${api.server.url}/healthz`)).status, 200);
});

test('slow bodies, half-open sockets and floods of headers hold up nobody else', async (t) => {
  await using api = await startApi();
  const sockets = await Promise.all(
    Array.from({ length: 200 }, async (_, i) => {
      const socket = net.connect(api.server.port, '127.0.0.1');
      socket.on('error', () => undefined);
      await once(socket, 'connect');
      const head = `POST /baykeeper.v1.ContainerService/CreateContainer HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n`;
      if (i % 4 === 0) socket.write(`${head}content-length: 1000000\r\n\r\n{`);
      if (i % 4 === 1) socket.write(head);
      if (i % 4 === 2) socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
      if (i % 4 === 3) socket.end(`${head}content-length: 1000000\r\n\r\n{`);
      return socket;
    }),
  );
  const session = http2.connect(api.server.url);
  session.on('error', () => undefined);
  await once(session, 'connect');
  const flood = Object.fromEntries(Array.from({ length: 2000 }, (_, i) => [`x-header-${i}`, 'y'.repeat(100)]));
  for (let i = 0; i < 50; i += 1) {
    const stream = session.request({ ':method': 'POST', ':path': '/x', ...flood });
    stream.on('error', () => undefined);
  }
  // Calls that are begun and taken back, as fast as can be.
  const resets = http2.connect(api.server.url);
  resets.on('error', () => undefined);
  await once(resets, 'connect');
  for (let i = 0; i < 2000 && !resets.destroyed; i += 1) {
    const stream = resets.request({ ':method': 'POST', ':path': '/baykeeper.v1.ContainerService/WatchContainers' });
    stream.on('error', () => undefined);
    stream.close(http2.constants.NGHTTP2_CANCEL);
  }
  const transport = api.transport();
  await createClient(BayService, transport).createBay({ bay: { metadata: { name: 'local' } } });
  const containers = createClient(ContainerService, transport);
  for (let i = 0; i < 20; i += 1) {
    await containers.createContainer({ container: { metadata: { bay: 'local' }, spec: { image: 'i' } } });
  }
  t.is((await containers.listContainers({ bay: 'local' })).containers.length, 20);
  session.destroy();
  resets.destroy();
  for (const socket of sockets) socket.destroy();
  await until('no watch is left', async () =>
    /^baykeeper_api_watches 0$/m.test(await (await fetch(`${api.server.url}/metrics`)).text()),
  );
});

test('a message about a long or broken name is short enough for the headers of any client', async (t) => {
  await using api = await startApi();
  const pods = createClient(PodService, api.transport({ protocol: 'grpc' }));
  for (const bay of ['a'.repeat(1_000_000), '\u{1f4a9}'.repeat(200_000), '"\r\n%\0'.repeat(100_000)]) {
    const error = ConnectError.from(await t.throwsAsync(pods.getPod({ bay, name: bay })));
    t.true([Code.NotFound, Code.InvalidArgument].includes(error.code), error.message.slice(0, 200));
    t.true(error.rawMessage.length <= 1000);
  }
  const answer = await fetch(`${api.server.url}/baykeeper.v1.PodService/GetPod`, {
    method: 'POST',
    headers: { authorization: 'Bearer red-token', 'content-type': 'application/json' },
    body: '{"bay": "\\ud800", "name": "\\udfff"}',
  });
  t.true([400, 404].includes(answer.status), await answer.text());
});

test('no first line, host or upgrade that anybody can think of ends the server', async (t) => {
  await using api = await startApi();
  const path = '/baykeeper.v1.ContainerService/WatchContainers';
  const types = ['application/json', 'application/connect+json', 'application/grpc', 'application/grpc-web'];
  const heads = [
    `POST ${path} HTTP/1.0\r\n`,
    `POST ${path} HTTP/1.1\r\nhost:\r\n`,
    `POST ${path} HTTP/1.1\r\nhost: [\r\n`,
    `POST ${path} HTTP/1.1\r\nhost: a b:x:99999999\r\n`,
    `POST ${path} HTTP/1.1\r\nhost: a\r\nhost: b\r\n`,
    `POST http://[${path} HTTP/1.1\r\nhost: a\r\n`,
    `POST ${path}?${'%ff&'.repeat(100)} HTTP/1.1\r\nhost: a\r\n`,
    `POST //${path} HTTP/1.1\r\nhost: a\r\n`,
    `GET ${path}?connect=v1&encoding=json&message=%E0%A4%A HTTP/1.1\r\nhost: [\r\n`,
    `CONNECT ${path} HTTP/1.1\r\nhost: a\r\n`,
    `OPTIONS * HTTP/1.1\r\nhost: a\r\n`,
    `GET ${path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n`,
    `POST ${path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n`,
    `POST ${path} HTTP/1.1\r\nhost: a\r\nexpect: nonsense\r\n`,
    `POST ${path} HTTP/1.1\r\nhost: a\r\nconnect-timeout-ms: ${'9'.repeat(40)}\r\ngrpc-timeout: x\r\n`,
  ];
  for (const head of heads) {
    for (const type of types) {
      const socket = net.connect(api.server.port, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.resume();
      await once(socket, 'connect');
      socket.end(`${head}content-type: ${type}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}`);
      await new Promise((done) => socket.once('close', done));
    }
  }
  const session = http2.connect(api.server.url);
  session.on('error', () => undefined);
  for (const headers of [
    { ':authority': '[' },
    { ':authority': '' },
    { ':path': '*', ':method': 'OPTIONS' },
    { ':path': `${path}?%ff`, ':authority': 'a b' },
    { 'content-encoding': 'gzip', 'content-type': 'application/proto' },
    { ':path': '/baykeeper.v1.SystemService/GetServerInfo', 'grpc-timeout': 'x', 'content-type': 'application/grpc' },
  ]) {
    for (const type of types) {
      const stream = session.request({ ':method': 'POST', ':path': path, 'content-type': type, ...headers });
      stream.on('error', () => undefined);
      stream.resume();
      stream.end('{}');
      await new Promise((done) => stream.once('close', done));
    }
  }
  // HTTP/2 without an authority, which only a client of its own making sends.
  const bare = http2.connect(api.server.url);
  bare.on('error', () => undefined);
  const stream = bare.request({ ':method': 'POST', ':path': path, ':authority': undefined, 'content-type': types[1] });
  stream.on('error', () => undefined);
  stream.resume();
  stream.end('{}');
  await new Promise((done) => stream.once('close', done));
  session.destroy();
  bare.destroy();
  t.is((await fetch(`${api.server.url}/healthz`)).status, 200);
});
