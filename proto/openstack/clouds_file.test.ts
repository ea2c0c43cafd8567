import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { inspect } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { findCloud } from './clouds_file.ts';
import { CloudError } from './errors.ts';

async function setUp(t: ExecutionContext, files: Record<string, string> = {}) {
  const root = await mkdtemp(path.join(tmpdir(), 'clouds-'));
  t.teardown(() => rm(root, { recursive: true }));
  for (const [name, text] of Object.entries(files)) {
    await mkdir(path.dirname(path.join(root, name)), { recursive: true });
    await writeFile(path.join(root, name), text);
  }
  const place = { home: path.join(root, 'home'), cwd: path.join(root, 'here') };
  return {
    root,
    find: (env: Record<string, string> = {}, cloud?: string) => findCloud({ ...place, env, cloud }),
  };
}

const auth = (name: string) =>
  `{auth_url: 'https://${name}.test:5000', username: alice, password: p, project_name: red}`;
const fails = (t: ExecutionContext, call: Promise<unknown>, message: RegExp) =>
  t.throwsAsync(call, { instanceOf: CloudError, message });

test('the OS_* variables are a cloud', async (t) => {
  const { find } = await setUp(t);
  const env = {
    OS_AUTH_URL: 'https://keystone.test:5000/v3/',
    OS_USERNAME: 'alice',
    OS_PASSWORD: 'secret',
    OS_USER_DOMAIN_NAME: 'Users',
    OS_PROJECT_NAME: 'red',
    OS_PROJECT_DOMAIN_ID: 'd1',
    OS_REGION_NAME: 'RegionOne',
    OS_INTERFACE: 'internalURL',
    OS_CACERT: '/etc/ca.pem',
    OS_IDENTITY_API_VERSION: '3',
  };
  t.deepEqual(await find(env), {
    name: 'envvars',
    authUrl: 'https://keystone.test:5000/v3',
    credential: { kind: 'password', user: { name: 'alice', domain: { name: 'Users' } }, password: 'secret' },
    scope: { kind: 'project', project: { name: 'red', domain: { id: 'd1' } } },
    region: 'RegionOne',
    interface: 'internal',
    tls: { caFile: '/etc/ca.pem', verify: true },
  });
  const { OS_PASSWORD: _password, ...without } = env;
  t.like(await find(without), { credential: { kind: 'password', password: undefined } });
  t.like(await find({ ...env, OS_INSECURE: 'True' }), { tls: { verify: false } });
});

test('each kind of credential and scope', async (t) => {
  const { find } = await setUp(t);
  const cloud = (env: Record<string, string>) => find({ OS_AUTH_URL: 'http://k.test/identity', ...env });
  t.is((await cloud({ OS_TOKEN: 'x' })).authUrl, 'http://k.test/identity/v3');
  for (const [env, credential] of [
    [{ OS_TOKEN: 'x' }, { kind: 'token', token: 'x' }],
    [
      { OS_AUTH_TYPE: 'v3token', OS_TOKEN: 'x', OS_PASSWORD: 'p' },
      { kind: 'token', token: 'x' },
    ],
    [
      { OS_APPLICATION_CREDENTIAL_ID: 'i', OS_APPLICATION_CREDENTIAL_SECRET: 's' },
      { kind: 'applicationCredential', credential: { id: 'i' }, secret: 's' },
    ],
    [
      { OS_AUTH_TYPE: 'v3applicationcredential', OS_APPLICATION_CREDENTIAL_NAME: 'n', OS_USERNAME: 'alice' },
      {
        kind: 'applicationCredential',
        credential: { name: 'n', user: { name: 'alice', domain: { id: 'default' } } },
        secret: undefined,
      },
    ],
    [
      { OS_USER_ID: 'u', OS_USERNAME: 'alice' },
      { kind: 'password', user: { id: 'u' }, password: undefined },
    ],
  ] as const) {
    t.deepEqual((await cloud(env)).credential, credential);
  }
  for (const [env, scope] of [
    [{ OS_PROJECT_ID: 'p' }, { kind: 'project', project: { id: 'p' } }],
    [{ OS_TENANT_NAME: 'p' }, { kind: 'project', project: { name: 'p', domain: { id: 'default' } } }],
    [
      { OS_PROJECT_NAME: 'p', OS_DEFAULT_DOMAIN: 'd' },
      { kind: 'project', project: { name: 'p', domain: { id: 'd' } } },
    ],
    [{ OS_DOMAIN_NAME: 'd' }, { kind: 'domain', domain: { name: 'd' } }],
    [
      { OS_TRUST_ID: 't', OS_PROJECT_ID: 'p' },
      { kind: 'trust', id: 't' },
    ],
    [{ OS_SYSTEM_SCOPE: 'all' }, { kind: 'system' }],
    [{}, { kind: 'unscoped' }],
  ] as const) {
    t.deepEqual((await cloud({ OS_USERNAME: 'alice', ...env })).scope, scope);
  }
});

test('clouds.yaml is found where the openstack client finds it, and the first one counts', async (t) => {
  const { find, root } = await setUp(t, {
    'here/clouds.yaml': `clouds: {one: {auth: ${auth('here')}}}`,
    'home/.config/openstack/clouds.yml': `clouds: {one: {auth: ${auth('home')}}, two: {auth: ${auth('two')}}}`,
    'other.json': '{"clouds":{"three":{"auth":{"auth_url":"https://other.test/v3","token":"x"}}}}',
  });
  t.is((await find()).authUrl, 'https://here.test:5000/v3');
  await rm(path.join(root, 'here'), { recursive: true });
  t.is((await find({}, 'one')).authUrl, 'https://home.test:5000/v3');
  t.is((await find({ OS_CLOUD: 'two' })).authUrl, 'https://two.test:5000/v3');
  t.is((await find({ OS_CLOUD: 'two' }, 'one')).authUrl, 'https://home.test:5000/v3');
  await fails(t, find(), /has several clouds: say which \(one, two\)/);
  await fails(t, find({}, 'three'), /clouds\.yml: there is no cloud "three"; there are: one, two/);
  const given = { OS_CLIENT_CONFIG_FILE: path.join(root, 'other.json') };
  t.is((await find(given)).authUrl, 'https://other.test/v3');
  // Variables are a cloud of their own, and not mixed into one that is named.
  const variables = { OS_AUTH_URL: 'https://env.test/v3', OS_USERNAME: 'bob' };
  t.is((await find(variables)).authUrl, 'https://env.test/v3');
  t.like(await find({ ...variables, OS_CLOUD: 'one' }), { authUrl: 'https://home.test:5000/v3', name: 'one' });
  t.is((await find({ ...variables, OS_CLOUD: 'one' }, 'envvars')).authUrl, 'https://env.test/v3');
  await fails(t, find({ OS_CLIENT_CONFIG_FILE: '/nowhere' }), /cannot read \/nowhere/);
  await fails(t, (await setUp(t)).find(), /neither a clouds\.yaml nor OS_AUTH_URL/);
  await fails(t, (await setUp(t)).find({}, 'one'), /no clouds\.yaml to find the cloud "one" in/);
});

test('secrets may be elsewhere, and a profile says what many clouds share', async (t) => {
  const { find, root } = await setUp(t, {
    'here/clouds.yaml': `clouds:
  one: {profile: vendor, auth: {username: alice, project_id: 12345}, regions: [east, {name: west, values: {interface: internal}}]}
  lost: {profile: other, auth: {username: alice}}`,
    'home/.config/openstack/secure.yaml': 'clouds: {one: {auth: {password: kept}}}',
    'home/.config/openstack/clouds-public.yaml':
      'public-clouds: {vendor: {auth: {auth_url: "https://vendor.test/v3", user_domain_name: People}, cacert: /ca}}',
  });
  t.deepEqual(await find({}, 'one'), {
    name: 'one',
    file: path.join(root, 'here/clouds.yaml'),
    authUrl: 'https://vendor.test/v3',
    credential: { kind: 'password', user: { name: 'alice', domain: { name: 'People' } }, password: 'kept' },
    scope: { kind: 'project', project: { id: '12345' } },
    region: 'east',
    interface: undefined,
    tls: { caFile: '/ca', verify: true },
  });
  t.like(await find({ OS_REGION_NAME: 'west' }, 'one'), { region: 'west', interface: 'internal' });
  await fails(t, find({ OS_REGION_NAME: 'north' }, 'one'), /no region "north"; there are: east, west/);
  await fails(t, find({}, 'lost'), /clouds\.lost\.profile: "other" is not in a clouds-public\.yaml/);

  const bare = await setUp(t, {
    'here/clouds.yaml': 'clouds: {one: {auth: {auth_url: "https://k.test", username: alice}}}',
  });
  t.like(await bare.find({ OS_PASSWORD: 'given' }, 'one'), { credential: { password: 'given' } });
});

test('what the openstack client makes of what is written otherwise, is made of it here', async (t) => {
  const { find, root } = await setUp(t, {
    'here/clouds.yaml': `
shared: &shared {auth_url: 'https://k.test:5000', username: alice, user_domain_name: Users}
clouds:
  merged: {auth: {<<: *shared, password: p, project_name: red}, cacert: ~/ca.pem, cert: own.pem}
  digits: {auth: {<<: *shared, password: 0123, project_id: 12345678901234567890123456789012}}
  powers: {auth: {<<: *shared, password: 12e34, project_id: 1234567890123456789012345678e901}}
  beside: {auth: {auth_url: 'https://k.test:5000', password: p}, username: alice, project_name: red}
  hyphens: {auth: {auth-url: 'https://k.test:5000', username: alice, project-name: red}, region-name: one}
  domain: {auth: {auth_url: 'https://k.test:5000', username: alice, project_name: red, domain_name: D}}
  domains: {auth: {<<: *shared, project_name: red, domain_id: d1}}
  token: {auth: {auth_url: 'https://k.test:5000', token: abc}}
  half: {auth: {auth_url: 'https://k.test:5000', user_domain_name: Users}}
  robot: {auth: {auth_url: 'https://k.test:5000', application_credential_id: i}}`,
  });
  const user = { name: 'alice', domain: { name: 'Users' } };
  t.like(await find({}, 'merged'), {
    credential: { user, password: 'p' },
    tls: { caFile: path.join(root, 'home/ca.pem'), certFile: path.join(root, 'here/own.pem') },
  });
  for (const [name, password, id] of [
    ['digits', '0123', '12345678901234567890123456789012'],
    ['powers', '12e34', '1234567890123456789012345678e901'],
  ] as const) {
    t.like(await find({}, name), { credential: { password }, scope: { project: { id } } });
  }
  const alice = { name: 'alice', domain: { id: 'default' } };
  const red = { name: 'red', domain: { id: 'default' } };
  t.like(await find({}, 'beside'), { credential: { user: alice }, scope: { kind: 'project', project: red } });
  t.like(await find({}, 'hyphens'), { credential: { user: alice }, scope: { project: red }, region: 'one' });
  const domain = { name: 'D' };
  t.like(await find({}, 'domain'), {
    credential: { user: { name: 'alice', domain } },
    scope: { kind: 'project', project: { name: 'red', domain } },
  });
  t.like(await find({}, 'domains'), { credential: { user }, scope: { project: { domain: { id: 'd1' } } } });
  // What is left out may be in the variables; what is said counts.
  const carol = { OS_USERNAME: 'carol', OS_PROJECT_ID: 'p2', OS_PROJECT_DOMAIN_NAME: 'Projects' };
  t.like(await find(carol, 'half'), {
    credential: { user: { name: 'carol', domain: { name: 'Users' } } },
    scope: { kind: 'project', project: { id: 'p2' } },
  });
  t.like(await find({ OS_PROJECT_NAME: 'blue', OS_PROJECT_DOMAIN_NAME: 'Projects' }, 'token'), {
    scope: { kind: 'project', project: { name: 'blue', domain: { name: 'Projects' } } },
  });
  t.like(await find({ ...carol, OS_USER_ID: 'u2' }, 'hyphens'), {
    credential: { user: alice },
    scope: { project: red },
  });
  t.like(await find(carol, 'robot'), { scope: { kind: 'unscoped' } });
  // Secrets of another kind than this cloud's are for another cloud.
  const secrets = { OS_PASSWORD: 'p', OS_APPLICATION_CREDENTIAL_SECRET: 's' };
  t.like(await find(secrets, 'hyphens'), { credential: { kind: 'password', password: 'p' } });
  t.like(await find(secrets, 'token'), { credential: { kind: 'token', token: 'abc' } });
  t.like(await find(secrets, 'robot'), { credential: { kind: 'applicationCredential', secret: 's' } });
});

test('what cannot be is named, without the secret', async (t) => {
  const { find } = await setUp(t);
  for (const [env, message] of [
    [{ OS_AUTH_URL: 'keystone.test' }, /^OS_AUTH_URL: expected the address of Keystone/],
    [{ OS_AUTH_URL: 'https://a:b@keystone.test' }, /^OS_AUTH_URL: expected/],
    [{ OS_AUTH_URL: 'https://keystone.test/v2.0' }, /^OS_AUTH_URL: this is version 2/],
    [{ OS_IDENTITY_API_VERSION: '2.0' }, /^OS_IDENTITY_API_VERSION: version 3 is spoken here/],
    [{ OS_USERNAME: '' }, /^OS_USERNAME: expected the name of a user/],
    [{ OS_AUTH_TYPE: 'v3oidcpassword' }, /^OS_AUTH_TYPE: expected password, .* not v3oidcpassword/],
    [{ OS_AUTH_TYPE: 'token' }, /^OS_TOKEN: expected a token/],
    [{ OS_INTERFACE: 'private' }, /^OS_INTERFACE: expected public/],
    [{ OS_INSECURE: 'maybe' }, /^OS_INSECURE: expected true or false/],
  ] as const) {
    const base = { OS_AUTH_URL: 'https://k.test', OS_USERNAME: 'alice', OS_PASSWORD: 'pass-secret' };
    const error = await fails(t, find({ ...base, ...env }), message);
    t.notRegex(error?.message ?? '', /pass-secret/);
  }
  for (const [text, message] of [
    ['clouds: [', /clouds\.yaml is not YAML: \w+ in line 1$/],
    ['clouds:\n  one: {auth: {password: pass-secret: x}}', /clouds\.yaml is not YAML: \w+ in line 2$/],
    ['clouds: {one: {auth: {password: *pass-secret}}}', /clouds\.yaml is not YAML/],
    ['clouds: {one: {auth: {password: !vault pass-secret}}}', /auth_url: expected the address/],
    ['clouds: []', /clouds: expected a mapping/],
    ['clouds: {one: []}', /clouds\.one: expected a mapping/],
    ['clouds: {one: {auth: {auth_url: {}}}}', /clouds\.one\.auth\.auth_url: expected a string/],
    ['clouds: {one: {regions: 3}}', /clouds\.one\.regions: expected a list/],
    [`clouds: {one: {interface: x, auth: ${auth('k')}}}`, /clouds\.one\.interface: expected public/],
  ] as const) {
    const error = await fails(t, (await setUp(t, { 'here/clouds.yaml': text })).find({}, 'one'), message);
    // With its causes, as a log shows it.
    t.notRegex(inspect(error), /pass-secret/);
  }
});
