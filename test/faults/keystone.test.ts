import { readFile } from 'node:fs/promises';
import { Code, ConnectError, createClient, type Interceptor, type Transport } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import test from 'ava';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { SystemService } from '../../proto/gen/baykeeper/v1/system_service_pb.js';
import { type ControlPlane, startControlPlane } from '../harness/control_plane.ts';
import { password } from '../harness/keystone/api.ts';
import { type Keystone, startKeystone } from '../harness/keystone/keystone.ts';
import { tcpRelay } from '../harness/tcp_relay.ts';
import { until } from '../harness/until.ts';

const cacheMs = 3_000;
const timeoutMs = 1_500;

let keystone: Keystone;
test.before(async () => {
  keystone = await startKeystone();
});
test.after.always(() => keystone?.[Symbol.asyncDispose]());

const start = (url: string) =>
  startControlPlane({
    args: ['--keystone-cloud', 'envvars', '--keystone-cache', `${cacheMs}ms`, '--keystone-timeout', `${timeoutMs}ms`],
    env: { OS_AUTH_URL: url, OS_USERNAME: 'baykeeper', OS_PASSWORD: password, OS_PROJECT_NAME: 'service' },
  });

/** Whatever became of the test: the next one needs it. */
const bringBack = async () => {
  if (!keystone.program.running) await keystone.start();
};

/** The API for somebody with this token. */
function transportFor(plane: ControlPlane, token: string): Transport {
  const identify: Interceptor = (next) => (request) => {
    request.header.set('x-auth-token', token);
    return next(request);
  };
  return createConnectTransport({ baseUrl: plane.url, httpVersion: '2', interceptors: [identify] });
}

const codeOf = (error: unknown): string => Code[ConnectError.from(error).code] ?? '';

/** With what code a watch ends, of a caller who has it open. */
async function endOfWatch(plane: ControlPlane, token: string): Promise<string> {
  try {
    for await (const _event of createClient(BayService, transportFor(plane, token)).watchBays({}));
    return 'ended';
  } catch (error) {
    return codeOf(error);
  }
}

/** How a call with this token ends: with who it is, or with the code of its error. */
async function whoAmI(plane: ControlPlane, token: string): Promise<string> {
  return createClient(SystemService, transportFor(plane, token))
    .whoAmI({})
    .then(({ subject }) => subject, codeOf);
}

test.serial(
  'Keystone away: who is known gets in while the answer may be believed, then nobody, and all again when it is back',
  async (t) => {
    await using plane = await start(keystone.url);
    const [alice, rita] = [await keystone.token('alice'), await keystone.token('rita')];
    const askedMs = performance.now();
    t.is(await whoAmI(plane, alice), 'alice@Default');
    const watching = endOfWatch(plane, alice);
    await keystone.stop();
    await using _back = { [Symbol.asyncDispose]: bringBack };
    t.is(await whoAmI(plane, alice), 'alice@Default');
    t.is(await whoAmI(plane, rita), 'Unavailable');
    await until('who was known is not any more', async () => (await whoAmI(plane, alice)) === 'Unavailable');
    t.true(performance.now() - askedMs >= cacheMs);
    t.deepEqual(await watching, 'Unavailable');
    t.true(performance.now() - askedMs >= cacheMs);
    // The admin token is nobody's but the control plane's.
    t.is(await whoAmI(plane, plane.token), 'admin');
    // One that starts meanwhile waits for it, too.
    await using late = await start(keystone.url);
    t.is(await whoAmI(late, alice), 'Unavailable');
    t.is(await whoAmI(late, late.token), 'admin');
    await keystone.start();
    await until('it is asked again', async () => (await whoAmI(plane, alice)) === 'alice@Default');
    t.is(await whoAmI(plane, rita), 'rita@Default');
    await until('it is there for both', async () => (await whoAmI(late, alice)) === 'alice@Default');
    // Once, however many have called, and without a secret.
    const log = plane.program.output;
    t.is(log.split('Keystone cannot be asked who is calling').length, 2, log);
    t.is(log.split('Keystone answers again').length, 2, log);
    for (const secret of [alice, rita, password]) t.false(log.includes(secret));
    // Nor does the broker inherit one.
    const broker = await plane.brokerPid();
    t.false((await readFile(`/proc/${broker}/environ`, 'utf8')).includes(password));
  },
);

test.serial('Keystone hangs: calls end when it had its time, then at once, and do not pile up', async (t) => {
  const { hostname, port, pathname } = new URL(keystone.url);
  await using relay = await tcpRelay({ host: hostname, port: Number(port) });
  await using plane = await start(`http://127.0.0.1:${relay.port}${pathname}`);
  const tokens = await Promise.all(Array.from({ length: 4 }, () => keystone.token('alice')));
  t.is(await whoAmI(plane, tokens[0] ?? ''), 'alice@Default');
  await keystone.pause();
  try {
    // Without a time for Keystone they would end with DeadlineExceeded.
    const outcomes = await Promise.all(tokens.slice(1).map((token) => whoAmI(plane, token)));
    t.deepEqual(new Set(outcomes), new Set(['Unavailable']));
    // By now it counts as away: of many, one at a time asks.
    let most = 0;
    const counting = setInterval(() => (most = Math.max(most, relay.open)), 20);
    await Promise.all(Array.from({ length: 100 }, (_, i) => whoAmI(plane, `${tokens[1]?.slice(0, -3)}${100 + i}`)));
    clearInterval(counting);
    t.true(most > 0 && most <= 2, `${most} of them asked at a time`);
    t.is(await whoAmI(plane, plane.token), 'admin');
  } finally {
    await keystone.resume();
  }
  await until('it is asked again', async () => (await whoAmI(plane, tokens[1] ?? '')) === 'alice@Default');
});

test.serial(
  'tokens and the own credential of the control plane may be short of life: both are renewed or ended in time',
  async (t) => {
    await keystone.stop();
    await keystone.start({ tokenTtlSeconds: 5 });
    await using plane = await start(keystone.url);
    const first = await keystone.token('alice');
    t.is(await whoAmI(plane, first), 'alice@Default');
    await until('the token has ended', async () => (await whoAmI(plane, first)) === 'Unauthenticated');
    // As has the first one of the control plane: it has another.
    t.is(await whoAmI(plane, await keystone.token('alice')), 'alice@Default');
    // One that was taken back is renewed when Keystone says so.
    const own = `/users/${keystone.users.baykeeper}`;
    await keystone.change('PATCH', own, { user: { enabled: false } });
    t.is(await whoAmI(plane, await keystone.token('rita')), 'Unavailable');
    await keystone.change('PATCH', own, { user: { enabled: true } });
    await until('it may ask again', async () => (await whoAmI(plane, await keystone.token('rita'))) === 'rita@Default');
  },
);
