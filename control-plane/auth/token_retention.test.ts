import { createClient } from '@connectrpc/connect';
import test from 'ava';
import { pino } from 'pino';
import { Role } from '../../proto/gen/baykeeper/v1/access_token_pb.js';
import { AccessTokenService } from '../../proto/gen/baykeeper/v1/access_token_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { startApi } from '../../test/harness/api_fixture.ts';
import { TokenRetention } from './token_retention.ts';

const dayMs = 24 * 3_600_000;

test('tokens of both kinds are listed for a while after their end, and then go; those that are good stay', async (t) => {
  await using api = await startApi();
  const { store, clock } = api;
  await using retention = new TokenRetention({
    store,
    clock,
    log: pino({ level: 'silent' }),
    keepTokensMs: 30 * dayMs,
  });
  const access = createClient(AccessTokenService, api.transport({ token: 'admin-token', project: 'red' }));
  const join = createClient(JoinTokenService, api.transport());
  await createClient(BayService, api.transport()).createBay({ bay: { metadata: { name: 'edge' } } });
  const days = (count: number) => ({ seconds: BigInt(count * 86_400) });
  const names = async () => {
    const { accessTokens } = await access.listAccessTokens({});
    const { joinTokens } = await join.listJoinTokens({});
    return [...accessTokens, ...joinTokens].map(({ description }) => description).sort();
  };
  const made = async (description: string, ttl?: ReturnType<typeof days>) =>
    (await access.createAccessToken({ role: Role.READER, description, ttl })).accessToken?.id;
  await made('for ever');
  await made('10 days', days(10));
  await made('90 days', days(90));
  await access.revokeAccessToken({ id: await made('revoked') });
  await access.revokeAccessToken({ id: await made('revoked before it expired', days(90)) });
  await join.createJoinToken({ bay: 'edge', description: 'join: an hour' });
  await join.createJoinToken({ bay: 'edge', description: 'join: 10 days', ttl: days(10) });
  const { joinToken } = await join.createJoinToken({ bay: 'edge', description: 'join: revoked', ttl: days(10) });
  await join.revokeJoinToken({ id: joinToken?.id });
  const all = await names();
  t.is(all.length, 8);

  clock.offsetMs = 29 * dayMs;
  await retention.run();
  t.deepEqual(await names(), all);
  clock.offsetMs = 31 * dayMs;
  await retention.run();
  t.deepEqual(await names(), ['10 days', '90 days', 'for ever', 'join: 10 days']);
  clock.offsetMs = 41 * dayMs;
  await retention.run();
  t.deepEqual(await names(), ['90 days', 'for ever']);
});

test('thousands go in pages, and none of those between them', async (t) => {
  await using api = await startApi();
  const { store, clock } = api;
  const access = createClient(AccessTokenService, api.transport({ token: 'admin-token', project: 'red' }));
  const make = (seconds: bigint) => access.createAccessToken({ role: Role.READER, ttl: { seconds } });
  await Promise.all(Array.from({ length: 1_200 }, (_, i) => make(i % 100 === 0 ? 10_000n : 1n)));
  clock.offsetMs = 5_000;
  await using retention = new TokenRetention({ store, clock, log: pino({ level: 'silent' }), keepTokensMs: 0 });
  await retention.run();
  t.is((await access.listAccessTokens({ pageSize: 1_000 })).accessTokens.length, 12);
});
