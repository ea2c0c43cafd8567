import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
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
  const config = configOf('--keystone-cloud', 'envvars', ...args);
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
