import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import http2 from 'node:http2';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import tls from 'node:tls';
import { promisify } from 'node:util';
import { createClient } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import * as grpc from '@grpc/grpc-js';
import * as loader from '@grpc/proto-loader';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { SystemService } from '../proto/gen/baykeeper/v1/system_service_pb.js';
import { startApi } from '../test/harness/api_fixture.ts';
import { until } from '../test/harness/until.ts';
import type { ServerOptions } from './server.ts';
import { rotateAuthority } from './tls/authority.ts';
import { fingerprintOf } from './tls/certificate.ts';
import { ownSource } from './tls/own_source.ts';
import { openServerCertificate } from './tls/server_certificate.ts';

const run = promisify(execFile);
const log = pino({ level: 'silent' });

/** The API with a certificate of our own on 127.0.0.2, and what its clients need. */
async function fixture(t: ExecutionContext, server: Partial<ServerOptions> = {}) {
  const dataDir = await mkdtemp(join(tmpdir(), 'baykeeper-tls-'));
  const clock = { offsetMs: 0, now: () => Date.now() + clock.offsetMs };
  const source = ownSource({ dataDir, names: ['127.0.0.2', 'localhost'], leafTtlMs: 3_600_000, log, clock });
  const certificate = await openServerCertificate({ source, log, clock, checkMs: 3_600_000 });
  const api = await startApi({ server: { host: '127.0.0.2', certificate, ...server } });
  t.teardown(async () => {
    await api[Symbol.asyncDispose]();
    certificate.close();
    await rm(dataDir, { recursive: true });
  });
  const { port, url } = api.server;
  const ca = certificate.current.trusted.join('');
  return { api, certificate, clock, dataDir, port, url, ca, caFile: join(dataDir, 'tls', 'ca.pem') };
}

const authorized = { authorization: 'Bearer red-token' };

/** Resolves with what the server says, or the error's code, when the connection has ended. */
async function ended(socket: net.Socket): Promise<string> {
  let text = '';
  let code = '';
  socket.on('data', (data) => {
    text += data.toString('latin1');
  });
  socket.on('error', (error: NodeJS.ErrnoException) => {
    code = error.code ?? error.message;
  });
  // Not `once`, to which an error is the end as well, and no answer.
  if (!socket.closed) await new Promise((resolve) => socket.once('close', resolve));
  return code || text;
}

test('every protocol goes over the one port with TLS', async (t) => {
  const f = await fixture(t);
  t.is(f.url, `https://127.0.0.2:${f.port}`);
  const nodeOptions = { ca: f.ca };
  const interceptors = [
    (next: Parameters<import('@connectrpc/connect').Interceptor>[0]) => (request: Parameters<typeof next>[0]) => {
      request.header.set('authorization', 'Bearer red-token');
      return next(request);
    },
  ];
  for (const transport of [
    createConnectTransport({ baseUrl: f.url, httpVersion: '1.1', nodeOptions, interceptors }),
    createConnectTransport({ baseUrl: f.url, httpVersion: '2', nodeOptions, interceptors }),
    createGrpcTransport({ baseUrl: f.url, nodeOptions, interceptors }),
    createGrpcWebTransport({ baseUrl: f.url, httpVersion: '1.1', nodeOptions, interceptors }),
  ]) {
    t.is((await createClient(SystemService, transport).whoAmI({})).subject, 'rose');
  }
  const definition = await loader.load('baykeeper/v1/system_service.proto', {
    includeDirs: [resolve(import.meta.dirname, '../proto')],
  });
  const loaded = grpc.loadPackageDefinition(definition) as unknown as {
    baykeeper: { v1: { SystemService: grpc.ServiceClientConstructor } };
  };
  const client = new loaded.baykeeper.v1.SystemService(
    `127.0.0.2:${f.port}`,
    grpc.credentials.createSsl(Buffer.from(f.ca)),
  );
  t.teardown(() => client.close());
  const metadata = new grpc.Metadata();
  metadata.set('authorization', authorized.authorization);
  const answer = await new Promise((done, fail) =>
    (client.WhoAmI as (...args: unknown[]) => void).call(client, {}, metadata, (error: Error | null, value: unknown) =>
      error ? fail(error) : done(value),
    ),
  );
  t.like(answer, { subject: 'rose' });
});

test('curl needs the CA, takes TLS 1.2 and 1.3, and nothing older', async (t) => {
  const f = await fixture(t);
  const curl = async (...args: string[]) => {
    const outcome = await run('curl', [
      '-sS',
      '-w',
      '%{http_version} %{http_code}',
      '--max-time',
      '10',
      ...args,
      `${f.url}/readyz`,
    ]).catch((error: { code: number; stderr: string }) => ({ stdout: `exit ${error.code}`, stderr: error.stderr }));
    return outcome.stdout.trim();
  };
  t.is(await curl('--cacert', f.caFile), 'ready\n2 200');
  t.is(await curl('--cacert', f.caFile, '--http1.1'), 'ready\n1.1 200');
  t.is(await curl('--cacert', f.caFile, '--tls-max', '1.2'), 'ready\n2 200');
  t.is(await curl(), 'exit 60', 'no system trusts our own CA');
  // SECLEVEL=0: the client itself would be willing.
  t.is(await curl('--cacert', f.caFile, '--tlsv1.0', '--tls-max', '1.1', '--ciphers', 'DEFAULT@SECLEVEL=0'), 'exit 35');
});

test('the CA is there for whoever knows its fingerprint', async (t) => {
  const f = await fixture(t);
  const { stdout } = await run('curl', ['-s', '--insecure', `${f.url}/ca.pem`]);
  t.is(stdout, f.ca);
  t.regex(fingerprintOf(stdout), /^sha256:[0-9a-f]{64}$/);
});

test('whoever speaks without TLS, or rubbish, is cut off at once', async (t) => {
  const f = await fixture(t, { handshakeTimeoutMs: 600_000 });
  for (const text of ['GET / HTTP/1.1\r\nHost: x\r\n\r\n', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', '\0'.repeat(100)]) {
    const socket = net.connect(f.port, '127.0.0.2');
    socket.end(text);
    const said = await ended(socket);
    t.false(said.includes('HTTP/'), said);
  }
  t.is((await run('curl', ['-s', '--cacert', f.caFile, `${f.url}/readyz`])).stdout, 'ready\n');
});

/** Connections that begin a handshake and do not go on: half of them say nothing, half the beginning of a ClientHello. */
async function halfOpen(port: number, count: number) {
  const sockets = Array.from({ length: count }, () => net.connect(port, '127.0.0.2'));
  const ends = sockets.map(ended);
  // One whose time is up already may have ended before it is seen to be there.
  await Promise.all(sockets.map((socket) => once(socket, 'connect').catch(() => undefined)));
  for (const socket of sockets.slice(count / 2)) socket.write(Buffer.from('160301020001', 'hex'));
  return { sockets, ends };
}

test('a thousand handshakes that are never finished hold nothing up', async (t) => {
  const f = await fixture(t, { handshakeTimeoutMs: 120_000 });
  const { sockets, ends } = await halfOpen(f.port, 1000);
  t.is((await run('curl', ['-s', '--cacert', f.caFile, `${f.url}/readyz`])).stdout, 'ready\n');
  t.is(sockets.filter((socket) => socket.destroyed).length, 0, 'others are served meanwhile');
  await f.api.server.close({ graceMs: 60_000 });
  await Promise.all(ends);
});

test('a handshake has its time, and is ended then', async (t) => {
  const f = await fixture(t, { handshakeTimeoutMs: 300 });
  const { ends } = await halfOpen(f.port, 20);
  for (const said of await Promise.all(ends)) t.regex(said, /^(ECONNRESET)?$/);
});

test('a new certificate is shown without a restart, and connections that are there go on', async (t) => {
  const f = await fixture(t);
  const session = http2.connect(f.url, { ca: f.ca });
  t.teardown(() => session.destroy());
  const ask = async () => {
    const stream = session.request({ ':path': '/healthz' });
    const [headers] = await once(stream, 'response');
    stream.resume();
    return headers[':status'];
  };
  const shown = async (ca = f.ca) => {
    const socket = tls.connect({ host: '127.0.0.2', port: f.port, ca });
    await once(socket, 'secureConnect');
    const { fingerprint256 } = socket.getPeerCertificate();
    socket.destroy();
    return fingerprint256;
  };
  t.is(await ask(), 200);
  const first = await shown();
  t.is(await shown(), first);
  f.clock.offsetMs += 3_000_000;
  await f.certificate.refresh();
  const second = await shown();
  t.not(second, first, 'renewed');
  await rotateAuthority(f.dataDir, 3_600_000, f.clock.now());
  await f.certificate.refresh();
  t.not(await shown(), second, 'rolled over, and who knows the old CA comes in');
  t.not(await shown(f.certificate.current.trusted[0]), second);
  t.is((await run('curl', ['-s', '--insecure', `${f.url}/ca.pem`])).stdout, f.certificate.current.trusted.join(''));
  t.is(await ask(), 200, 'the connection from before');
});

/** A client's connection preface with empty settings. */
const preface = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(4, Buffer.alloc(0))]);
function frame(type: number, payload: Buffer, flags = 0, stream = 0): Buffer {
  const head = Buffer.alloc(9);
  head.writeUInt32BE(stream, 5);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  return Buffer.concat([head, payload]);
}

/** `GET https://…/`, and at once: never mind. */
const openedAndReset = (stream: number): Buffer =>
  Buffer.concat([
    frame(1, Buffer.from('828784', 'hex'), 5, stream),
    frame(3, Buffer.from('00000008', 'hex'), 0, stream),
  ]);

for (const [what, one] of [
  ['pings', () => frame(6, Buffer.alloc(8))],
  ['settings', () => frame(4, Buffer.alloc(0))],
  ['streams that are reset', (index: number) => openedAndReset(2 * index + 1)],
] as const) {
  test(`a flood of ${what} ends its own connection`, async (t) => {
    const f = await fixture(t);
    const socket = tls.connect({ host: '127.0.0.2', port: f.port, ca: f.ca, ALPNProtocols: ['h2'] });
    await once(socket, 'secureConnect');
    socket.write(preface);
    const end = ended(socket);
    let index = 0;
    while (index < 100_000 && !socket.destroyed) {
      const flood = Array.from({ length: 1000 }, () => one(index++));
      if (!socket.write(Buffer.concat(flood))) await Promise.race([once(socket, 'drain').catch(() => undefined), end]);
    }
    await end;
    t.is((await run('curl', ['-s', '--cacert', f.caFile, `${f.url}/readyz`])).stdout, 'ready\n');
  });
}

test('more connections than may be are closed at once, and one network leaves room for others', async (t) => {
  const f = await fixture(t, { maxConnections: 8 });
  const open = async (localAddress: string) => {
    const socket = net.connect({ port: f.port, host: '127.0.0.2', localAddress });
    const secure = tls.connect({ socket, host: '127.0.0.2', ca: f.ca });
    secure.on('error', () => undefined);
    await once(secure, 'secureConnect');
    return secure;
  };
  const held = await Promise.all(Array.from({ length: 6 }, () => open('127.0.0.3')));
  await ended(net.connect({ port: f.port, host: '127.0.0.2', localAddress: '127.0.0.3' }));
  const { stdout } = await run('curl', ['-s', '--cacert', f.caFile, `${f.url}/readyz`]);
  t.is(stdout, 'ready\n', 'somebody else');
  held.push(await open('127.0.0.4'), await open('127.0.0.4'));
  await ended(net.connect({ port: f.port, host: '127.0.0.2', localAddress: '127.0.0.5' }));
  for (const socket of held) socket.destroy();
  await until('there is room again', async () => (await open('127.0.0.3')).destroy());
});

test('a name that is not in the certificate is no way in', async (t) => {
  const f = await fixture(t);
  const file = join(f.dataDir, 'stranger.pem');
  await writeFile(file, f.ca);
  const outcome = await run('curl', [
    '-sS',
    '--cacert',
    file,
    '--resolve',
    `evil.example:${f.port}:127.0.0.2`,
    `https://evil.example:${f.port}/`,
  ]).catch((error: { code: number }) => error);
  t.is((outcome as { code: number }).code, 60);
});
