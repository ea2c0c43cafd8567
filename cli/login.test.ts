import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PassThrough } from 'node:stream';
import test, { type ExecutionContext } from 'ava';
import { fixtureToken, startFixture } from './control_plane_fixture.ts';
import { forgetLogin, freshLogin, readLogin, tokenSource, writeLogin } from './login.ts';
import type { Login } from './login_method.ts';
import { bayctl, captureIo } from './run_fixture.ts';
import { promptSecret, readSecret } from './secret_input.ts';

/** What a real Keystone says is tried in test/journeys/keystone_login.test.ts; here is what goes wrong, and what it takes a clock to see. */

const domain = { id: 'default', name: 'Default' };

/** A control plane, a Keystone that gives the token that it knows, and a folder for what bayctl keeps. */
async function setUp(t: ExecutionContext) {
  const plane = await startFixture();
  const home = await mkdtemp(path.join(tmpdir(), 'login-'));
  const script = { status: 201, project: true, token: fixtureToken, asked: [] as string[], before: async () => {} };
  const keystone = createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += chunk;
    script.asked.push(
      request.method === 'POST' ? JSON.parse(text).auth.identity.password?.user.password : request.method,
    );
    await script.before();
    if (request.method === 'DELETE') return void response.writeHead(script.status === 201 ? 204 : script.status).end();
    const token = {
      user: { id: 'u1', name: 'alice', domain },
      ...(script.project ? { project: { id: 'p1', name: 'red', domain } } : {}),
      roles: [{ name: 'member' }],
      expires_at: new Date(Date.now() + 3_600_000).toISOString(),
    };
    response.writeHead(script.status, { 'x-subject-token': script.token }).end(JSON.stringify({ token }));
  });
  keystone.listen(0, '127.0.0.1');
  await once(keystone, 'listening');
  t.teardown(async () => {
    keystone.closeAllConnections();
    keystone.close();
    await plane[Symbol.asyncDispose]();
    await rm(home, { recursive: true });
  });
  const config = path.join(home, 'config.yaml');
  const env = {
    BAYCTL_CONFIG: config,
    OS_AUTH_URL: `http://127.0.0.1:${(keystone.address() as AddressInfo).port}`,
    OS_USERNAME: 'alice',
    OS_PROJECT_NAME: 'red',
  };
  const run = (args: readonly string[], more: Record<string, string> = {}, stdin?: string) =>
    bayctl(undefined, args, { env: { ...env, ...more }, home, ...(stdin === undefined ? {} : { stdin }) });
  const files = () => readdir(path.join(home, 'logins')).catch(() => []);
  return { plane, home, env, config, script, run, files, keystone };
}

test('a login makes a context where there is none, for its owner only, and every command uses it', async (t) => {
  const { plane, home, run, files } = await setUp(t);
  const login = await run(['login', '--server', plane.url, '--password-stdin'], {}, 'pass-secret\n');
  t.is(login.status, 0, login.stderr);
  const name = new URL(plane.url).host.replace(':', '-');
  t.regex(
    login.stdout,
    /^logged in to http:\/\/127\.0\.0\.1:\d+ as alice@Default in project red, role admin, until \d{4}-.*; context 127\.0\.0\.1-\d+ is made and in use\n$/,
  );
  t.deepEqual(await files(), [`${name}.json`]);
  const file = path.join(home, 'logins', `${name}.json`);
  t.is((await stat(file)).mode & 0o777, 0o600);
  t.is((await stat(path.dirname(file))).mode & 0o777, 0o700);
  t.notRegex(await readFile(file, 'utf8'), /pass-secret/);
  t.is((await run(['whoami'])).status, 0);
  // The token of one server is not sent to another.
  const other = await run(['whoami', '--server', plane.url.replace('127.0.0.1', 'localhost')]);
  t.is(other.status, 3);
  t.is((await run(['whoami', '--token', 'wrong'])).status, 3);
  t.is((await run(['config', 'delete-context', name])).status, 0);
  t.deepEqual(await files(), []);
});

test('a login may be for a context that is there, or for a new one that is named', async (t) => {
  const { plane, run, files } = await setUp(t);
  const password = { OS_PASSWORD: 'p' };
  await run(['config', 'set-context', 'work', '--server', plane.url, '--token', 'old']);
  t.is((await run(['whoami'])).status, 3);
  t.is((await run(['login'], password)).status, 0);
  t.is((await run(['whoami'])).status, 0);
  t.is((await run(['login', '--context', 'red', '--server', plane.url], password)).status, 0);
  t.deepEqual((await files()).sort(), ['red.json', 'work.json']);
  t.is((await run(['config', 'current-context'])).stdout, 'red\n');
  const taken = await run(['login', '--context', 'red', '--server', 'http://127.0.0.1:1'], password);
  t.is(taken.status, 2);
  t.regex(taken.stderr, /context "red" is for http:\/\/127\.0\.0\.1:\d+: name another/);
  t.is((await run(['login', '--context', '../x', '--server', plane.url], password)).status, 2);
});

test('what goes wrong is said, and leaves nothing behind', async (t) => {
  const { plane, home, run, files, script } = await setUp(t);
  const server = ['--server', plane.url];
  const fails = async (
    args: readonly string[],
    env: Record<string, string>,
    status: number,
    message: RegExp,
    stdin?: string,
  ) => {
    const result = await run(['login', ...server, ...args], env, stdin);
    t.is(result.status, status, result.stderr);
    t.regex(result.stderr, message);
    t.notRegex(result.stderr, /pass-secret/);
    t.deepEqual(await files(), []);
  };
  const password = { OS_PASSWORD: 'pass-secret' };
  await fails([], {}, 2, /the password of alice is missing, and there is no terminal to ask on: use --password-stdin/);
  await fails(['--password-stdin'], {}, 2, /there is no password on stdin/, '\n');
  await fails(['--password-stdin'], {}, 2, /more than one line/, 'a\nb\n');
  await fails(['--os-cloud', 'red'], password, 2, /there is no clouds\.yaml to find the cloud "red" in/);
  await fails([], { OS_AUTH_URL: '' }, 2, /neither a clouds\.yaml nor OS_AUTH_URL/);
  await fails([], { ...password, OS_AUTH_URL: 'http://keystone.test' }, 2, /will not send credentials in clear/);
  await fails([], { ...password, OS_INSECURE: '1' }, 2, /give its cacert, or --insecure/);
  await fails(
    [],
    { ...password, OS_AUTH_URL: 'http://127.0.0.1:1' },
    6,
    /Keystone does not answer at http:\/\/127\.0\.0\.1:1: ECONNREFUSED/,
  );
  script.status = 401;
  await fails([], password, 3, /Keystone does not know these credentials/);
  script.status = 201;
  script.asked.length = 0;
  script.project = false;
  await fails([], password, 2, /a token for no project: say which/);
  t.deepEqual(script.asked, ['pass-secret', 'DELETE']);
  script.project = true;
  // Keystone knows it, and the control plane does not.
  script.token = 'another';
  await fails([], password, 3, /who you are is not known/);
  t.deepEqual(script.asked.slice(2), ['pass-secret', 'DELETE']);
  // Both know it, and it cannot be kept.
  script.token = fixtureToken;
  await writeFile(path.join(home, 'logins'), '');
  await fails([], password, 1, /cannot write .*logins/);
  t.deepEqual(script.asked.slice(4), ['pass-secret', 'DELETE']);
});

test('a token that is about to end is renewed while the same user is at hand, and else is said to have ended', async (t) => {
  const { plane, run, script, home } = await setUp(t);
  const password = { OS_PASSWORD: 'p' };
  t.is((await run(['login', '--context', 'red', '--server', plane.url], password)).status, 0);
  await writeLogin(home, 'red', { ...((await readLogin(home, 'red')) as Login), expireTimeMs: Date.now() - 1 });
  const ended = await run(['whoami']);
  t.is(ended.status, 3);
  t.regex(
    ended.stderr,
    /^Error: the login of context "red" \(alice@Default in project red\) has ended: run `bayctl login` again\n$/,
  );
  t.is((await run(['whoami'], { OS_AUTH_URL: '' })).stderr, ended.stderr);
  // Somebody else's variables do not make it somebody else's context.
  t.is((await run(['whoami'], { ...password, OS_USERNAME: 'bob' })).status, 3);
  t.is((await run(['whoami'], { ...password, OS_PROJECT_NAME: 'blue' })).status, 3);
  const asked = script.asked.length;
  script.status = 503;
  const away = await run(['whoami'], password);
  t.regex(
    away.stderr,
    /has ended and cannot be renewed: Keystone at .* answers with status 503: run `bayctl login` again/,
  );
  t.is(away.status, 6);
  script.status = 201;
  t.is((await run(['whoami'], password)).status, 0);
  t.is((await run(['whoami'], password)).status, 0);
  t.is(script.asked.length, asked + 2);
  t.is((await stat(path.join(home, 'logins', 'red.json'))).mode & 0o777, 0o600);
});

test('a token that is not over yet is used while it cannot be renewed', async (t) => {
  const { home, script, run, plane } = await setUp(t);
  await run(['login', '--context', 'red', '--server', plane.url], { OS_PASSWORD: 'p' });
  const login = (await readLogin(home, 'red')) as Login;
  const near = { ...login, issueTimeMs: Date.now() - 3_600_000, expireTimeMs: Date.now() + 10_000 };
  await writeLogin(home, 'red', near);
  const io = captureIo({ home });
  script.status = 503;
  t.deepEqual(await freshLogin(io, home, 'red', near), near);
  const over = { ...near, expireTimeMs: Date.now() - 1 };
  await writeLogin(home, 'red', over);
  await t.throwsAsync(freshLogin(io, home, 'red', over), { message: /has ended/ });
  // One of a later version is not taken for one of this.
  const strange = { ...over, method: 'constructor' };
  await writeLogin(home, 'red', strange);
  await t.throwsAsync(freshLogin(io, home, 'red', strange), { message: /does not know logins by constructor/ });
});

test('a login is not renewed after a logout, nor over that of somebody else', async (t) => {
  const { home, env, script, run, plane, files } = await setUp(t);
  const io = captureIo({ home, env: { ...env, OS_PASSWORD: 'p' } });
  await run(['login', '--context', 'red', '--server', plane.url], { OS_PASSWORD: 'p' });
  const login = { ...((await readLogin(home, 'red')) as Login), expireTimeMs: Date.now() - 1 };
  script.asked.length = 0;
  await forgetLogin(home, 'red');
  await t.throwsAsync(freshLogin(io, home, 'red', login), { message: /has ended: run/ });
  t.deepEqual([script.asked, await files()], [[], []]);
  const bobs = { ...login, who: 'bob@Default in project red' };
  await writeLogin(home, 'red', bobs);
  await t.throwsAsync(freshLogin(io, home, 'red', login), { message: /alice@Default.* has ended: run/ });
  // Also when that is while it is being renewed.
  await writeLogin(home, 'red', login);
  script.before = () => writeLogin(home, 'red', bobs);
  await t.throwsAsync(freshLogin(io, home, 'red', login), { message: /has ended: run/ });
  t.deepEqual([await readLogin(home, 'red'), await files()], [bobs, ['red.json']]);
});

test('one renews a login for all who want it, and a lock that was left behind hinders nobody', async (t) => {
  const { home, env, script, run, plane, files } = await setUp(t);
  const io = captureIo({ home, env: { ...env, OS_PASSWORD: 'p' } });
  await run(['login', '--context', 'red', '--server', plane.url], { OS_PASSWORD: 'p' });
  const login = { ...((await readLogin(home, 'red')) as Login), expireTimeMs: Date.now() - 1 };
  await writeLogin(home, 'red', login);
  script.asked.length = 0;
  const source = tokenSource(io, home, 'red', login);
  const others = Array.from({ length: 5 }, () => freshLogin(io, home, 'red', login));
  await Promise.all([source(), source(), ...others]);
  t.is(script.asked.length, 1);
  t.deepEqual(await files(), ['red.json']);
  // Who still has the old one takes the new one.
  await freshLogin(io, home, 'red', login);
  t.is(script.asked.length, 1);

  await writeLogin(home, 'red', login);
  const lock = path.join(home, 'logins', 'red.json.lock');
  await writeFile(lock, '');
  await utimes(lock, new Date(), new Date(Date.now() - 3_600_000));
  t.not((await freshLogin(io, home, 'red', login)).expireTimeMs, login.expireTimeMs);
  t.deepEqual(await files(), ['red.json']);
});

test('a logout revokes and forgets, and forgets also what it cannot revoke', async (t) => {
  const { plane, run, script, files } = await setUp(t);
  const login = () => run(['login', '--context', 'red', '--server', plane.url], { OS_PASSWORD: 'p' });
  await login();
  const out = await run(['logout']);
  t.is(out.stdout, `logged out: alice@Default in project red at ${plane.url}\n`);
  t.is(script.asked.at(-1), 'DELETE');
  t.deepEqual(await files(), []);
  t.is((await run(['whoami'])).status, 3);
  t.regex((await run(['logout'])).stderr, /context "red" has no login/);
  await login();
  script.status = 500;
  const failed = await run(['logout', '--context', 'red']);
  t.is(failed.status, 6);
  t.regex(failed.stderr, /forgotten, but not revoked: whoever has the token can use it until \d{4}-/);
  t.deepEqual(await files(), []);
});

test('a file of a login that is none is named', async (t) => {
  const { home, run, plane } = await setUp(t);
  await run(['config', 'set-context', 'red', '--server', plane.url]);
  await mkdir(path.join(home, 'logins'));
  for (const text of ['', 'null', '{}', '{"method":"keystone","server":1}', '[]']) {
    await writeFile(path.join(home, 'logins', 'red.json'), text);
    t.regex((await run(['whoami'])).stderr, /logins\/red\.json is not what `bayctl login` wrote/);
  }
});

test('a password is typed without being shown, and can be mended', async (t) => {
  const type = async (...keys: string[]) => {
    const raw: boolean[] = [];
    const stdin = Object.assign(new PassThrough(), { isTTY: true, setRawMode: (on: boolean) => raw.push(on) });
    const io = { ...captureIo(), stdin };
    const asked = promptSecret(io, 'password of alice');
    for (const key of keys) stdin.write(Buffer.from(key));
    try {
      return { typed: await asked, raw, shown: io.text('stderr') };
    } catch (error) {
      return { error, raw, shown: io.text('stderr') };
    }
  };
  const plain = await type('s', 'ec', 'ret\r');
  t.deepEqual(plain, { typed: 'secret', raw: [true, false], shown: 'Enter the password of alice: \n' });
  t.is((await type('wrong\x15sex\x7fcrét\u{1f511}\n')).typed, 'secrét\u{1f511}');
  const { error, raw } = await type('abc\x03');
  t.like(error, { message: 'interrupted', exitStatus: 130 });
  t.deepEqual(raw, [true, false]);
  t.is(await readSecret(captureIo({ stdin: ' spaces count \r\n' })), ' spaces count ');
  await t.throwsAsync(readSecret(captureIo({ stdin: 'x'.repeat(20_000) })), { message: /too long/ });
});
