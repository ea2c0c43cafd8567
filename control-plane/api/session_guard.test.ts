import { connect, constants } from 'node:http2';
import { create, toBinary } from '@bufbuild/protobuf';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService, LogsRequestSchema } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { startApi } from '../../test/harness/api_fixture.ts';
import { refused } from '../../test/harness/refused.ts';
import { until } from '../../test/harness/until.ts';
import { type AuditRecord, nobody } from '../audit/port.ts';
import type { AuthenticateOptions, Authenticator } from '../auth/port.ts';
import { DeniedError, UnavailableError } from '../domain/errors.ts';
import type { Principal } from '../domain/principal.ts';
import { SessionGuard } from './session_guard.ts';

const rose: Principal = { subject: 'rose', project: 'red', role: 'member' };
const nobodys = { ...nobody, method: 'a/B' };
type Say = () => Principal | undefined;

/** An authenticator that says of each token what a test says. */
class Scripted implements Authenticator {
  readonly says = new Map<string, Say>();
  readonly asked: { token: string; options?: AuthenticateOptions }[] = [];
  count(token: string): number {
    return this.asked.filter((one) => one.token === token).length;
  }
  async authenticate({ token }: { token: string }, options?: AuthenticateOptions): Promise<Principal | undefined> {
    this.asked.push({ token, options });
    return this.says.get(token)?.();
  }
}

async function fixture(t: ExecutionContext) {
  const authenticator = new Scripted();
  authenticator.says.set('one', () => rose).set('two', () => rose);
  const chunk = Buffer.alloc(64 * 1024);
  const api = await startApi({
    api: { authenticator, guard: { intervalMs: 20, graceMs: 50 } },
    streams: {
      // One that takes no notice of its signal, but for each chunk.
      async *logs(_target, _request, signal) {
        while (!signal.aborted) {
          yield { output: { case: 'stdout', value: chunk } } as never;
          await new Promise(setImmediate);
        }
      },
    },
  });
  t.teardown(() => api[Symbol.asyncDispose]());
  const bays = (token = 'one', protocol?: 'grpc') => createClient(BayService, api.transport({ token, protocol }));
  const { bay } = await bays().createBay({ bay: { metadata: { name: 'local' } } });
  return { api, authenticator, bays, bayUid: bay?.metadata?.uid ?? '' };
}

/** Opens a watch, and resolves when it has begun with how it will end. */
async function watch(client: ReturnType<Awaited<ReturnType<typeof fixture>>['bays']>) {
  const events = client.watchBays({})[Symbol.asyncIterator]();
  await events.next();
  const names: (string | undefined)[] = [];
  return {
    /** Of the bays that it has told of since. */
    names,
    ended: (async () => {
      try {
        for (;;) {
          const { done, value } = await events.next();
          if (done) return undefined;
          names.push(value.bay?.metadata?.name);
        }
      } catch (error) {
        return ConnectError.from(error);
      }
    })(),
  };
}

test('streams end when their token is taken back, and no others', async (t) => {
  const { api, authenticator, bays } = await fixture(t);
  const watches = [await watch(bays()), await watch(bays('one', 'grpc'))];
  const other = await watch(bays('two'));
  authenticator.says.delete('one');
  for (const { ended } of watches) {
    const error = await ended;
    t.is(error?.code, Code.Unauthenticated, error?.message);
    t.regex(error?.rawMessage ?? '', /expired or was taken back/);
  }
  // It is recorded beside: a record that is waited for comes after it.
  await api.audit.append({ ...nobodys, kind: 'change', code: 'ok' });
  const records: AuditRecord[] = [];
  for await (const record of api.audit.read(undefined)) if (record.kind === 'system') records.push(record);
  t.is(records.length, 2);
  for (const record of records) {
    t.like(record, {
      code: 'stream_ended',
      subject: 'rose',
      project: 'red',
      method: 'baykeeper.v1.BayService/WatchBays',
    });
    t.regex(record.requestId, /./);
    t.regex(record.message, /expired or was taken back/);
  }
  const again = authenticator.count('two');
  await until('it was asked about the other', () => authenticator.count('two') >= again + 2);
  await bays('two').createBay({ bay: { metadata: { name: 'later' } } });
  await until('the other goes on', () => other.names.includes('later'));
  authenticator.says.set('two', () => ({ ...rose, role: 'reader' }));
  t.regex((await other.ended)?.rawMessage ?? '', /rights .* have changed/);
});

test('a stream ends with its token, and as UNAVAILABLE when nobody can say any more', async (t) => {
  const { authenticator, bays } = await fixture(t);
  let expireTimeMs = 0;
  let ttlMs = 100;
  authenticator.says.set('short', () => ({ ...rose, expireTimeMs }));
  const short = await until('a watch has begun before its token ended', () => {
    ttlMs *= 2;
    expireTimeMs = Date.now() + ttlMs;
    return watch(bays('short'));
  });
  t.is((await short.ended)?.code, Code.Unauthenticated);
  t.true(Date.now() >= expireTimeMs);

  const one = await watch(bays());
  authenticator.says.set('one', () => {
    throw new UnavailableError('away');
  });
  t.is((await one.ended)?.code, Code.Unavailable);
  const two = await watch(bays('two'));
  authenticator.says.set('two', () => {
    throw new DeniedError('no rights any more');
  });
  t.is((await two.ended)?.code, Code.Unauthenticated);
});

test('a caller that does not read is cut off', async (t) => {
  const { api, authenticator, bayUid } = await fixture(t);
  const { node } = await api.addNode(bayUid, 'n1');
  api.placement.node = node;
  api.liveness.set(node.uid, true);
  const containers = createClient(ContainerService, api.transport({ token: 'one' }));
  await containers.createContainer({ container: { metadata: { bay: 'local', name: 'web' }, spec: { image: 'b' } } });

  const body = toBinary(LogsRequestSchema, create(LogsRequestSchema, { bay: 'local', name: 'web', follow: true }));
  const session = connect(api.server.url, { settings: { initialWindowSize: 1024 } });
  t.teardown(() => session.destroy());
  const stream = session.request({
    ':method': 'POST',
    ':path': '/baykeeper.v1.ContainerService/Logs',
    'content-type': 'application/grpc+proto',
    authorization: 'Bearer one',
  });
  const frame = Buffer.alloc(5);
  frame.writeUInt32BE(body.length, 1);
  stream.end(Buffer.concat([frame, body]));
  await new Promise((resolve) => stream.once('response', resolve));
  // It has its answer begun, and never reads on.
  stream.pause();
  authenticator.says.delete('one');
  const closed = new Promise<number>((resolve) => stream.once('close', () => resolve(stream.rstCode)));
  stream.on('error', () => undefined);
  t.is(await closed, constants.NGHTTP2_CANCEL);
});

test('it is asked once for all streams of a token, for a fresh answer, and not at all when there are none', async (t) => {
  const authenticator = new Scripted();
  authenticator.says.set('one', () => rose).set('two', () => rose);
  const log = pino({ level: 'silent' });
  const guard = new SessionGuard({ authenticator, clock: Date, log, intervalMs: 5, maxAgeMs: 7 });
  const streams = Array.from({ length: 50 }, () =>
    guard.watch(
      { token: 'one' },
      rose,
      () => t.fail(),
      () => nobodys,
    ),
  );
  t.is(guard.size, 1);
  await until('it is asked', () => authenticator.asked.length >= 3);
  t.deepEqual(authenticator.asked[0], { token: 'one', options: { maxAgeMs: 7 } });
  t.true(authenticator.asked.length < 50);
  for (const stream of streams) stream.end();
  t.is(guard.size, 0);
  const before = authenticator.count('one');
  // As often as it would have been asked about the first.
  const later = guard.watch(
    { token: 'two' },
    rose,
    () => t.fail(),
    () => nobodys,
  );
  await until('it is asked about another', () => authenticator.count('two') >= 3);
  later.end();
  t.is(authenticator.count('one'), before);
  t.true(streams.every(({ signal }) => !signal.aborted));
});

test('a caller has so many streams open at once, whatever its tokens, and more when some have ended', async (t) => {
  const authenticator = new Scripted();
  for (const token of ['one', 'two', 'three']) authenticator.says.set(token, () => rose);
  authenticator.says.set('other', () => ({ ...rose, subject: 'rita' }));
  await using api = await startApi({ api: { authenticator, guard: { maxStreams: 3 } } });
  const begin = async (token: string, how: { protocol?: 'grpc' | 'grpc-web'; httpVersion?: '1.1' } = {}) => {
    const abort = new AbortController();
    const { watchBays } = createClient(BayService, api.transport({ token, ...how }));
    const events = watchBays({}, { signal: abort.signal })[Symbol.asyncIterator]();
    await events.next();
    return abort;
  };
  const [first] = [await begin('one'), await begin('two', { protocol: 'grpc' })];
  await begin('three', { protocol: 'grpc-web', httpVersion: '1.1' });
  for (const token of ['one', 'three']) await refused(t, begin(token), Code.ResourceExhausted, /too many streams: 3/);
  await begin('other');
  first.abort();
  await until('there is room again', () => begin('two').catch(() => undefined));
  await refused(t, begin('one'), Code.ResourceExhausted);
});
