import { generateKeyPairSync, sign } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { SignJWT } from 'jose';
import { pino } from 'pino';
import { audience, startOidcProvider } from '../../../test/harness/oidc_provider.ts';
import { DeniedError, UnavailableError } from '../../domain/errors.ts';
import { type OidcAuthenticatorOptions, oidcAuthenticator } from './authenticator.ts';
import type { ClaimConfig, OidcConfig } from './oidc_options.ts';

const claims: ClaimConfig = {
  subject: 'sub',
  project: 'project',
  defaultProject: undefined,
  roles: 'realm.roles',
  roleNames: { platform: 'admin', devs: 'member', audit: 'reader' },
};
const devs = { project: 'red', realm: { roles: ['devs', 'audit', 'other'] } };

async function fixture(
  t: ExecutionContext,
  config: Partial<OidcConfig> = {},
  options: Partial<OidcAuthenticatorOptions> = {},
) {
  const provider = await startOidcProvider();
  t.teardown(() => provider[Symbol.asyncDispose]());
  const clock = { offsetMs: 0, now: () => Date.now() + clock.offsetMs };
  const authenticator = oidcAuthenticator({
    config: { issuer: provider.issuer, audiences: ['other', audience], clockSkewMs: 30_000, claims, ...config },
    clock,
    log: pino({ level: 'silent' }),
    cooldownMs: 0,
    ...options,
  });
  const ask = async (token: string, maxAgeMs?: number) => authenticator.authenticate({ token }, { maxAgeMs });
  return { provider, clock, authenticator, ask };
}

test('who has a token of the provider is let in as its claims say, until it ends', async (t) => {
  const { provider, clock, authenticator, ask } = await fixture(t);
  const token = await provider.token(devs);
  const principal = await ask(token);
  t.like(principal, { subject: 'robot', project: 'red', role: 'member' });
  const leftMs = (principal?.expireTimeMs ?? 0) - clock.now();
  t.true(leftMs > 600_000 && leftMs <= 631_000, 'with the clock skew that is allowed');
  // Known by now: nobody is asked, and nothing is waited for.
  t.deepEqual(authenticator.authenticate({ token }), principal);
  t.is(provider.keyReads, 1);
  clock.offsetMs = 625_000;
  t.truthy(await ask(token), 'expired by the clock, but not by more than clocks may be apart');
  clock.offsetMs = 632_000;
  t.is(await ask(token), undefined);
});

test('tokens for others, of others, and that are none let nobody in', async (t) => {
  const { provider, ask } = await fixture(t);
  const good = await provider.token(devs);
  t.is(await ask(await provider.token(devs, { audience: 'urn:other' })), undefined);
  const [head = '', body = '', signature = ''] = good.split('.');
  const changed = JSON.parse(Buffer.from(body, 'base64url').toString('utf8'));
  const forged = Buffer.from(JSON.stringify({ ...changed, project: 'blue' })).toString('base64url');
  const none = Buffer.from(JSON.stringify({ alg: 'none', typ: 'JWT' })).toString('base64url');
  const signed = await new SignJWT({ ...changed }).setProtectedHeader({ alg: 'HS256' }).sign(Buffer.alloc(32, 'x'));
  for (const token of [
    '',
    'ey',
    'ey..',
    `${head}.${forged}.${signature}`,
    `${none}.${body}.`,
    signed,
    `${head}.${body}.`,
  ]) {
    t.is(await ask(token), undefined, token);
  }
  const elsewhere = await fixture(t);
  t.is(await ask(await elsewhere.provider.token(devs)), undefined);
  t.truthy(await ask(good));
});

test('a token for several has to have been given to one of ours', async (t) => {
  const { provider, ask } = await fixture(t);
  const several = [audience, 'urn:somebody-else'];
  const of = (claims: object) => provider.token({ ...devs, ...claims }, { audience: several });
  await t.throwsAsync(ask(await of({})), { instanceOf: DeniedError, message: /no claim "azp"/ });
  for (const azp of ['urn:somebody-else', [audience], '']) {
    await t.throwsAsync(ask(await of({ azp })), { instanceOf: DeniedError, message: /claim "azp" says/ });
  }
  for (const azp of [audience, 'other']) t.like(await ask(await of({ azp })), { subject: 'robot' });
  // For us alone it does not matter to whom it was given.
  t.like(await ask(await provider.token({ ...devs, azp: 'urn:somebody-else' })), { subject: 'robot' });
});

test('claims that give no rights here are said so', async (t) => {
  const { provider, ask } = await fixture(t);
  const cases: [object, RegExp][] = [
    [{ project: 'red' }, /robot has no role here: claim "realm\.roles"/],
    [{ project: 'red', realm: { roles: ['admin'] } }, /no role here/],
    [{ realm: { roles: 'devs' } }, /no project/],
    [{ project: ['red', 'blue'], realm: { roles: 'devs' } }, /not one project/],
    [{ project: '-', realm: { roles: 'devs' } }, /not one project/],
  ];
  for (const [given, message] of cases) {
    const token = await provider.token({ ...given });
    await t.throwsAsync(ask(token), { instanceOf: DeniedError, message });
  }
  t.like(await ask(await provider.token({ project: ['red'], realm: { roles: ['audit', 'platform'] } })), {
    role: 'admin',
  });
  const withDefault = await fixture(t, { claims: { ...claims, defaultProject: 'lab' } });
  t.like(await withDefault.ask(await withDefault.provider.token({ realm: { roles: 'devs' } })), { project: 'lab' });
});

test('a key that is new is looked for, and one that was taken back is void when it is no longer believed', async (t) => {
  const { provider, ask } = await fixture(t, {}, { keysMs: 0 });
  const before = await provider.token(devs);
  t.truthy(await ask(before));
  await provider.rotateKeys();
  t.truthy(await ask(await provider.token(devs)));
  t.truthy(await ask(before), 'it was looked at a moment ago');
  t.is(await ask(before, 0), undefined);
});

test('a provider that is away is UNAVAILABLE but for who is known, and is found when it is there', async (t) => {
  const { provider, clock, ask } = await fixture(t, {}, { keysMs: 0 });
  const token = await provider.token(devs);
  await provider.stop();
  await t.throwsAsync(ask(token), { instanceOf: UnavailableError });
  await provider.start();
  t.truthy(await ask(token));
  const other = await provider.token({ ...devs, project: 'blue' });
  await provider.stop();
  t.truthy(await ask(token));
  t.truthy(await ask(token, 0), 'it was wanted newer, and cannot be had newer');
  await t.throwsAsync(ask(other), { instanceOf: UnavailableError });
  clock.offsetMs = 60_001;
  await t.throwsAsync(ask(token), { instanceOf: UnavailableError });
  await provider.start();
  t.like(await ask(other), { project: 'blue' });
});

test('a provider that is away is not asked by each call', async (t) => {
  const { provider, clock, ask } = await fixture(t, {}, { cooldownMs: 10_000 });
  const token = await provider.token(devs);
  await provider.stop();
  await t.throwsAsync(ask(token), { instanceOf: UnavailableError });
  await provider.start();
  await t.throwsAsync(ask(token), { instanceOf: UnavailableError });
  clock.offsetMs = 10_001;
  t.truthy(await ask(token));
});

test('keys that cannot be had are not asked for by each call', async (t) => {
  const { provider, clock, ask } = await fixture(t, {}, { cooldownMs: 10_000, keysMs: 0 });
  t.truthy(await ask(await provider.token(devs)));
  const token = await provider.token({ ...devs, project: 'blue' });
  provider.giveKeys('{"keys":{}}');
  for (const reads of [2, 3]) {
    for (let i = 0; i < 5; i += 1) await t.throwsAsync(ask(token), { instanceOf: UnavailableError });
    t.is(provider.keyReads, reads);
    clock.offsetMs += 10_001;
  }
  provider.giveKeys(undefined);
  t.like(await ask(token), { project: 'blue' });
});

test('a key that is too weak, or is none, vouches for nobody', async (t) => {
  const { provider, ask } = await fixture(t);
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 1024 });
  const weak = { ...publicKey.export({ format: 'jwk' }), kid: 'weak', alg: 'RS256' };
  const odd = { kty: 'EC', crv: 'P-256', x: 'AA', y: 'AA', kid: 'odd', alg: 'ES256' };
  provider.giveKeys(JSON.stringify({ keys: [weak, odd] }));
  const claims = {
    iss: provider.issuer,
    aud: audience,
    sub: 'robot',
    exp: Math.floor(Date.now() / 1000) + 600,
    ...devs,
  };
  for (const { kid, alg } of [weak, odd]) {
    const signed = [{ alg, kid }, claims]
      .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
      .join('.');
    const signature = sign('sha256', Buffer.from(signed), privateKey).toString('base64url');
    t.is(await ask(`${signed}.${signature}`), undefined, kid);
  }
});
