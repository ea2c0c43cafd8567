import http from 'node:http';
import {
  create,
  type DescMessage,
  type DescMethod,
  type MessageInitShape,
  toBinary,
  toJsonString,
} from '@bufbuild/protobuf';
import { createClient } from '@connectrpc/connect';
import test from 'ava';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { EnrollmentService } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { ExplainService, Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { PodService } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import { startApi } from '../harness/api_fixture.ts';
import { fuzz } from './fuzz.ts';
import { mutated } from './mutate.ts';

/* Messages, frames and headers of callers: each is answered, and never as an error of ours. */

interface Sample {
  readonly path: string;
  readonly streams: boolean;
  readonly binary: Uint8Array;
  readonly json: Uint8Array;
}

function sample<Desc extends DescMessage>(method: DescMethod & { input: Desc }, init: MessageInitShape<Desc>): Sample {
  const message = create(method.input, init);
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    streams: method.methodKind !== 'unary',
    binary: toBinary(method.input, message),
    json: Buffer.from(toJsonString(method.input, message)),
  };
}

const web = { metadata: { bay: 'local', name: 'web', labels: { a: 'b' } }, spec: { image: 'busybox', args: ['a'] } };
const samples: readonly Sample[] = [
  sample(ContainerService.method.createContainer, { container: web, requestId: 'r-1' }),
  sample(ContainerService.method.updateContainer, { container: web, updateMask: { paths: ['spec.image'] } }),
  sample(ContainerService.method.listContainers, {
    bay: 'local',
    filter: 'metadata.labels["a"] == "b" && size(metadata.name) > 1',
    orderBy: 'name desc',
    pageSize: 2,
  }),
  sample(ContainerService.method.deleteContainer, { bay: 'local', name: 'web', etag: 'x', allowMissing: true }),
  sample(ContainerService.method.watchContainers, { bay: 'local', sinceRevision: 1n }),
  sample(ContainerService.method.execute, {
    input: { case: 'start', value: { bay: 'local', name: 'web', command: ['sh', '-c', 'true'], tty: true } },
  }),
  sample(PodService.method.createPod, {
    pod: { metadata: { bay: 'local', name: 'p' }, spec: { manifest: { containers: [{ name: 'a', image: 'b' }] } } },
  }),
  sample(ManifestService.method.apply, {
    manifests: [
      { object: { case: 'container', value: web } },
      { object: { case: 'bay', value: { metadata: { name: 'b' } } } },
    ],
  }),
  sample(BayService.method.getBay, { name: 'local' }),
  sample(JoinTokenService.method.createJoinToken, { bay: 'local', ttl: { seconds: 60n }, maxUses: 2 }),
  sample(EnrollmentService.method.enroll, {
    token: `${'0123456789abcdef'}.${'a'.repeat(32)}`,
    bay: 'local',
    nodeName: 'n',
    proof: { publicKey: `U${'A'.repeat(55)}`, challenge: new Uint8Array(56), signature: new Uint8Array(64) },
    time: { seconds: 1n },
  }),
  sample(ExplainService.method.why, { kind: Kind.CONTAINER, bay: 'local', name: 'web' }),
];

/** Five bytes before each message of a stream: flags, and the length (https://connectrpc.com/docs/protocol/#streaming-rpcs). */
function framed(message: Uint8Array): Uint8Array {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

test('requests of every protocol, their bodies and headers', async (t) => {
  const limit = { perSecond: 1e6, burst: 1e6 };
  await using api = await startApi({ api: { callerLimit: limit, peerLimit: limit } });
  await createClient(BayService, api.transport()).createBay({ bay: { metadata: { name: 'local' } } });
  const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
  t.teardown(() => agent.destroy());

  const post = (path: string, headers: Record<string, string>, body: Uint8Array) =>
    new Promise<{ status: number; text: string }>((resolve, reject) => {
      const request = http.request(
        { agent, host: '127.0.0.1', port: api.server.port, method: 'POST', path, headers },
        (response) => {
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.on('end', () =>
            resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString() }),
          );
          response.on('error', reject);
        },
      );
      request.on('error', reject);
      request.end(body);
    });
  const check = async (path: string, headers: Record<string, string>, body: Uint8Array): Promise<void> => {
    const { status, text } = await post(path, { authorization: 'Bearer red-token', ...headers }, body);
    const says = /"code":"(?:internal|unknown|data_loss)"|grpc-status: *(?:2|13|15)\b/.exec(text);
    // 500 is what Connect says for internal, unknown and data loss; 505 is for two ways at once over HTTP/1.1.
    // gRPC and Connect have INTERNAL for that: https://github.com/grpc/grpc/blob/master/doc/compression.md
    if (/compressed(?: |%20)envelope/.test(text)) return;
    if (says || ![200, 400, 401, 403, 404, 408, 409, 412, 413, 415, 429, 501, 503, 505].includes(status)) {
      throw new Error(`${path} ${JSON.stringify(headers)}: ${status} ${text.slice(0, 300)}`);
    }
  };

  const protocols: readonly {
    readonly headers: Readonly<Record<string, string>>;
    readonly takes: (sample: Sample) => boolean;
    readonly body: (sample: Sample) => Uint8Array;
  }[] = [
    { headers: { 'content-type': 'application/json' }, takes: (s) => !s.streams, body: (s) => s.json },
    { headers: { 'content-type': 'application/proto' }, takes: (s) => !s.streams, body: (s) => s.binary },
    {
      // A watch that is taken has no end of its own.
      headers: { 'content-type': 'application/connect+proto', 'connect-timeout-ms': '50' },
      takes: (s) => s.streams,
      body: (s) => framed(s.binary),
    },
    {
      headers: { 'content-type': 'application/grpc-web+proto', 'grpc-timeout': '50m', 'x-grpc-web': '1' },
      takes: () => true,
      body: (s) => framed(s.binary),
    },
  ];
  // Nothing but the samples themselves: they are what they seem.
  for (const { headers, takes, body } of protocols)
    for (const one of samples.filter(takes)) await check(one.path, headers, body(one));
  for (const [index, { headers, takes, body }] of protocols.entries()) {
    const fitting = samples.filter(takes);
    for (const one of fitting) {
      await fuzz(t, {
        target: `api${one.path} ${index}`,
        input: mutated([body(one), ...fitting.map(body)]),
        runs: 40,
        check: (input) => check(one.path, headers, input),
      });
    }
  }

  const [get] = samples.filter(({ path }) => path.endsWith('GetBay'));
  const { status } = await post(get?.path ?? '', { 'content-type': 'application/json' }, Buffer.from('{}'));
  t.is(status, 401);
  for (const [name, value] of Object.entries({
    authorization: 'Bearer red-token',
    'x-auth-token': 'red-token',
    'x-request-id': 'id-1',
    'connect-timeout-ms': '5000',
    'connect-protocol-version': '1',
    'content-encoding': 'gzip',
    'accept-encoding': 'gzip, br',
  })) {
    await fuzz(t, {
      target: `header ${name}`,
      // What a header may hold at all.
      input: mutated([Buffer.from(value)]).map((bytes) => bytes.map((byte) => 0x21 + (byte % 0x5e))),
      runs: 60,
      check: (input) =>
        check(
          get?.path ?? '',
          { 'content-type': 'application/json', [name]: Buffer.from(input).toString('latin1') },
          get?.json ?? input,
        ),
    });
  }
  for (const [field, value] of [
    ['page_token', Buffer.from('[1,"d",3,"","web",5,"u"]').toString('base64url')],
    ['filter', 'metadata.name.startsWith("w") || metadata.labels.exists(k, k == "a")'],
    ['order_by', 'create_time desc'],
  ] as const) {
    await fuzz(t, {
      target: `field ${field}`,
      input: mutated([Buffer.from(value)]),
      runs: 200,
      check: (input) =>
        check(
          '/baykeeper.v1.ContainerService/ListContainers',
          { 'content-type': 'application/json' },
          Buffer.from(JSON.stringify({ bay: 'local', [field]: Buffer.from(input).toString('utf8').toWellFormed() })),
        ),
    });
  }
  t.is((await fetch(`${api.server.url}/healthz`)).status, 200);
});

test('bytes that are no HTTP at all', async (t) => {
  await using api = await startApi();
  const { connect } = await import('node:net');
  const samples = [
    'POST /baykeeper.v1.BayService/GetBay HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}',
    'POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n',
    `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]).toString('latin1')}`,
  ].map((text) => Buffer.from(text, 'latin1'));
  await fuzz(t, {
    target: 'http',
    input: mutated(samples),
    runs: 300,
    check: (input) =>
      new Promise<void>((resolve) => {
        const socket = connect(api.server.port, '127.0.0.1', () => socket.end(input));
        socket.on('error', () => undefined);
        socket.resume();
        // What it answers, if anything, is its own affair; that it lasts is ours.
        socket.setTimeout(100, () => socket.destroy());
        socket.once('close', () => resolve());
      }),
  });
  t.is((await fetch(`${api.server.url}/healthz`)).status, 200);
});
