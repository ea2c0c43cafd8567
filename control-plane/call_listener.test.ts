import { once } from 'node:events';
import { createServer } from 'node:http';
import { createServer as createHttp2Server } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { createClient, createContextValues } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { ContainerService } from '../proto/gen/baykeeper/v1/container_service_pb.js';
import { until } from '../test/harness/until.ts';
import { type Request, serveCalls } from './call_listener.ts';

type HttpVersion = '1.1' | '2';

/** A server of a log without end, whose headers cannot be sent when its last line is asked for; and what it wrote. */
async function bed(t: ExecutionContext, httpVersion: HttpVersion) {
  const lines: { level: number; msg: string; method: string }[] = [];
  const requests: Request[] = [];
  const listener = serveCalls({
    routes: (router) =>
      router.service(ContainerService, {
        async *logs({ tailLines }, { responseHeader }) {
          if (tailLines === 1n) responseHeader.set('x-broken', '\u0001');
          for (;;) yield { output: { case: 'stdout', value: new Uint8Array(1024 * 1024) } };
        },
      }),
    contextValues: (request) => {
      requests.push(request);
      return createContextValues();
    },
    fallback: (_request, response) => response.end(),
    log: pino({ level: 'debug' }, { write: (line: string) => void lines.push(JSON.parse(line)) }),
  });
  const server = httpVersion === '2' ? createHttp2Server(listener) : createServer(listener);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const client = createClient(
    ContainerService,
    createConnectTransport({ baseUrl: `http://127.0.0.1:${port}`, httpVersion }),
  );
  return { lines, requests, client };
}

for (const httpVersion of ['1.1', '2'] as const) {
  test.serial(`a caller who is cut off in the middle of an answer is no error, over HTTP/${httpVersion}`, async (t) => {
    const printed = watchConsole(t);
    const { lines, requests, client } = await bed(t, httpVersion);
    const log = client.logs({})[Symbol.asyncIterator]();
    await log.next();
    requests[0]?.socket.destroy();
    await t.throwsAsync(async () => {
      while (!(await log.next()).done);
    });
    await until('it is logged', () => lines.length > 0);
    t.like(lines, [
      { level: 20, msg: 'answer did not reach the caller', method: 'baykeeper.v1.ContainerService/Logs' },
    ]);
    t.deepEqual(printed, []);
  });
}

test.serial('an answer that cannot be sent is an error of ours, and ends the call', async (t) => {
  const printed = watchConsole(t);
  const { lines, client } = await bed(t, '1.1');
  await t.throwsAsync(client.logs({ tailLines: 1n })[Symbol.asyncIterator]().next());
  t.like(lines, [{ level: 50, msg: 'answer did not reach the caller' }]);
  t.deepEqual(printed, []);
});

/** What is written to the console instead of the log. */
function watchConsole(t: ExecutionContext): unknown[] {
  const printed: unknown[] = [];
  const { error } = console;
  console.error = (...args) => void printed.push(args);
  t.teardown(() => {
    console.error = error;
  });
  return printed;
}
