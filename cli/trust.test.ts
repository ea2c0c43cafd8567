import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { oidcAuthenticator } from '../control-plane/auth/oidc/authenticator.ts';
import type { Authenticator } from '../control-plane/auth/port.ts';
import { rotateAuthority } from '../control-plane/tls/authority.ts';
import { makeAuthority } from '../control-plane/tls/certificate.ts';
import { ownSource } from '../control-plane/tls/own_source.ts';
import { openServerCertificate } from '../control-plane/tls/server_certificate.ts';
import { certificatesIn, fingerprintOf } from '../proto/fingerprint.ts';
import { startApi } from '../test/harness/api_fixture.ts';
import { startOidcProvider } from '../test/harness/oidc_provider.ts';
import { until } from '../test/harness/until.ts';
import { readConfig } from './context.ts';
import { run } from './program.ts';
import { bayctl, captureIo } from './run_fixture.ts';

const log = pino({ level: 'silent' });
const hour = 3_600_000;

/** The real API with a certificate of its own CA, and a user's configuration. */
async function fixture(t: ExecutionContext, names: readonly string[] = ['127.0.0.2'], authenticator?: Authenticator) {
  const dir = await mkdtemp(join(tmpdir(), 'bayctl-tls-'));
  const clock = { offsetMs: 0, now: () => Date.now() + clock.offsetMs };
  const source = ownSource({ dataDir: dir, names, leafTtlMs: hour, log, clock });
  const certificate = await openServerCertificate({ source, log, clock, checkMs: hour });
  const server = { host: '127.0.0.2', certificate };
  const api = await startApi({ server, ...(authenticator && { api: { authenticator } }) });
  t.teardown(async () => {
    await api[Symbol.asyncDispose]();
    certificate.close();
    await rm(dir, { recursive: true });
  });
  const config = join(dir, 'config.yaml');
  const run = (...argv: string[]) => bayctl(undefined, argv, { env: { BAYCTL_CONFIG: config } });
  const fingerprint = () => certificatesIn(certificate.current.trusted[0] ?? '').map(fingerprintOf)[0] ?? '';
  return { dir, clock, certificate, url: api.server.url, port: api.server.port, config, run, fingerprint };
}

test('a context learns the CA by its fingerprint, and follows it through a roll-over', async (t) => {
  const f = await fixture(t);
  const set = ['config', 'set-context', 'work', '--server', f.url, '--token', 'red-token'];
  const made = await f.run(...set, '--ca-fingerprint', f.fingerprint().toUpperCase().replace('SHA256:', ''));
  t.is(made.status, 0, made.stderr);
  t.is((await stat(f.config)).mode & 0o777, 0o600);
  t.true((await readFile(f.config, 'utf8')).includes('BEGIN CERTIFICATE'));
  const who = await f.run('whoami');
  t.is(who.status, 0, who.stderr);
  t.true(who.stdout.includes('rose'));

  const context = (name: string) => f.run('config', 'use-context', name);
  const away = ['config', 'set-context', 'away', '--server', f.url, '--token', 'red-token'];
  t.is((await f.run(...away, '--ca-fingerprint', f.fingerprint())).status, 0);

  const old = f.fingerprint();
  await rotateAuthority(f.dir, hour, f.clock.now());
  await f.certificate.refresh();
  t.is((await f.run('whoami', '--context', 'work')).status, 0, 'the old CA vouches for the new one');
  const kept = (await readConfig(captureIo({ env: { BAYCTL_CONFIG: f.config } }))).contexts;
  const fingerprintsOf = (name: string) => certificatesIn(kept.get(name)?.ca ?? '').map(fingerprintOf);
  t.deepEqual(fingerprintsOf('work'), [f.fingerprint()], 'and bayctl believes that one from now on, and no other');
  t.deepEqual(fingerprintsOf('away'), [old]);
  t.is(kept.get('work')?.token, 'red-token');
  t.is((await stat(f.config)).mode & 0o777, 0o600);

  f.clock.offsetMs += hour;
  await f.certificate.refresh();
  await context('work');
  t.is((await f.run('whoami')).status, 0);
  await context('away');
  const over = await f.run('whoami');
  t.is(over.status, 6);
  t.regex(over.stderr, /will not speak to https.*nobody who is trusted here.*--ca-fingerprint/);
  t.is((await f.run('config', 'set-context', 'away', '--ca-fingerprint', f.fingerprint())).status, 0);
  t.is((await f.run('whoami')).status, 0);

  // Neither CA nor token are for another server.
  t.is((await f.run('config', 'delete-context', 'work')).status, 0);
  t.is((await f.run('config', 'set-context', 'away', '--server', 'https://other.example')).status, 0);
  t.regex(await readFile(f.config, 'utf8'), /^(?!.*(BEGIN|red-token))/s);
});

test('a CA that a file or the command line names is left as it is', async (t) => {
  const f = await fixture(t);
  const caFile = join(f.dir, 'ca.pem');
  await writeFile(caFile, f.certificate.current.trusted.join(''));
  await writeFile(
    f.config,
    JSON.stringify({ contexts: { work: { server: f.url, token: 'red-token', ca_file: caFile } } }),
  );
  const before = await readFile(f.config, 'utf8');
  await rotateAuthority(f.dir, hour, f.clock.now());
  await f.certificate.refresh();
  t.is((await f.run('whoami', '--context', 'work')).status, 0);
  t.is((await f.run('whoami', '--context', 'work', '--ca-file', caFile)).status, 0);
  t.is(await readFile(f.config, 'utf8'), before);
});

test('a login learns the CA by its fingerprint, and begins with nobody who has another', async (t) => {
  await using provider = await startOidcProvider();
  const claims = { subject: 'sub', project: 'project', defaultProject: undefined, roles: 'roles' };
  const roleNames = { devs: 'member' } as const;
  const config = { issuer: provider.issuer, audiences: ['bayctl'], clockSkewMs: 0, claims: { ...claims, roleNames } };
  const f = await fixture(t, undefined, oidcAuthenticator({ config, clock: Date, log }));
  const login = (fingerprint: string) => {
    const io = captureIo({ env: { BAYCTL_CONFIG: f.config } });
    const oidc = ['--oidc', provider.issuer, '--oidc-client', 'bayctl', '--context', 'lab'];
    return { io, status: run(['login', '--server', f.url, ...oidc, '--ca-fingerprint', fingerprint], io) };
  };
  const wrong = login(`sha256:${'0'.repeat(64)}`);
  t.is(await wrong.status, 6);
  t.regex(wrong.io.text('stderr'), /is not the one with fingerprint sha256:000/);
  t.notRegex(wrong.io.text('stderr'), /enter the code/);
  await t.throwsAsync(stat(f.config), { code: 'ENOENT' });

  const right = login(f.fingerprint());
  const code = await until('a code is shown', () => /enter the code (\S+)/.exec(right.io.text('stderr'))?.[1]);
  await provider.approve(code, { project: 'red', roles: ['devs'], preferred_username: 'alice' });
  t.is(await right.status, 0, right.io.text('stderr'));
  t.true((await readFile(f.config, 'utf8')).includes('BEGIN CERTIFICATE'));
  const me = await f.run('whoami');
  t.regex(me.stdout, /^alice, member in project red/, me.stderr);
});

test('what is wrong with a certificate or a fingerprint is said, and ends with 6', async (t) => {
  const f = await fixture(t);
  const wrong = await f.run(
    'config',
    'set-context',
    'work',
    '--server',
    f.url,
    '--ca-fingerprint',
    `sha256:${'0'.repeat(64)}`,
  );
  t.is(wrong.status, 6);
  t.true(wrong.stderr.includes(f.fingerprint()), wrong.stderr);
  t.is((await f.run('config', 'get-contexts', '-o', 'name')).stdout, '', 'no context was made');
  const usage = await f.run('config', 'set-context', 'work', '--server', f.url, '--ca-fingerprint', 'md5:00');
  t.is(usage.status, 2);

  const caFile = join(f.dir, 'tls', 'ca.pem');
  const whoami = (...more: string[]) => f.run('whoami', '--token', 'red-token', ...more);
  t.is((await whoami('--server', f.url, '--ca-file', caFile)).status, 0);
  const stranger = join(f.dir, 'stranger.pem');
  await writeFile(stranger, (await makeAuthority(Date.now() + hour)).certificate);
  const cases: [string[], RegExp, number][] = [
    [['--server', f.url], /nobody who is trusted here vouches/, 6],
    [['--server', f.url, '--ca-file', stranger], /nobody who is trusted here vouches/, 6],
    [['--server', `https://127.0.0.3:${f.port}`, '--ca-file', caFile], /no control plane answers/, 6],
    [['--server', `http://127.0.0.2:${f.port}`], /does it speak TLS \(https/, 6],
    [['--server', f.url, '--ca-file', '/nowhere'], /cannot read the CA from \/nowhere/, 1],
    [['--server', f.url, '--ca-file', f.config.replace('config.yaml', 'store')], /cannot read the CA/, 1],
  ];
  for (const [args, message, status] of cases) {
    const { stderr, status: found } = await whoami(...args);
    t.regex(stderr, message);
    t.is(found, status, stderr);
  }
});

test('a certificate for another name, and one that has expired, are told apart', async (t) => {
  for (const [names, offsetMs, message] of [
    [['bays.example'], 0, /its certificate is for another name/],
    [['127.0.0.2'], -3 * hour, /its certificate has expired/],
  ] as const) {
    const f = await fixture(t, names);
    f.clock.offsetMs = offsetMs;
    await rotateAuthority(f.dir, hour, f.clock.now());
    await f.certificate.refresh();
    const { status, stderr } = await f.run(
      'whoami',
      '--server',
      f.url,
      '--ca-file',
      join(f.dir, 'tls', 'ca.pem'),
      '--token',
      'red-token',
    );
    t.is(status, 6);
    t.regex(stderr, message);
  }
});
