import http from 'node:http';
import http2 from 'node:http2';
import { gzipSync } from 'node:zlib';
import { Code } from '@connectrpc/connect';
import test from 'ava';
import { startApi } from '../../test/harness/api_fixture.ts';
import { nobody } from '../audit/port.ts';

/** What came back: of HTTP/1.1 and of HTTP/2. */
interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly trailers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}
type Send = (path: string, headers: Record<string, string>, body: Buffer) => Promise<Answer>;

const texts = (headers: object): Record<string, string> =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value)]));

function overHttp1(port: number): Send {
  return (path, headers, body) =>
    new Promise((resolve, reject) => {
      const request = http.request({ host: '127.0.0.1', port, path, method: 'POST', headers }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: texts(response.headers),
            trailers: texts(response.trailers),
            body: Buffer.concat(chunks),
          }),
        );
      });
      request.on('error', reject);
      request.end(body);
    });
}

function overHttp2(port: number): Send {
  return (path, headers, body) =>
    new Promise((resolve, reject) => {
      const session = http2.connect(`http://127.0.0.1:${port}`);
      session.on('error', reject);
      const stream = session.request({ ':method': 'POST', ':path': path, ...headers });
      let head = {};
      let trailers = {};
      const chunks: Buffer[] = [];
      stream.on('response', (fields) => {
        head = fields;
      });
      stream.on('trailers', (fields) => {
        trailers = fields;
      });
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      stream.on('error', reject);
      stream.on('end', () => {
        session.close();
        const { ':status': status, ...rest } = texts(head);
        resolve({ status: Number(status), headers: rest, trailers: texts(trailers), body: Buffer.concat(chunks) });
      });
      stream.end(body);
    });
}

const frame = (body: Buffer, flags = 0): Buffer => {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(body.length, 1);
  return Buffer.concat([head, body]);
};
/** Protobuf that says that a field is longer than all there is. */
const garbage = Buffer.from([0x0a, 0xff, 0xff, 0xff, 0x0f, 0x01]);
const create = '/baykeeper.v1.ContainerService/CreateContainer';
const watch = '/baykeeper.v1.ContainerService/WatchContainers';

/** The code that an answer has, whatever the protocol. */
function codeOf({ status, headers, trailers, body }: Answer): { code: string; message: string } {
  const type = headers['content-type'] ?? '';
  const grpc = (fields: Readonly<Record<string, string>>) => ({
    code: Code[Number(fields['grpc-status'])] ?? '',
    message: decodeURIComponent(fields['grpc-message'] ?? ''),
  });
  if (type === 'application/json') {
    const { code, message } = JSON.parse(body.toString());
    return { code: status === 400 && code === 'invalid_argument' ? 'InvalidArgument' : `${status} ${code}`, message };
  }
  if (type.startsWith('application/connect+')) {
    const { error } = JSON.parse(body.subarray(5).toString());
    return { code: error.code === 'invalid_argument' ? 'InvalidArgument' : error.code, message: error.message };
  }
  if (type.startsWith('application/grpc-web') && headers['grpc-status'] === undefined) {
    const lines = body.subarray(5).toString().trim().split('\r\n');
    return grpc(Object.fromEntries(lines.map((line) => line.split(/: ?/, 2) as [string, string])));
  }
  return grpc({ ...headers, ...trailers });
}

for (const [version, over] of [
  ['1.1', overHttp1],
  ['2', overHttp2],
] as const) {
  test(`a message that cannot be read is the caller’s mistake, in every protocol over HTTP/${version}`, async (t) => {
    await using api = await startApi();
    const send = over(api.server.port);
    const auth = { authorization: 'Bearer red-token' };
    const cases: readonly (readonly [name: string, path: string, headers: Record<string, string>, body: Buffer])[] = [
      ['proto', create, { 'content-type': 'application/proto' }, garbage],
      ['json', create, { 'content-type': 'application/json' }, Buffer.from('{"container": [')],
      ['json of another shape', create, { 'content-type': 'application/json' }, Buffer.from('[1, 2]')],
      ['an unknown field', create, { 'content-type': 'application/json' }, Buffer.from('{"contaner": {}}')],
      ['packed proto', create, { 'content-type': 'application/proto', 'content-encoding': 'gzip' }, gzipSync(garbage)],
      ['not packed', create, { 'content-type': 'application/proto', 'content-encoding': 'gzip' }, garbage],
      ['grpc-web', create, { 'content-type': 'application/grpc-web+proto' }, frame(garbage)],
      ['grpc-web stream', watch, { 'content-type': 'application/grpc-web+proto' }, frame(garbage)],
      ['stream', watch, { 'content-type': 'application/connect+proto' }, frame(garbage)],
      ['json stream', watch, { 'content-type': 'application/connect+json' }, frame(Buffer.from('{'))],
      ...(version === '2'
        ? ([
            ['grpc', create, { 'content-type': 'application/grpc' }, frame(garbage)],
            [
              'packed grpc',
              create,
              { 'content-type': 'application/grpc', 'grpc-encoding': 'gzip' },
              frame(gzipSync(garbage), 1),
            ],
            ['grpc stream', watch, { 'content-type': 'application/grpc' }, frame(garbage)],
          ] as const)
        : []),
    ];
    const isChange = cases.filter(([, path]) => path === create).length;
    for (const [name, path, headers, body] of cases) {
      const { code, message } = codeOf(await send(path, { ...auth, te: 'trailers', ...headers }, body));
      t.is(code, 'InvalidArgument', `${name}: ${message}`);
      t.regex(message, /cannot be read|cannot decode|decompression/i, name);
    }
    const large = { 'content-type': 'application/proto', ...auth };
    t.is((await send(create, large, Buffer.alloc(5 * 1024 * 1024))).status, 429);
    const recorded = [];
    await api.audit.append({ ...nobody, kind: 'system', method: '', code: '' });
    for await (const { kind, code, method } of api.audit.read(undefined)) {
      if (kind === 'refused') recorded.push(`${code} ${method.split('/')[1]}`);
    }
    t.deepEqual(recorded, [
      'resource_exhausted CreateContainer',
      ...Array(isChange).fill('invalid_argument CreateContainer'),
    ]);
    if (version === '2') {
      const { authorization: _, ...stranger } = large;
      t.is((await send(create, stranger, garbage)).status, 401, 'a stranger is not told what is wrong with a message');
    }
  });
}
