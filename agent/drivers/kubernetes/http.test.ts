import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { type ApiCall, json, scriptedKubernetesApi } from '../../../test/harness/scripted_kubernetes_api.ts';
import { until } from '../../../test/harness/until.ts';
import { ClusterError } from '../cluster_error.ts';
import { anonymous } from './access.ts';
import { Connector } from './connection.ts';
import { ApiClient } from './http.ts';

const clientOf = (server: string, connectMs?: number): ApiClient => {
  const connector = new Connector({
    find: async () => ({
      source: 'the test',
      server,
      ca: undefined,
      skipTlsVerify: false,
      tlsServerName: undefined,
      proxyUrl: undefined,
      user: anonymous,
    }),
  });
  return new ApiClient({ connector, userAgent: 'test/1', connectMs });
};

async function connected(
  t: ExecutionContext,
  answer: (call: ApiCall, response: ServerResponse) => void,
  connectMs?: number,
) {
  const api = await scriptedKubernetesApi(answer);
  // As behind a gateway.
  const client = clientOf(`${api.url}/clusters/a`, connectMs);
  t.teardown(async () => {
    client.close();
    await api[Symbol.asyncDispose]();
  });
  return { api, client };
}

const get = { method: 'GET', path: '/api' } as const;

async function fails(t: ExecutionContext, kind: ClusterError['kind'], call: Promise<unknown>): Promise<string> {
  const error = await t.throwsAsync(call, { instanceOf: ClusterError });
  t.is(error?.kind, kind, error?.message);
  return error?.message ?? '';
}

test('requests say who asks, over one connection, and below the path of the server', async (t) => {
  const { api, client } = await connected(t, (_, response) => json(response, 200, { a: 1 }));
  const sockets = new Set<unknown>();
  api.server.on('connection', (socket) => sockets.add(socket));
  for (let i = 0; i < 5; i += 1) t.deepEqual(await client.request(get), { a: 1 });
  t.is(sockets.size, 1);
  t.is(api.calls[0]?.path, '/clusters/a/api');
  t.like(api.calls[0]?.headers, { 'user-agent': 'test/1', accept: 'application/json' });
});

test('a connection that was kept and turns out to be closed is replaced, unless what was asked may not be done twice', async (t) => {
  const { api, client } = await connected(t, ({ path }, response) => {
    // Every second request on a connection finds it closed.
    if (sockets.has(response.socket)) return void response.socket?.destroy();
    sockets.add(response.socket);
    json(response, 200, { path });
  });
  const sockets = new Set<unknown>();
  for (let i = 0; i < 5; i += 1) await client.request(get);
  t.is(api.calls.length, 9);
  await fails(t, 'unavailable', client.request({ method: 'POST', path: '/api', body: {} }));
  t.is(api.calls.length, 10);
  await client.request({ method: 'PATCH', path: '/api', body: {}, repeatable: true });
  await client.request({ method: 'PATCH', path: '/api', body: {}, repeatable: true });
});

test('what is no JSON is an error', async (t) => {
  const { client } = await connected(t, (_, response) => void response.end('<html>'));
  t.regex(await fails(t, 'other', client.request(get)), /no JSON/);
});

for (const [what, begin] of [
  ['before it answers', () => undefined],
  [
    'in the middle of its answer',
    (_: ApiCall, response: ServerResponse) => void response.writeHead(200).write('{"a":'),
  ],
] as const) {
  test(`a server that hangs ${what}: in time, called off, and when all ends`, async (t) => {
    const { api, client } = await connected(t, begin);
    t.regex(await fails(t, 'timeout', client.request({ ...get, timeoutMs: 100 })), /did not answer within 0.1 s/);
    const abort = new AbortController();
    const called = client.request({ ...get, signal: abort.signal });
    await until('it is asked', () => api.calls.length === 2);
    abort.abort();
    await fails(t, 'cancelled', called);
    const last = client.request(get);
    await until('it is asked', () => api.calls.length === 3);
    client.close();
    await fails(t, 'cancelled', last);
  });
}

test('a server that takes no connection is away; one that took it may take its time', async (t) => {
  const sockets: Socket[] = [];
  // As the kernel does for a process that hangs: it is connected to, and says nothing.
  const hung = createServer((socket) => void sockets.push(socket)).listen(0, '127.0.0.1');
  await once(hung, 'listening');
  const away = clientOf(`https://127.0.0.1:${(hung.address() as AddressInfo).port}`, 100);
  t.teardown(() => {
    away.close();
    for (const socket of sockets) socket.destroy();
    hung.close();
  });
  t.regex(await fails(t, 'unavailable', away.request(get)), /is away \(it took no connection within 0.1 s\)/);
  const { client } = await connected(t, () => undefined, 50);
  t.regex(await fails(t, 'timeout', client.request({ ...get, timeoutMs: 500 })), /did not answer within 0.5 s/);
});

test('a connection that breaks in the middle of an answer is an error', async (t) => {
  const { client } = await connected(t, (_, response) => {
    response.writeHead(200).write('{"a":', () => response.socket?.destroy());
  });
  await fails(t, 'unavailable', client.request(get));
});

test('a stream that breaks, is called off or is silent throws where it is read', async (t) => {
  const { client } = await connected(t, ({ path }, response) => {
    response.writeHead(200).write('begun', () => {
      if (path.endsWith('break')) response.socket?.destroy();
    });
  });
  const read = async (path: string, more: { signal?: AbortSignal; idleMs?: number }, onPiece?: () => void) => {
    let text = '';
    try {
      for await (const piece of await client.stream({ method: 'GET', path, ...more })) {
        text += piece;
        onPiece?.();
      }
    } catch (error) {
      return [text, (error as Error).name, (error as Error).message];
    }
    return [text];
  };
  t.is((await read('/break', {}))[0], 'begun');
  t.deepEqual(await read('/silent', { idleMs: 1_000 }), ['begun', 'ClusterError', 'nothing came for 1 s']);
  const abort = new AbortController();
  const calledOff = await read('/called-off', { signal: abort.signal }, () => abort.abort());
  t.deepEqual(calledOff, ['begun', 'ClusterError', 'called off']);
  await fails(t, 'cancelled', client.stream({ ...get, signal: abort.signal }));
});
