import { readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { bayctl, bayctlEnvironment, bayctlPath } from '../harness/bayctl.ts';
import { type ControlPlane, startControlPlane } from '../harness/control_plane.ts';
import { password } from '../harness/keystone/api.ts';
import { type Keystone, startKeystone } from '../harness/keystone/keystone.ts';
import { Program, run } from '../harness/program.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';

let keystone: Keystone;
let controlPlane: ControlPlane;

test.before(async () => {
  keystone = await startKeystone();
  controlPlane = await startControlPlane({
    args: ['--keystone-cloud', 'envvars', '--keystone-cache', '1s'],
    env: { OS_AUTH_URL: keystone.url, OS_USERNAME: 'baykeeper', OS_PASSWORD: password, OS_PROJECT_NAME: 'service' },
  });
});

test.after.always(async () => {
  await controlPlane?.[Symbol.asyncDispose]();
  await keystone?.[Symbol.asyncDispose]();
});

/** A user's home, in which bayctl knows nothing yet. */
async function newHome(t: ExecutionContext) {
  const folder = await temporaryFolder('login');
  t.teardown(() => folder[Symbol.asyncDispose]());
  const env = {
    HOME: folder.path,
    XDG_CONFIG_HOME: undefined,
    BAYCTL_CONFIG: path.join(folder.path, 'config.yaml'),
    BAYKEEPER_TOKEN: undefined,
    BAYKEEPER_SERVER: undefined,
  };
  const type = (args: readonly string[], more: Record<string, string> = {}, input?: string) =>
    bayctl(controlPlane, args, { env: { ...env, ...more }, cwd: folder.path, input });
  return { folder: folder.path, env, type };
}

const user = (name: string, project: string) => ({
  OS_AUTH_URL: keystone.url,
  OS_USERNAME: name,
  OS_PROJECT_NAME: project,
  OS_USER_DOMAIN_NAME: 'Default',
  OS_PROJECT_DOMAIN_NAME: 'Default',
  OS_IDENTITY_API_VERSION: '3',
});

const loginTo = (...more: string[]) => ['login', '--server', controlPlane.url, ...more];

test.serial(
  'bayctl login by the OS_* variables: two projects in two contexts, revoked and forgotten by a logout',
  async (t) => {
    const { type, folder } = await newHome(t);
    const red = await type(loginTo('--context', 'red', '--password-stdin'), user('carol', 'red'), `${password}\n`);
    t.is(red.code, 0, red.stderr);
    t.regex(red.stdout, /as carol@Default in project red, role reader, until /);
    const blue = await type(loginTo('--context', 'blue'), { ...user('carol', 'blue'), OS_PASSWORD: password });
    t.is(blue.code, 0, blue.stderr);
    for (const [context, role] of [
      ['red', 'reader'],
      ['blue', 'member'],
    ] as const) {
      const me = JSON.parse((await type(['whoami', '--context', context, '-o', 'json'])).stdout);
      t.like(me, { subject: 'carol@Default', role, project: keystone.projects[context] });
    }
    const made = await type(['bay', 'create', 'edge', '--engine', 'docker', '--context', 'red']);
    t.is(made.code, 3, made.stderr);

    const kept = JSON.parse(await readFile(path.join(folder, 'logins', 'red.json'), 'utf8'));
    t.is((await type(['logout', '--context', 'red'])).code, 0);
    t.deepEqual(await readdir(path.join(folder, 'logins')), ['blue.json']);
    const headers = { 'x-subject-token': kept.token };
    t.is((await keystone.request('GET', '/auth/tokens', { headers })).status, 404);
    t.is((await type(['whoami', '--context', 'red'])).code, 3);
    t.is((await type(['whoami', '--context', 'blue'])).code, 0);
  },
);

test.serial('bayctl login by clouds.yaml: password of secure.yaml, application credential, and token', async (t) => {
  const { type, folder } = await newHome(t);
  const own = await keystone.token('alice');
  const { body } = await keystone.request('POST', `/users/${keystone.users.alice}/application_credentials`, {
    token: own,
    body: { application_credential: { name: 'laptop' } },
  });
  const { id, secret } = body.application_credential;
  const auth_url = keystone.url;
  const clouds = {
    red: { auth: { auth_url, username: 'alice', project_name: 'red' }, region_name: 'RegionOne' },
    robot: {
      auth_type: 'v3applicationcredential',
      auth: { auth_url, application_credential_id: id, application_credential_secret: secret },
    },
    other: { auth_type: 'token', auth: { auth_url, token: own, project_id: keystone.projects.red } },
  };
  await writeFile(path.join(folder, 'clouds.yaml'), JSON.stringify({ clouds }));
  await writeFile(path.join(folder, 'secure.yaml'), JSON.stringify({ clouds: { red: { auth: { password } } } }));
  for (const cloud of Object.keys(clouds)) {
    const login = await type(loginTo('--os-cloud', cloud, '--context', `by-${cloud}`));
    t.is(login.code, 0, `${cloud}: ${login.stderr}`);
    t.regex(login.stdout, /as alice@Default in project red, role member, until .*context by-\w+ is made and in use/);
    t.is((await type(['get', 'bays'])).code, 0);
  }
  const text = await readFile(path.join(folder, 'logins', 'by-robot.json'), 'utf8');
  t.false(text.includes(secret) || text.includes(password));
});

test.serial('on a terminal the password is asked for, and not shown', async (t) => {
  const { env } = await newHome(t);
  const command = `${bayctlPath} login --server ${controlPlane.url}`;
  const outcome = await run(['script', '-qec', command, '/dev/null'], {
    env: { ...env, ...user('alice', 'red'), BAYKEEPER_HOME: path.join(env.HOME, 'no-home'), NO_COLOR: '1' },
    input: `${password}\r`,
  });
  t.is(outcome.code, 0, outcome.stdout);
  t.regex(outcome.stdout, /Enter the password of alice: /);
  t.regex(outcome.stdout, /logged in to .* as alice@Default/);
  // The terminal itself shows what comes before it is asked not to: so it is with every program.
  t.notRegex(outcome.stdout.slice(outcome.stdout.indexOf('Enter')), new RegExp(password));
});

test.serial(
  'a short token is renewed by the next command while the credentials are at hand, and else it says so',
  async (t) => {
    const { type, env, folder } = await newHome(t);
    const seen = new Set<string>();
    /** The tokens that were kept so far. */
    const renewals = async () => {
      const [file = ''] = await readdir(path.join(folder, 'logins'));
      return seen.add(JSON.parse(await readFile(path.join(folder, 'logins', file), 'utf8')).token);
    };
    await keystone.stop();
    await keystone.start({ tokenTtlSeconds: 4 });
    const alice = { ...user('alice', 'red'), OS_PASSWORD: password };
    t.is((await type(loginTo(), alice)).code, 0);
    const ended = await until(
      'the login has ended',
      async () => {
        const outcome = await type(['whoami']);
        return /has ended/.test(outcome.stderr) ? outcome : undefined;
      },
      { intervalMs: 500 },
    );
    t.is(ended.code, 3);
    t.regex(ended.stderr, /\(alice@Default in project red\) has ended: run `bayctl login` again/);
    t.is((await type(['whoami'], alice)).code, 0);

    // One command may last longer than a token does.
    const watching = new Program({
      command: [bayctlPath, 'get', 'bays', '--watch', '-o', 'name'],
      env: { ...bayctlEnvironment(controlPlane), ...env, ...alice },
      cwd: folder,
    });
    await watching.start();
    try {
      await renewals();
      await until('its token has been renewed', async () => (await renewals()).size >= 2);
      t.true(watching.running, watching.output);
      await type(['bay', 'create', 'late', '--engine', 'docker'], alice);
      await until('it shows what is new', () => watching.output.includes('bay/late'));
    } finally {
      await watching.stop();
    }

    await keystone.change('PATCH', `/users/${keystone.users.alice}`, { user: { enabled: false } });
    const disabled = await until(
      'the disabled user is not renewed',
      async () => {
        const outcome = await type(['whoami'], alice);
        return /cannot be renewed/.test(outcome.stderr) ? outcome : undefined;
      },
      { intervalMs: 500 },
    );
    t.regex(
      disabled.stderr,
      /cannot be renewed: Keystone does not know these credentials, or not for this project: run `bayctl login` again/,
    );
  },
);
