import { Code, ConnectError, createClient, type Interceptor } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import test from 'ava';
import { BayService } from '../../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { SystemService } from '../../../proto/gen/baykeeper/v1/system_service_pb.js';
import { WatchEventType } from '../../../proto/gen/baykeeper/v1/watch_pb.js';
import { startApi } from '../../../test/harness/api_fixture.ts';

/** The client gives up late: what ends the call is the server. */
const header =
  (name: string, value: string, token: string): Interceptor =>
  (next) =>
  (request) => {
    request.header.set(name, value);
    request.header.set('authorization', `Bearer ${token}`);
    return next(request);
  };

const transports = {
  'Connect over HTTP/1.1': (baseUrl: string, interceptor: Interceptor) =>
    createConnectTransport({ baseUrl, httpVersion: '1.1', interceptors: [interceptor] }),
  'Connect over HTTP/2': (baseUrl: string, interceptor: Interceptor) =>
    createConnectTransport({ baseUrl, httpVersion: '2', interceptors: [interceptor] }),
  gRPC: (baseUrl: string, interceptor: Interceptor) => createGrpcTransport({ baseUrl, interceptors: [interceptor] }),
  'gRPC-Web over HTTP/1.1': (baseUrl: string, interceptor: Interceptor) =>
    createGrpcWebTransport({ baseUrl, httpVersion: '1.1', interceptors: [interceptor] }),
};

for (const [name, connect] of Object.entries(transports)) {
  const timeout = (ms: number): readonly [string, string] =>
    name.startsWith('Connect') ? ['connect-timeout-ms', String(ms)] : ['grpc-timeout', `${ms}m`];

  test(`a call ends when its caller no longer waits: ${name}`, async (t) => {
    await using api = await startApi({
      api: {
        authenticator: {
          authenticate: ({ token }) =>
            token === 'stuck'
              ? new Promise<undefined>(() => undefined)
              : { subject: 'rose', project: 'red', role: 'member' },
        },
      },
    });
    const stuck = connect(api.server.url, header(...timeout(50), 'stuck'));
    const error = ConnectError.from(await t.throwsAsync(createClient(SystemService, stuck).whoAmI({})));
    t.is(Code[error.code], 'DeadlineExceeded', error.message);
    const quick = connect(api.server.url, header(...timeout(20_000), 'red-token'));
    t.truthy(await createClient(SystemService, quick).whoAmI({}));
  });

  test(`a deadline in some months is none: ${name}`, async (t) => {
    await using api = await startApi();
    const patient = connect(api.server.url, header(...timeout(99_999_999), 'red-token'));
    t.truthy(await createClient(SystemService, patient).whoAmI({}));
    const months = name.startsWith('Connect') ? '9999999999' : '99999999S';
    const transport = connect(api.server.url, header(timeout(0)[0], months, 'red-token'));
    t.truthy(await createClient(SystemService, transport).whoAmI({}));
    const bays = createClient(BayService, transport);
    const abort = new AbortController();
    const types: WatchEventType[] = [];
    for await (const { type } of bays.watchBays({}, { signal: abort.signal })) {
      types.push(type);
      if (types.length === 1) await bays.createBay({ bay: { metadata: { name: 'late' } } });
      else break;
    }
    t.deepEqual(types, [WatchEventType.SYNCED, WatchEventType.ADDED]);
    abort.abort();
  });
}
