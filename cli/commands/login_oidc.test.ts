import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { oidcAuthenticator } from '../../control-plane/auth/oidc/authenticator.ts';
import { startApi } from '../../test/harness/api_fixture.ts';
import { startOidcProvider } from '../../test/harness/oidc_provider.ts';
import { until } from '../../test/harness/until.ts';
import { freshLogin, readLogin, tokenSource, writeLogin } from '../login.ts';
import type { Login } from '../login_method.ts';
import { loginToOidc } from '../oidc_login.ts';
import { run } from '../program.ts';
import { captureIo } from '../run_fixture.ts';

test('a user of an OpenID provider logs in with a code, is let in, renewed and logged out', async (t) => {
  const home = await mkdtemp(join(tmpdir(), 'login-oidc-'));
  t.teardown(() => rm(home, { recursive: true }));
  await using provider = await startOidcProvider();
  const claims = { subject: 'sub', project: 'project', defaultProject: undefined, roles: 'roles' };
  const roleNames = { devs: 'member' } as const;
  const config = { issuer: provider.issuer, audiences: ['bayctl'], clockSkewMs: 0, claims: { ...claims, roleNames } };
  const authenticator = oidcAuthenticator({ config, clock: Date, log: pino({ level: 'silent' }) });
  await using api = await startApi({ api: { authenticator } });
  let offsetMs = 0;
  const bayctl = (...argv: readonly string[]) => {
    const io = { ...captureIo({ home }), nowMs: () => Date.now() + offsetMs };
    return { io, status: run(['--server', api.server.url, ...argv], io) };
  };

  const login = bayctl('login', '--oidc', provider.issuer, '--oidc-client', 'bayctl', '--context', 'lab');
  const code = await until('a code is shown', () => /enter the code (\S+)/.exec(login.io.text('stderr'))?.[1]);
  await provider.approve(code, { project: 'red', roles: ['devs'], preferred_username: 'alice' });
  t.is(await login.status, 0, login.io.text('stderr'));
  t.regex(login.io.text('stdout'), /logged in to \S+ as alice, role member, until .*context lab is made/);
  const file = join(home, '.baykeeper', 'logins', 'lab.json');
  t.is((await stat(file)).mode & 0o777, 0o600);
  const kept = JSON.parse(await readFile(file, 'utf8'));

  const me = bayctl('whoami');
  t.is(await me.status, 0, me.io.text('stderr'));
  t.regex(me.io.text('stdout'), /^alice, member in project red/);

  offsetMs = 590_000;
  t.is(await bayctl('whoami').status, 0);
  t.not(JSON.parse(await readFile(file, 'utf8')).token, kept.token, 'renewed before it ends');

  offsetMs = 0;
  const out = bayctl('logout');
  t.is(await out.status, 0, out.io.text('stderr'));
  await t.throwsAsync(stat(file), { code: 'ENOENT' });
});

/** A login at a provider that gives what a login is renewed with once only, and takes all back from who uses it twice. */
async function loggedIn(t: ExecutionContext) {
  const home = await mkdtemp(join(tmpdir(), 'login-oidc-'));
  t.teardown(() => rm(home, { recursive: true }));
  const provider = await startOidcProvider();
  t.teardown(() => provider[Symbol.asyncDispose]());
  const clock = { offsetMs: 0 };
  const io = { ...captureIo({ home }), nowMs: () => Date.now() + clock.offsetMs };
  const { issuer } = provider;
  const got = loginToOidc(io, {
    issuer,
    clientId: 'bayctl',
    show: ({ code }) => provider.approve(code, { preferred_username: 'alice' }),
  });
  const login: Login = { ...(await got), method: 'oidc', server: 'https://bays.test' };
  await writeLogin(home, 'lab', login);
  return { home, provider, clock, io, login, kept: () => readLogin(home, 'lab') };
}

test('what a login is renewed with is used once, however many commands want it at once, or have it from before', async (t) => {
  const { home, clock, io, login, kept } = await loggedIn(t);
  // About to end, and over: by the clock of bayctl alone, so that each renewal is followed by another.
  for (const offsetMs of [590_000, 700_000]) {
    clock.offsetMs = offsetMs;
    const before = await kept();
    const source = tokenSource(io, home, 'lab', login);
    await Promise.all([source(), source(), ...[1, 2, 3].map(() => freshLogin(io, home, 'lab', login))]);
    t.not((await kept())?.refreshToken, before?.refreshToken);
    // What it began with has been used long since.
    t.not(await source(), login.token);
  }
  t.not((await freshLogin(io, home, 'lab', login)).token, login.token, 'the provider has taken nothing back');
});

test('a provider that is away has not ended the login, and a logout ends it also when its token has', async (t) => {
  const { home, provider, clock, io, login, kept } = await loggedIn(t);
  clock.offsetMs = 700_000;
  await provider.stop();
  const error = await t.throwsAsync(freshLogin(io, home, 'lab', login), {
    message: /has ended and cannot be renewed: the OpenID provider cannot be asked: fetch failed \(ECONNREFUSED\)/,
  });
  t.like(error, { exitStatus: 6 });
  await provider.start();
  const config = join(home, 'config.yaml');
  await writeFile(config, `contexts: {lab: {server: 'https://bays.test'}}`);
  const out = captureIo({ home, env: { BAYCTL_CONFIG: config }, nowMs: io.nowMs });
  t.is(await run(['logout', '--context', 'lab'], out), 0, out.text('stderr'));
  t.is(await kept(), undefined);
  await writeLogin(home, 'lab', login);
  await t.throwsAsync(freshLogin(io, home, 'lab', login), { message: /the login has ended/ });
});

test('what is missing for a login is said', async (t) => {
  const status = (...argv: readonly string[]) => run(['login', ...argv], captureIo());
  t.is(await status('--oidc', 'https://id.example.com'), 2);
  t.is(await status('--oidc', 'http://id.example.com', '--oidc-client', 'b'), 2);
  t.is(await status('--oidc-client', 'b'), 2);
});
