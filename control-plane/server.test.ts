import { once } from 'node:events';
import net from 'node:net';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import test from 'ava';
import { pino } from 'pino';
import { ContainerService } from '../proto/gen/baykeeper/v1/container_service_pb.js';
import { SystemService } from '../proto/gen/baykeeper/v1/system_service_pb.js';
import { Health, HealthCheckResponse_ServingStatus as Serving } from '../proto/gen/health/v1/health_pb.js';
import { startApi } from '../test/harness/api_fixture.ts';
import { container, curl, fixture, json } from '../test/harness/server_bed.ts';
import { until } from '../test/harness/until.ts';
import { ListenError, startServer } from './server.ts';

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

test('a connection that does not wait for its answers is closed', async (t) => {
  const api = await fixture(t);
  const ask = async (count: number) => {
    const socket = net.connect(api.server.port, '127.0.0.1');
    let text = '';
    socket.on('error', () => undefined);
    socket.on('data', (data) => {
      text += data.toString('latin1');
    });
    socket.write('GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n'.repeat(count));
    const closed = new Promise((done) => socket.once('close', () => done('closed')));
    const outcome = await Promise.race([
      closed,
      until('all answers', () => text.split('HTTP/1.1 200').length > count).then(() => 'answered'),
    ]);
    socket.destroy();
    return outcome;
  };
  t.is(await ask(10), 'answered');
  t.is(await ask(100), 'closed');
});

test('only loopback addresses are listened on, and a port in use is told', async (t) => {
  const api = await fixture(t);
  const options = {
    api: {
      routes: () => undefined,
      interceptors: [],
      dependencies: {},
      unread: () => undefined,
      identify: () => '',
      close: () => undefined,
    },
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
