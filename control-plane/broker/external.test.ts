import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { decode, encodeAccount, encodeUser, fmtCreds } from 'nats-jwt';
import { pino } from 'pino';
import { createAccount, createUser, fromSeed, type KeyPair } from '../../proto/nkeys.ts';
import { everyUpSubject, upSubject } from '../../proto/subjects.ts';
import { connectAgentClient, createAgentKey } from '../../test/harness/agent_client.ts';
import { temporaryFolder } from '../../test/harness/temporary_folder.ts';
import { until } from '../../test/harness/until.ts';
import { PreconditionError } from '../domain/errors.ts';
import { type Broker, startBroker } from './broker.ts';
import { withRevocations } from './claims.ts';
import type { ExternalBrokerOptions } from './external.ts';

const log = pino({ level: process.env.BROKER_LOG ?? 'silent' });
const alice = { bayUid: 'bay-1', nodeUid: 'node-1' };

interface Given {
  /** Runs the broker. */
  readonly operator: Broker;
  readonly external: ExternalBrokerOptions & { readonly operatorSeedFile: string };
  readonly dataDir: string;
}

/** A broker that somebody else runs, and what its operator hands out. */
async function givenBroker(t: ExecutionContext): Promise<Given> {
  const folder = await temporaryFolder('external');
  t.teardown(() => folder[Symbol.asyncDispose]());
  const operatorDir = join(folder.path, 'operator');
  const operator = await startBroker({ dataDir: operatorDir, log });
  t.teardown(() => operator.close());
  const key = async (name: string): Promise<KeyPair> =>
    fromSeed(new TextEncoder().encode((await readFile(join(operatorDir, 'broker/keys', name), 'utf8')).trim()));
  const user = createUser();
  const systemCredentialsFile = join(folder.path, 'system.creds');
  const jwt = await encodeUser('control-plane', user, await key('system_account.nk'));
  await writeFile(systemCredentialsFile, fmtCreds(jwt, user), { mode: 0o600 });
  return {
    operator,
    dataDir: join(folder.path, 'data'),
    external: {
      urls: operator.access.urls,
      accountSeedFile: join(operatorDir, 'broker/keys/account.nk'),
      operatorSeedFile: join(operatorDir, 'broker/keys/operator.nk'),
      systemCredentialsFile,
    },
  };
}

test('a broker that is given serves as well as one of our own, revocation included', async (t) => {
  const { external, dataDir } = await givenBroker(t);
  const broker = await startBroker({ dataDir, log, external, advertiseUrls: () => ['nats://broker.example:4222'] });
  t.teardown(() => broker.close());
  t.deepEqual(broker.access.urls, ['nats://broker.example:4222']);
  t.is(broker.server, undefined);
  const key = createAgentKey();
  const { userJwt } = await broker.access.issue({ ...alice, publicKey: key.publicKey, name: 'a' });
  const options = { url: external.urls[0] ?? '', userJwt, seed: key.seed, address: alice };
  const client = await connectAgentClient(options);
  t.teardown(() => client.close());
  const heard: string[] = [];
  broker.bus.subscribe(everyUpSubject('report'), (message) => void heard.push(message.subject));
  await until('a message', () => {
    client.publish(upSubject(alice, 'report'));
    return heard.length > 0;
  });
  await broker.access.revoke([key.publicKey]);
  await client.closed();
  await t.throwsAsync(connectAgentClient(options), { message: /authoriz/i });
});

test('without an operator key a revocation is refused with the reason, and all else works', async (t) => {
  const { external, dataDir } = await givenBroker(t);
  const { operatorSeedFile: _, ...rest } = external;
  const revoked = createAgentKey();
  const broker = await startBroker({ dataDir, log, external: rest, revokedKeys: async () => [revoked.publicKey] });
  t.teardown(() => broker.close());
  t.true(broker.bus.connected);
  await t.throwsAsync(broker.access.revoke([createAgentKey().publicKey]), {
    instanceOf: PreconditionError,
    message: /no operator key is given/,
  });
  await broker.access.issue({ ...alice, publicKey: createAgentKey().publicKey, name: 'a' });
});

test('a broker that is away at the start is found when it comes', async (t) => {
  const { external, dataDir, operator } = await givenBroker(t);
  const port = Number(new URL(external.urls[0] ?? '').port);
  const operatorDir = join(external.accountSeedFile, '../../..');
  await operator.close();
  const broker = await startBroker({ dataDir, log, external, connectTimeoutMs: 100 });
  t.teardown(() => broker.close());
  t.false(broker.bus.connected);
  const states: boolean[] = [];
  broker.bus.onConnected((connected) => void states.push(connected));
  const again = await startBroker({ dataDir: operatorDir, log, natsServer: { port } });
  t.teardown(() => again.close());
  await until('the bus', () => broker.bus.connected);
  t.deepEqual(states, [true]);
});

test('what is wrong with what was given is said', async (t) => {
  const { external, dataDir } = await givenBroker(t);
  const bad = join(dataDir, '../bad');
  await writeFile(bad, 'garbage', { mode: 0o600 });
  const open = join(dataDir, '../open');
  await writeFile(open, await readFile(external.accountSeedFile), { mode: 0o600 });
  await chmod(open, 0o644);
  const cases: [Partial<ExternalBrokerOptions>, RegExp][] = [
    [{ urls: [] }, /expected nats:\/\/HOST:PORT/],
    [{ urls: ['http://x'] }, /expected nats:\/\/HOST:PORT/],
    [{ urls: ['nats://user:secret@x:1'] }, /^(?!.*secret).*expected nats:\/\/HOST:PORT/],
    [{ accountSeedFile: bad }, /bad does not hold the seed/],
    [{ accountSeedFile: `${bad}.none` }, /bad\.none is missing/],
    [{ accountSeedFile: open }, /open has mode 0644/],
    [{ accountSeedFile: external.operatorSeedFile }, /does not hold the seed of an nkey of kind account/],
    [{ operatorSeedFile: bad }, /bad does not hold the seed/],
    [{ systemCredentialsFile: bad }, /bad does not hold NATS user credentials/],
    [{ systemCredentialsFile: `${bad}.none` }, /bad\.none .*is missing/],
  ];
  for (const [change, message] of cases) {
    const options = { dataDir, log, external: { ...external, ...change } };
    await t.throwsAsync(startBroker(options), { instanceOf: Error, message });
  }
});

test('revocations are added to what another operator’s account says already', async (t) => {
  const { external } = await givenBroker(t);
  const operator = fromSeed(new TextEncoder().encode((await readFile(external.operatorSeedFile, 'utf8')).trim()));
  const account = createAccount();
  const accountKey = account.getPublicKey();
  const current = await encodeAccount(
    'theirs',
    account,
    { limits: { conn: 7 }, revocations: { UOLD: 5 } },
    { signer: operator },
  );
  const changed = decode<{ limits: { conn: number }; revocations: unknown }>(
    await withRevocations(current, accountKey, operator, { UNEW: 9 }),
  );
  t.is(changed.name, 'theirs');
  t.is(changed.sub, accountKey);
  t.is(changed.nats.limits?.conn, 7);
  t.deepEqual(changed.nats.revocations, { UOLD: 5, UNEW: 9 });
  await t.throwsAsync(withRevocations(current, createAccount().getPublicKey(), operator, {}), {
    message: /is not the JWT/,
  });
  await t.throwsAsync(withRevocations('garbage', accountKey, operator, {}));
});
