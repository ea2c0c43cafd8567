import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { createUser, fromSeed, type KeyPair } from '../../proto/nkeys.ts';
import { temporaryFolder } from '../../test/harness/temporary_folder.ts';
import { until } from '../../test/harness/until.ts';
import { ExhaustedError, UnavailableError } from '../domain/errors.ts';
import { type Broker, startBroker } from './broker.ts';
import { controlPlaneUserJwt } from './claims.ts';
import { BrokerConnection, type ConnectionCredentials, type ConnectionOptions } from './connection.ts';

const log = pino({ level: process.env.BROKER_LOG ?? 'silent' });
const bytes = (value: string) => new TextEncoder().encode(value);

interface Bed {
  readonly broker: Broker;
  readonly account: KeyPair;
  connect(options?: Partial<ConnectionOptions>): BrokerConnection;
  credentials(ttlMs: number, renewInMs?: number): Promise<ConnectionCredentials>;
}

async function bed(t: ExecutionContext): Promise<Bed> {
  const folder = await temporaryFolder('connection');
  t.teardown(() => folder[Symbol.asyncDispose]());
  const broker = await startBroker({ dataDir: folder.path, log });
  t.teardown(() => broker.close());
  const seed = await readFile(join(folder.path, 'broker/keys/account.nk'), 'utf8');
  const account = fromSeed(bytes(seed.trim()));
  const user = createUser();
  const credentials: Bed['credentials'] = async (ttlMs, renewInMs) => {
    const signer = { key: account, accountPublicKey: account.getPublicKey() };
    const made = { publicKey: user.getPublicKey(), name: 'test', signer, ttlMs, nowMs: Date.now() };
    const { userJwt } = await controlPlaneUserJwt(made);
    const renewal = renewInMs === undefined ? {} : { renewTimeMs: Date.now() + renewInMs };
    return { userJwt, seed: user.getSeed(), ...renewal };
  };
  return {
    broker,
    account,
    credentials,
    connect(options = {}) {
      const defaults = {
        urls: broker.access.urls,
        name: 'test',
        log,
        clock: Date,
        credentials: () => credentials(60_000),
      };
      const connection = new BrokerConnection({ ...defaults, ...options });
      t.teardown(() => connection.close());
      return connection;
    },
  };
}

test('credentials are renewed by themselves, and subscriptions live on', async (t) => {
  const { connect, credentials, broker } = await bed(t);
  let asked = 0;
  const connection = connect({
    credentials: () => {
      asked += 1;
      return credentials(60_000, 300);
    },
  });
  const heard: string[] = [];
  connection.subscribe('news', ({ data }) => void heard.push(new TextDecoder().decode(data)));
  await until('three renewals', () => asked > 3);
  await until('a message', () => {
    if (broker.bus.connected) broker.bus.publish('news', bytes('fresh'));
    return heard.includes('fresh');
  });
  t.pass();
});

test('credentials that expire after all are replaced', async (t) => {
  const { connect, credentials } = await bed(t);
  let asked = 0;
  const connection = connect({
    credentials: () => {
      asked += 1;
      return credentials(1000);
    },
  });
  const states: boolean[] = [];
  connection.onConnected((connected) => void states.push(connected));
  await until('a second connection', () => states.filter(Boolean).length >= 2);
  t.true(asked >= 2);
});

test('it goes on trying when it is refused, when credentials cannot be had, and when nobody is there', async (t) => {
  const { connect, credentials, broker } = await bed(t);
  let asked = 0;
  const connection = connect({
    backoff: { baseMs: 10, maxMs: 50 },
    urls: ['nats://127.0.0.1:1', ...broker.access.urls],
    credentials: async () => {
      asked += 1;
      if (asked % 4 === 0) throw new Error('on purpose');
      const good = await credentials(60_000);
      return asked > 12 ? good : { ...good, seed: createUser().getSeed() };
    },
  });
  t.true(await connection.waitUntilConnected(20_000));
  t.true(asked > 12);
});

test('what is under way when the connection is lost is rejected at once', async (t) => {
  const { connect, broker } = await bed(t);
  const connection = connect();
  await connection.waitUntilConnected(10_000);
  const silent = connect();
  await silent.waitUntilConnected(10_000);
  silent.subscribe('silent', () => undefined);
  await silent.flush(5000);
  // It would wait for longer than the test does.
  const request = connection.request('silent', bytes('x'), 600_000);
  process.kill(broker.server?.pid ?? 0, 'SIGKILL');
  await t.throwsAsync(request, { instanceOf: UnavailableError });
  await t.throwsAsync(connection.request('silent', bytes('x'), 60_000), { instanceOf: UnavailableError });
  t.true(await connection.waitUntilConnected(10_000));
});

test('a broker that hangs is noticed', async (t) => {
  const { connect, broker } = await bed(t);
  const connection = connect({ pingIntervalMs: 100 });
  await connection.waitUntilConnected(10_000);
  process.kill(broker.server?.pid ?? 0, 'SIGSTOP');
  await until('the loss', () => !connection.connected);
  t.throws(() => connection.publish('x', bytes('x')), { instanceOf: UnavailableError });
  process.kill(broker.server?.pid ?? 0, 'SIGCONT');
  t.true(await connection.waitUntilConnected(15_000));
});

test('a request that nobody answers, and a message that is too long, are refused with the reason', async (t) => {
  const { connect } = await bed(t);
  const connection = connect();
  await connection.waitUntilConnected(10_000);
  connection.subscribe('silent', () => undefined);
  await t.throwsAsync(connection.request('silent', bytes('x'), 50), {
    instanceOf: UnavailableError,
    message: /no answer in time/,
  });
  await t.throwsAsync(connection.request('empty', bytes('x'), 5000), {
    instanceOf: UnavailableError,
    message: /nobody listens/,
  });
  const long = new Uint8Array(connection.maxPayloadBytes + 1);
  t.throws(() => connection.publish('x', long), { instanceOf: ExhaustedError });
  await t.throwsAsync(connection.request('x', long, 1000), { instanceOf: ExhaustedError });
  connection.publish('x', long.subarray(1));
  await connection.flush(5000);
});

test('listeners that throw end nothing, and who has unsubscribed hears nothing', async (t) => {
  const { connect } = await bed(t);
  const connection = connect();
  connection.onConnected(() => {
    throw new Error('on purpose');
  });
  await connection.waitUntilConnected(10_000);
  let heard = 0;
  const end = connection.subscribe('x', () => {
    heard += 1;
    throw new Error('on purpose');
  });
  for (let i = 0; i < 3; i += 1) connection.publish('x', bytes('x'));
  await connection.flush(5000);
  await until('all three', () => heard === 3);
  end();
  end();
  connection.publish('x', bytes('x'));
  await connection.flush(5000);
  await connection.flush(5000);
  t.is(heard, 3);
  await connection.close();
  await connection.close();
  t.false(await connection.waitUntilConnected(60_000));
  t.throws(() => connection.publish('x', bytes('x')), { instanceOf: UnavailableError });
});
