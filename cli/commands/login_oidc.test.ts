import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { pino } from 'pino';
import { oidcAuthenticator } from '../../control-plane/auth/oidc/authenticator.ts';
import { startApi } from '../../test/harness/api_fixture.ts';
import { startOidcProvider } from '../../test/harness/oidc_provider.ts';
import { until } from '../../test/harness/until.ts';
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

test('what is missing for a login is said', async (t) => {
  const status = (...argv: readonly string[]) => run(['login', ...argv], captureIo());
  t.is(await status('--oidc', 'https://id.example.com'), 2);
  t.is(await status('--oidc', 'http://id.example.com', '--oidc-client', 'b'), 2);
  t.is(await status('--oidc-client', 'b'), 2);
});
