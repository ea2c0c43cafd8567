import { Code, ConnectError, createClient } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { Role } from '../../proto/gen/baykeeper/v1/access_token_pb.js';
import { AccessTokenService } from '../../proto/gen/baykeeper/v1/access_token_service_pb.js';
import { startApi } from '../../test/harness/api_fixture.ts';
import { AccessTokens } from './access_tokens.ts';

async function fixture(t: ExecutionContext) {
  const api = await startApi();
  const { store, clock } = api;
  const open = () => AccessTokens.open({ store, clock, log: pino({ level: 'silent' }) });
  const tokens = await open();
  t.teardown(async () => {
    await tokens[Symbol.asyncDispose]();
    await api[Symbol.asyncDispose]();
  });
  const of = (project: string) => createClient(AccessTokenService, api.transport({ token: 'admin-token', project }));
  return { api, clock, open, tokens, of };
}

test('a token is shown once, and lets in as what it was made for until it expires', async (t) => {
  const { of, tokens, clock, open, api } = await fixture(t);
  const ttl = { seconds: 60n, nanos: 0 };
  const made = await of('red').createAccessToken({ role: Role.MEMBER, ttl, description: 'ci' });
  const id = made.accessToken?.id ?? '';
  t.like(made.accessToken, {
    subject: `token/${id}`,
    project: 'red',
    role: Role.MEMBER,
    creator: 'ada',
    description: 'ci',
  });
  const principal = tokens.authenticate({ token: made.token });
  t.like(principal, { subject: `token/${id}`, project: 'red', role: 'member' });
  t.true((principal?.expireTimeMs ?? 0) > clock.now());

  const other = made.token.endsWith('A') ? 'B' : 'A';
  for (const token of [
    id,
    `${id}.`,
    `${made.token.slice(0, -1)}${other}`,
    made.token.toUpperCase(),
    `${made.token}A`,
  ]) {
    t.is(tokens.authenticate({ token }), undefined, token);
  }
  // Nothing of the secret is kept or told.
  const [, secret = ''] = made.token.split('.');
  const stored = await api.store.get({ uid: id });
  t.false(Buffer.from(stored?.body ?? []).includes(secret));
  const listed = await of('red').listAccessTokens({});
  t.is(listed.accessTokens.length, 1);
  t.false(
    JSON.stringify(listed, (_key, value) => (typeof value === 'bigint' ? String(value) : value)).includes(secret),
  );
  t.deepEqual((await of('blue').listAccessTokens({})).accessTokens, []);
  t.is((await of('-').listAccessTokens({})).accessTokens.length, 1);

  const again = await open();
  t.truthy(again.authenticate({ token: made.token }), 'read back at the next start');
  await again[Symbol.asyncDispose]();
  clock.offsetMs = 61_000;
  t.is(tokens.authenticate({ token: made.token }), undefined);
});

test('a token that is revoked lets nobody in from that moment', async (t) => {
  const { of, tokens, open } = await fixture(t);
  const { token, accessToken } = await of('red').createAccessToken({ role: Role.READER });
  const id = accessToken?.id ?? '';
  t.truthy(tokens.authenticate({ token }));
  const error = await t.throwsAsync(of('blue').revokeAccessToken({ id }), { instanceOf: ConnectError });
  t.is(error.code, Code.NotFound);
  t.truthy(tokens.authenticate({ token }));
  const revoked = await of('red').revokeAccessToken({ id });
  t.truthy(revoked.accessToken?.revokeTime);
  t.is(tokens.authenticate({ token }), undefined);
  t.deepEqual(await of('red').revokeAccessToken({ id }), revoked);
  const again = await open();
  t.is(again.authenticate({ token }), undefined);
  await again[Symbol.asyncDispose]();
});

test('its use is written down now and then, not with each call, and does not bring back what was revoked', async (t) => {
  const { api, of, tokens, clock } = await fixture(t);
  const { token, accessToken } = await of('red').createAccessToken({ role: Role.READER });
  const gone = await of('red').createAccessToken({ role: Role.READER });
  const { revision } = api.store;
  for (let i = 0; i < 100; i++) tokens.authenticate({ token });
  tokens.authenticate({ token: gone.token });
  t.is(api.store.revision, revision);
  await of('red').revokeAccessToken({ id: gone.accessToken?.id });
  await tokens.noteUses();
  await tokens.noteUses();
  t.is(api.store.revision, revision + 3, 'one change for each token that was used, and the one that revoked');
  const { accessTokens } = await of('red').listAccessTokens({});
  const used = accessTokens.find(({ id }) => id === accessToken?.id);
  t.true(Math.abs(Number(used?.lastUseTime?.seconds ?? 0n) * 1000 - clock.now()) < 60_000);
  t.truthy(accessTokens.find(({ id }) => id === gone.accessToken?.id)?.revokeTime);
  t.is(tokens.authenticate({ token: gone.token }), undefined);
});
