import { once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import { gzipSync } from 'node:zlib';
import { create, toBinary } from '@bufbuild/protobuf';
import test from 'ava';
import { ServerReflectionRequestSchema } from '../proto/gen/grpc/reflection/v1/reflection_pb.js';
import { curl, fixture } from '../test/harness/server_bed.ts';
import { until } from '../test/harness/until.ts';

/* What is taken in of calls before they are whole, over every way into the server. */

const createPath = '/baykeeper.v1.ContainerService/CreateContainer';
const padded = (bytes: number) =>
  Buffer.from(
    JSON.stringify({ container: { metadata: { bay: 'local' }, spec: { image: 'i', args: ['a'.repeat(bytes)] } } }),
  );
const framed = (message: Buffer, flags = 0) => {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
};

/** Status, and body or gRPC status, of a call over HTTP/2. */
async function call(session: http2.ClientHttp2Session, headers: http2.OutgoingHttpHeaders, body: Buffer) {
  const stream = session.request({ ':method': 'POST', ':path': createPath, te: 'trailers', ...headers });
  stream.on('error', () => undefined);
  let text = '';
  let grpc = '';
  stream.on('response', (fields) => {
    text += String(fields[':status']);
    grpc ||= String(fields['grpc-status'] ?? '');
  });
  stream.on('trailers', (fields) => {
    grpc ||= String(fields['grpc-status'] ?? '');
  });
  stream.on('data', (data: Buffer) => {
    text += data.toString('latin1');
  });
  stream.end(body);
  await new Promise((done) => stream.once('close', done));
  return grpc ? `grpc ${grpc}${text}` : text;
}

function post(port: number, headers: http.OutgoingHttpHeaders, body: Buffer): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, method: 'POST', path: createPath, headers, agent: false };
    const request = http.request(options, (response) => {
      let text = String(response.statusCode);
      response.on('data', (data: Buffer) => {
        text += data.toString('latin1');
      });
      response.on('end', () => resolve(text));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

test('of somebody who is not known no large message is read, whatever it is sent by, and it is recorded', async (t) => {
  const api = await fixture(t);
  const session = http2.connect(api.server.url);
  t.teardown(() => session.destroy());
  await once(session, 'connect');
  const large = padded(100_000);
  const small = gzipSync(large);
  t.true(small.length < 1000);
  const json = { 'content-type': 'application/json' };
  const ways: [string, (token: object) => Promise<string>][] = [
    ['Connect over HTTP/2', (token) => call(session, { ...json, ...token }, large)],
    ['Connect over HTTP/2, packed', (token) => call(session, { ...json, 'content-encoding': 'gzip', ...token }, small)],
    ['Connect over HTTP/1.1', (token) => post(api.server.port, { ...json, ...token }, large)],
    [
      'Connect over HTTP/1.1, packed',
      (token) => post(api.server.port, { ...json, 'content-encoding': 'gzip', ...token }, small),
    ],
    ['gRPC', (token) => call(session, { 'content-type': 'application/grpc+json', ...token }, framed(large))],
    [
      'gRPC, packed',
      (token) =>
        call(session, { 'content-type': 'application/grpc+json', 'grpc-encoding': 'gzip', ...token }, framed(small, 1)),
    ],
    ['gRPC-Web', (token) => call(session, { 'content-type': 'application/grpc-web+json', ...token }, framed(large))],
  ];
  for (const [way, send] of ways) {
    t.regex(await send({}), /^401.*a token is required|^grpc 16|grpc-status: ?16/s, way);
    t.regex(await send({ authorization: 'Bearer nobody' }), /^401.*not known|^grpc 16|grpc-status: ?16/s, way);
    t.regex(await send({ 'x-auth-token': 'red-token' }), /^200|^grpc 0|grpc-status: ?0/s, way);
  }
  const refused = [];
  for await (const record of api.audit.read(undefined)) if (record.code === 'unauthenticated') refused.push(record);
  t.is(refused.length, 2 * ways.length);
  t.true(refused.every(({ kind, method, peer }) => kind === 'refused' && createPath.endsWith(method) && peer !== ''));
});

test('methods that are open take no large message from anybody', async (t) => {
  const api = await fixture(t);
  const url = `${api.server.url}/baykeeper.v1.EnrollmentService/Enroll`;
  const body = JSON.stringify({ token: 'a'.repeat(20_000) });
  for (const more of [[], ['-H', 'x-auth-token: red-token']]) {
    const answer = await curl('-H', 'content-type: application/json', ...more, '-d', body, url);
    t.is(answer.status, 429, answer.body);
    t.regex(answer.body, /larger than what Enroll takes/);
  }
});

test('nor by their streams', async (t) => {
  const api = await fixture(t);
  const session = http2.connect(api.server.url);
  t.teardown(() => session.destroy());
  await once(session, 'connect');
  const ask = (symbol: string, flags = 0) => {
    const request = toBinary(
      ServerReflectionRequestSchema,
      create(ServerReflectionRequestSchema, { messageRequest: { case: 'fileContainingSymbol', value: symbol } }),
    );
    const body = Buffer.from(flags ? gzipSync(request) : request);
    const path = '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo';
    const headers = { ':path': path, 'content-type': 'application/grpc', 'grpc-encoding': 'gzip' };
    // More than one message, and in pieces that nobody would choose.
    return call(session, headers, Buffer.concat([framed(body, flags), framed(body, flags)]));
  };
  t.regex(await ask('baykeeper.v1.BayService'), /^grpc 0200/);
  t.regex(await ask('a'.repeat(15_000)), /^grpc 0200/);
  t.regex(await ask('a'.repeat(17_000)), /^grpc 8/);
  t.regex(await ask('baykeeper.v1.BayService', 1), /^grpc 8/, 'packed, it could be anything');
});

test('of streams the messages count that are not whole, and what was read is forgotten', async (t) => {
  const api = await fixture(t, { server: { intake: { strangerBytes: 1_000, shareBytes: 60_000 } } });
  const session = http2.connect(api.server.url);
  t.teardown(() => session.destroy());
  await once(session, 'connect');
  const begin = (body: Buffer) => {
    const stream = session.request({
      ':method': 'POST',
      ':path': '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.on('error', () => undefined);
    stream.resume();
    const ended = new Promise((done) => stream.once('close', done).once('trailers', done).once('response', done));
    stream.write(body);
    return { stream, ended };
  };
  // Each is small, and whole.
  const question = framed(
    Buffer.from(
      toBinary(
        ServerReflectionRequestSchema,
        create(ServerReflectionRequestSchema, { messageRequest: { case: 'listServices', value: '' } }),
      ),
    ),
  );
  const { stream, ended } = begin(Buffer.concat(Array.from({ length: 100 }, () => question)));
  await ended;
  stream.close();
  // Twenty that are open cost more than one address may have.
  const held = Array.from({ length: 20 }, () => begin(question.subarray(0, 3)));
  const refused = await call(
    session,
    { ':path': '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo', 'content-type': 'application/grpc' },
    question,
  );
  t.regex(refused, /^grpc 8/);
  for (const one of held) one.stream.close(http2.constants.NGHTTP2_CANCEL);
  await until('there is room', async () => {
    const { stream: next } = begin(question);
    const fields = await new Promise<http2.IncomingHttpHeaders>((done) => {
      next.once('response', done);
      next.once('close', () => done({ 'grpc-status': '1' }));
    });
    next.close();
    return fields['grpc-status'] === undefined;
  });
  t.pass();
});

for (const [what, limits, bytes] of [
  ['large calls of one caller', { strangerBytes: 1_000, shareBytes: 90_000 }, 40_000],
  ['large calls of all', { strangerBytes: 1_000, shareBytes: 90_000, totalBytes: 100_000 }, 40_000],
  ['small calls of one address', { shareBytes: 36_000 }, 10_000],
] as const) {
  test(`${what} that are not whole hold so much and no more, until they end`, async (t) => {
    const api = await fixture(t, { server: { intake: limits } });
    const session = http2.connect(api.server.url);
    t.teardown(() => session.destroy());
    await once(session, 'connect');
    const headers = (token: string) => ({ 'content-type': 'application/json', 'x-auth-token': token });
    const begin = async (token: string) => {
      const stream = session.request({ ':method': 'POST', ':path': createPath, ...headers(token) });
      stream.on('error', () => undefined);
      await new Promise((sent) => stream.write(padded(bytes).subarray(0, bytes), sent));
      return stream;
    };
    const held = [await begin('red-token'), await begin(what.endsWith('all') ? 'blue-token' : 'red-token')];
    const red = headers('red-token');
    await until('they are there', async () => (await call(session, red, padded(bytes))).startsWith('429'));
    t.regex(await call(session, red, padded(bytes)), /too much is coming in at once/);
    t.regex(await post(api.server.port, red, padded(bytes)), /too much is coming in at once/);
    if (!what.startsWith('small')) t.regex(await call(session, red, padded(100)), /^200/, 'others are let in');
    if (what.endsWith('caller')) {
      t.regex(await call(session, headers('admin-token'), padded(bytes)), /^(?!429)/, 'and other callers');
    }
    for (const stream of held) stream.close(http2.constants.NGHTTP2_CANCEL);
    await until('they are gone', async () => (await call(session, red, padded(bytes))).startsWith('200'));
    t.regex(await post(api.server.port, red, padded(bytes)), /^200/);
  });
}

test('a call has its time to come in, and is ended then', async (t) => {
  const api = await fixture(t, { server: { intake: { timeoutMs: 200 } } });
  const session = http2.connect(api.server.url);
  t.teardown(() => session.destroy());
  await once(session, 'connect');
  for (const headers of [{}, { 'content-encoding': 'gzip' }]) {
    const stream = session.request({ ':method': 'POST', ':path': createPath, 'x-auth-token': 'red-token', ...headers });
    stream.on('error', () => undefined);
    stream.resume();
    stream.write('{');
    await new Promise((done) => stream.once('close', done));
  }
  const json = { 'content-type': 'application/json', 'x-auth-token': 'red-token' };
  const stream = session.request({ ':method': 'POST', ':path': createPath, ...json });
  stream.on('error', () => undefined);
  const [fields] = await once(stream, 'response');
  t.is(fields[':status'], 504);
});

test('what was refused before it was read holds up nothing that comes after it on its connection', async (t) => {
  const api = await fixture(t);
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  t.teardown(() => agent.destroy());
  const send = (token: string, bytes: number) =>
    new Promise<number>((resolve, reject) => {
      const headers = { 'content-type': 'application/json', 'x-auth-token': token };
      const options = { agent, host: '127.0.0.1', port: api.server.port, method: 'POST', path: createPath, headers };
      const request = http.request(options, (response) => {
        response.resume().on('end', () => resolve(response.statusCode ?? 0));
      });
      request.on('error', reject);
      request.end(padded(bytes));
    });
  for (let i = 0; i < 3; i += 1) {
    t.is(await send('nobodys', 1_000_000), 401);
    t.is(await send('red-token', 100_000), 200);
  }
});
