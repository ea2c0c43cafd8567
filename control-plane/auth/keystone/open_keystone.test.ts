import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Command } from 'commander';
import { pino } from 'pino';
import { Registry } from 'prom-client';
import { CloudError } from '../../../proto/openstack/errors.ts';
import { UnavailableError } from '../../domain/errors.ts';
import { addKeystoneOptions, readKeystoneOptions } from './keystone_options.ts';
import { openKeystone } from './open_keystone.ts';

/** What the command line makes of these arguments. Throws what it says on stderr. */
function configOf(...args: string[]) {
  const command = addKeystoneOptions(new Command())
    .exitOverride()
    .configureOutput({ writeErr: () => undefined, outputError: () => undefined });
  command.parse(args, { from: 'user' });
  return readKeystoneOptions(command);
}

function open(env: Record<string, string>, ...args: string[]) {
  const config = configOf('--keystone-cloud', env.OS_CLOUD ?? 'envvars', ...args);
  if (!config) throw new Error('there is no Keystone');
  return openKeystone({
    config,
    env: { OS_AUTH_URL: 'http://127.0.0.1:1', OS_USERNAME: 'baykeeper', OS_PASSWORD: 'pass-secret', ...env },
    clock: { now: () => Date.now() },
    log: pino({ level: 'silent' }),
    registry: new Registry(),
  });
}

const refuses = (t: ExecutionContext, call: Promise<unknown>, message: RegExp) =>
  t.throwsAsync(call, { instanceOf: CloudError, message });

test('a Keystone that cannot be trusted, or is none, is said at the start', async (t) => {
  await refuses(t, open({ OS_INSECURE: 'true' }), /give cacert instead of verify: false/);
  await refuses(t, open({ OS_AUTH_URL: 'http://192.0.2.1:5000' }), /tokens would cross the network in clear/);
  await refuses(t, open({ OS_CACERT: '/nowhere/ca.pem' }), /cannot read \/nowhere\/ca\.pem/);
  await refuses(t, open({ OS_USERNAME: '' }), /^OS_USERNAME: expected the name of a user/);
  const server = createServer((_request, response) => void response.writeHead(404).end('<html>'));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => void server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/identity`;
  await refuses(t, open({ OS_AUTH_URL: url }), /cloud envvars: no Keystone v3 answers at .*\/identity\/v3: status 404/);
});

test('one that is away is no reason not to start', async (t) => {
  await using opened = await open({});
  const token = `gAAAAA${'x'.repeat(100)}`;
  await t.throwsAsync(async () => opened.authenticator.authenticate({ token }), { instanceOf: UnavailableError });
});

test('another password in clouds.yaml counts at once, and another address with the next start', async (t) => {
  const domain = { id: 'default', name: 'Default' };
  const user = { id: 'u1', name: 'alice', domain };
  // Its own tokens end as they are issued: there is another one for each question.
  const token = {
    user,
    project: { ...user, id: 'p1' },
    roles: [{ name: 'member' }],
    expires_at: '2020-01-01T00:00:00Z',
  };
  const passwords: string[] = [];
  const server = createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += chunk;
    if (request.method === 'POST') passwords.push(JSON.parse(text).auth.identity.password.user.password);
    const expires_at = request.method === 'POST' ? token.expires_at : '9999-01-01T00:00:00Z';
    const answer = JSON.stringify({ token: { ...token, expires_at } });
    response.writeHead(request.method === 'POST' ? 201 : 200, { 'x-subject-token': 'own' }).end(answer);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const home = await mkdtemp(path.join(tmpdir(), 'open-keystone-'));
  t.teardown(async () => {
    server.close();
    await rm(home, { recursive: true });
  });
  const file = path.join(home, 'clouds.yaml');
  const say = (auth_url: string, password: string) =>
    writeFile(file, JSON.stringify({ clouds: { own: { auth: { auth_url, username: 'baykeeper', password } } } }));
  await say(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, 'first');
  await using opened = await open({ OS_CLOUD: 'own' }, '--keystone-clouds-file', file, '--keystone-timeout', '500ms');
  await say('http://192.0.2.1:5000', 'second');
  const alice = await opened.authenticator.authenticate({ token: `gAAAAA${'x'.repeat(100)}` });
  t.like(alice, { subject: 'alice@Default' });
  t.deepEqual(passwords, ['first', 'second']);
});

test('what is said on the command line is read strictly', (t) => {
  t.is(configOf(), undefined);
  t.like(configOf('--keystone-cloud', 'own', '--keystone-cache', '5m'), {
    cloud: 'own',
    cacheMs: 300_000,
    timeoutMs: 5_000,
  });
  const roles = configOf('--keystone-cloud', 'own', '--keystone-roles', 'Operator=member, auditor=reader')?.roleNames;
  t.deepEqual(
    [...(roles ?? [])],
    [
      ['operator', 'member'],
      ['auditor', 'reader'],
    ],
  );
  for (const [args, message] of [
    [['--keystone-roles', 'operator'], /"operator" is not a pair such as operator=member/],
    [['--keystone-roles', 'operator=owner'], /is not a pair/],
    [['--keystone-cache', '1ms'], /the life of an answer must be a duration/],
    [['--keystone-clouds-file', '/x'], /goes with --keystone-cloud/],
  ] as const) {
    t.throws(() => configOf(...args), { message });
  }
});
