import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { NatsError } from 'nats';
import { connectAgentClient } from '../../test/harness/agent_client.ts';
import { type Agent, alice, dataFolder, joinBus, otherBay, sameBay, start } from '../../test/harness/broker_bed.ts';
import { until } from '../../test/harness/until.ts';
import { DeniedError, UnavailableError } from '../domain/errors.ts';

test('a revoked agent is cut off at once and stays out', async (t) => {
  const broker = await start(t);
  const { client, key, userJwt } = await joinBus(t, broker, alice);
  const bystander = await joinBus(t, broker, sameBay);
  await broker.access.revoke([key.publicKey]);
  // Its credentials would be good for an hour.
  await client.closed();
  const [url = ''] = broker.access.urls;
  const options = { url, userJwt, seed: key.seed, address: alice };
  await t.throwsAsync(connectAgentClient(options), { instanceOf: NatsError });
  await t.throwsAsync(broker.access.issue({ ...alice, publicKey: key.publicKey, name: 'a' }), {
    instanceOf: DeniedError,
  });
  await broker.access.revoke([key.publicKey]);
  await broker.access.revoke([]);
  await broker.access.revoke(['garbage']);
  await bystander.client.flush();
  t.false(bystander.client.isClosed());
});

test('a revocation holds when nats-server starts anew with nothing in its folder', async (t) => {
  const dataDir = await dataFolder(t);
  const broker = await start(t, { dataDir });
  const { key, userJwt } = await joinBus(t, broker, alice);
  await broker.access.revoke([key.publicKey]);
  const before = broker.server?.pid;
  await rm(join(dataDir, 'broker', 'accounts'), { recursive: true });
  process.kill(before ?? 0, 'SIGKILL');
  await until('a new nats-server', () => broker.server?.pid !== undefined && broker.server.pid !== before);
  const [url = ''] = broker.access.urls;
  await t.throwsAsync(connectAgentClient({ url, userJwt, seed: key.seed, address: alice }), {
    instanceOf: NatsError,
    message: /authoriz/i,
  });
});

test('what is revoked is given at the start, too', async (t) => {
  const dataDir = await dataFolder(t);
  const first = await start(t, { dataDir });
  const { key, userJwt } = await joinBus(t, first, alice);
  await first.close();
  const second = await start(t, { dataDir, revokedKeys: () => Promise.resolve([key.publicKey, 'garbage']) });
  const [url = ''] = second.access.urls;
  await t.throwsAsync(connectAgentClient({ url, userJwt, seed: key.seed, address: alice }), { message: /authoriz/i });
  await t.throwsAsync(second.access.issue({ ...alice, publicKey: key.publicKey, name: 'a' }), {
    instanceOf: DeniedError,
  });
  await joinBus(t, second, alice);
});

test('many revocations at once are all in force when they resolve', async (t) => {
  const broker = await start(t);
  const agents: Agent[] = [];
  for (let i = 0; i < 12; i += 1) agents.push(await joinBus(t, broker, { bayUid: 'bay-1', nodeUid: `n${i}` }));
  const spared = await joinBus(t, broker, otherBay);
  await Promise.all(agents.map((agent) => broker.access.revoke([agent.key.publicKey])));
  const [url = ''] = broker.access.urls;
  for (const { address, key, userJwt, client } of agents) {
    await client.closed();
    await t.throwsAsync(connectAgentClient({ url, userJwt, seed: key.seed, address }), { message: /authoriz/i });
  }
  await spared.client.flush();
  t.false(spared.client.isClosed());
});

test('a revocation while the broker is away is in force when it is back', async (t) => {
  const broker = await start(t, { natsServer: { backoff: { baseMs: 1000, maxMs: 1000, random: () => 0.7 } } });
  const { key, userJwt } = await joinBus(t, broker, alice);
  process.kill(broker.server?.pid ?? 0, 'SIGKILL');
  await until('the loss', () => !broker.bus.connected);
  // A server that takes long to be back is told by itself.
  await broker.access.revoke([key.publicKey]).catch((error) => t.true(error instanceof UnavailableError));
  await until('the bus', () => broker.bus.connected);
  const [url = ''] = broker.access.urls;
  await t.throwsAsync(connectAgentClient({ url, userJwt, seed: key.seed, address: alice }), { message: /authoriz/i });
});
