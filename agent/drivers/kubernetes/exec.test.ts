import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type WebSocket, WebSocketServer } from 'ws';
import { failure, json, scriptedKubernetesApi } from '../../../test/harness/scripted_kubernetes_api.ts';
import { temporaryFolder } from '../../../test/harness/temporary_folder.ts';
import { ClusterError } from '../cluster_error.ts';
import { collect, textOf } from '../contract.ts';
import { KubernetesDriver } from './driver.ts';
import { exitCodeOf } from './exec.ts';
import { control, data, readFrames } from './exec_spdy.ts';

const status = (body: object) => JSON.stringify({ metadata: {}, ...body });

test('how a command ended is read, or why that is not known', (t) => {
  t.is(exitCodeOf(status({ status: 'Success' })), 0);
  const details = { causes: [{ reason: 'ExitCode', message: '42' }] };
  t.is(exitCodeOf(status({ status: 'Failure', reason: 'NonZeroExitCode', message: 'exit code 42', details })), 42);
  const failed = { status: 'Failure', reason: 'InternalError', message: 'no such program', code: 500 };
  t.throws(() => exitCodeOf(status(failed)), { instanceOf: ClusterError, message: 'no such program' });
  t.throws(() => exitCodeOf(status({ status: 'Failure', reason: 'NonZeroExitCode' })), { instanceOf: ClusterError });
  t.throws(() => exitCodeOf('{"st'), { instanceOf: ClusterError });
});

test('frames of SPDY are read wherever the network cuts them', async (t) => {
  const sent = Buffer.concat([
    control(2, Buffer.from([0, 0, 0, 5])),
    data(5, Buffer.from('hello ')),
    data(7, Buffer.alloc(0)),
    control(6, Buffer.from([0, 0, 0, 2])),
    data(5, Buffer.from('there'), 1),
    control(3, Buffer.from([0, 0, 0, 5, 0, 0, 0, 5])),
  ]);
  for (const size of [1, 2, 3, 7, 8, 9, 1_000]) {
    const pieces = Array.from({ length: Math.ceil(sent.byteLength / size) }, (_, i) =>
      sent.subarray(i * size, (i + 1) * size),
    );
    const others: [unknown, number][] = [];
    let text = '';
    for await (const { type, id, bytes } of readFrames(toAsync(pieces))) {
      if (type !== 'data') others.push([type, id]);
      else if (id === 5) text += Buffer.from(bytes);
      else t.fail('an empty frame has nothing to say');
    }
    t.is(text, 'hello there');
    t.deepEqual(others, [
      [2, 5],
      [6, 2],
      [3, 5],
    ]);
  }
  await t.throwsAsync(drain(readFrames(toAsync([control(2, Buffer.alloc(100_000))]))), { message: /no SPDY/ });
});

async function* toAsync<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items;
}

async function drain(items: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of items);
}

/** An API server with one pod, whose commands are what `serve` makes of a WebSocket. */
async function fixture(t: ExecutionContext, protocols: readonly string[], serve: (socket: WebSocket) => void) {
  const folder = await temporaryFolder('exec');
  const api = await scriptedKubernetesApi(({ method }, response) => {
    if (method === 'POST') return failure(response, 400, 'BadRequest', 'Upgrade request required');
    const containerStatuses = [{ name: 'c', state: { running: {} } }];
    json(response, 200, { metadata: {}, spec: { containers: [{ name: 'c' }] }, status: { containerStatuses } });
  });
  const offers: string[][] = [];
  const sockets = new WebSocketServer({
    noServer: true,
    handleProtocols: (offered) => protocols.find((one) => offered.has(one)) ?? false,
  });
  api.server.on('upgrade', (request, socket, head) => {
    // As a server that knows no SPDY: it answers as if nothing had been asked.
    if (request.headers.upgrade !== 'websocket')
      return socket.end('HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n');
    const offered = request.headers['sec-websocket-protocol']?.split(',') ?? [];
    offers.push(offered);
    if (!offered.some((one) => protocols.includes(one)))
      return socket.end('HTTP/1.1 403 Forbidden\r\ncontent-length: 7\r\n\r\nnot you');
    sockets.handleUpgrade(request, socket, head, serve);
  });
  const kubeconfig = join(folder.path, 'config');
  await writeFile(
    kubeconfig,
    JSON.stringify({
      'current-context': 'c',
      contexts: [{ name: 'c', context: { cluster: 'c' } }],
      clusters: [{ name: 'c', cluster: { server: api.url } }],
    }),
  );
  const driver = new KubernetesDriver({ kubeconfig, context: '' });
  t.teardown(async () => {
    driver.close();
    for (const client of sockets.clients) client.terminate();
    await api[Symbol.asyncDispose]();
    await folder[Symbol.asyncDispose]();
  });
  const exec = (options: { tty: boolean; stdin: boolean }) =>
    driver.exec({ namespace: 'n', name: 'p', container: '' }, { command: ['cat'], size: undefined, ...options });
  return { exec, offers };
}

const [v5, v4] = ['v5.channel.k8s.io', 'v4.channel.k8s.io'];
const message = (channel: number, text: string) => Buffer.concat([Buffer.of(channel), Buffer.from(text)]);
/** Gives back its input, and ends when that does. */
const cat = (ended: (bytes: Buffer) => boolean) => (socket: WebSocket) => {
  for (const channel of [1, 2, 3]) socket.send(message(channel, ''));
  socket.on('message', (bytes: Buffer) => {
    if (ended(bytes)) {
      socket.send(message(3, status({ status: 'Success' })));
      socket.close();
    } else if (bytes[0] === 0) socket.send(message(1, bytes.subarray(1).toString()));
  });
};

test('where a WebSocket can tell the end of input, and SPDY is not known, it is used', async (t) => {
  const { exec, offers } = await fixture(
    t,
    [v5, v4],
    cat((bytes) => bytes[0] === 255 && bytes[1] === 0),
  );
  const session = await exec({ tty: false, stdin: true });
  await session.write(Buffer.from('hello'));
  session.endInput();
  await session.write(Buffer.from('too late'));
  t.is(textOf(await collect(session.chunks)), 'hello');
  t.is(await session.exitCode(), 0);
  t.deepEqual(offers, [[v5]]);
});

test('at a terminal of an older cluster the end of input is typed', async (t) => {
  const { exec, offers } = await fixture(
    t,
    [v4],
    cat((bytes) => bytes[0] === 0 && bytes[1] === 4),
  );
  const session = await exec({ tty: true, stdin: true });
  session.endInput();
  t.is(textOf(await collect(session.chunks)), '');
  t.is(await session.exitCode(), 0);
  t.deepEqual(offers, [[v5, v4]]);
});

test('a handshake that is refused says why', async (t) => {
  const { exec } = await fixture(t, ['v1'], () => undefined);
  const error = await t.throwsAsync(exec({ tty: false, stdin: false }), { instanceOf: ClusterError });
  t.like(error, { kind: 'forbidden', status: 403, message: 'not you' });
});

test('a connection that breaks before the command has ended is no exit code', async (t) => {
  const { exec } = await fixture(t, [v4], (socket) => {
    socket.send(message(1, 'begun'), () => socket.terminate());
  });
  const session = await exec({ tty: false, stdin: false });
  t.is(textOf(await collect(session.chunks)), 'begun');
  await t.throwsAsync(session.exitCode(), { instanceOf: ClusterError, message: /connection to the container broke/ });
});

test('a message that is none of the protocol ends it with an error', async (t) => {
  const { exec } = await fixture(t, [v4], (socket) => socket.send('text'));
  const session = await exec({ tty: false, stdin: false });
  await t.throwsAsync(collect(session.chunks), { instanceOf: ClusterError, message: /sent text/ });
});
