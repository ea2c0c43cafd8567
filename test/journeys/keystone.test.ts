import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { request as plainRequest } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { Code, ConnectError, createClient, type Interceptor } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport } from '@connectrpc/connect-node';
import test, { type ExecutionContext } from 'ava';
import { AuditService } from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { SystemService } from '../../proto/gen/baykeeper/v1/system_service_pb.js';
import { WatchEventType } from '../../proto/gen/baykeeper/v1/watch_pb.js';
import { type ControlPlane, type ControlPlaneOptions, startControlPlane } from '../harness/control_plane.ts';
import { password } from '../harness/keystone/api.ts';
import { type Keystone, startKeystone } from '../harness/keystone/keystone.ts';
import { createAuthority } from '../harness/kubernetes/certificates.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';

/** One Keystone for all of this file: tests make what they change in it. */
let keystone: Keystone;
let controlPlane: ControlPlane;
const cacheMs = 1_000;

test.before(async () => {
  keystone = await startKeystone();
  controlPlane = await startFor(keystone.url);
});

test.after.always(async () => {
  await controlPlane?.[Symbol.asyncDispose]();
  await keystone?.[Symbol.asyncDispose]();
});

/** The `OS_*` variables of the user that validates tokens. */
const service = (url: string, more: Record<string, string> = {}) => ({
  OS_AUTH_URL: url,
  OS_USERNAME: 'baykeeper',
  OS_PASSWORD: password,
  OS_PROJECT_NAME: 'service',
  ...more,
});

function startFor(url: string, args: readonly string[] = [], options: ControlPlaneOptions = {}): Promise<ControlPlane> {
  return startControlPlane({
    ...options,
    args: ['--keystone-cloud', 'envvars', '--keystone-cache', `${cacheMs}ms`, ...args],
    env: { ...service(url), ...options.env },
  });
}

/** The API as somebody with this token. `header`: default as the clients of OpenStack send it. */
function as(token: string, plane: ControlPlane = controlPlane, header = 'x-auth-token', protocol = 'connect') {
  const identify: Interceptor = (next) => (request) => {
    request.header.set(header, header === 'authorization' ? `Bearer ${token}` : token);
    return next(request);
  };
  const common = { baseUrl: plane.url, interceptors: [identify] };
  const transport =
    protocol === 'grpc' ? createGrpcTransport(common) : createConnectTransport({ ...common, httpVersion: '2' });
  return { system: createClient(SystemService, transport), bays: createClient(BayService, transport) };
}

const whoAmI = (token: string, plane?: ControlPlane) => as(token, plane).system.whoAmI({});

async function refusal(t: ExecutionContext, call: Promise<unknown>): Promise<ConnectError> {
  return t.throwsAsync(call, { instanceOf: ConnectError }) as Promise<ConnectError>;
}

/** A user of this test alone, with roles in red. */
async function newUser(name: string, role: 'member' | 'reader' = 'member') {
  const { user } = await keystone.change('POST', '/users', { user: { name, password } });
  await keystone.change('PUT', `/projects/${keystone.projects.red}/users/${user.id}/roles/${keystone.roles[role]}`);
  const login = (scope: object = { project: { name: 'red', domain: { id: 'default' } } }) =>
    keystone.issue({ identity: { methods: ['password'], password: { user: { id: user.id, password } } }, scope });
  return { id: user.id as string, login, token: await login() };
}

const bay = (name: string) => ({ bay: { metadata: { name }, spec: { containerEngine: ContainerEngine.DOCKER } } });

test.serial(
  'users of Keystone are who they are, in their project, with their role, by header or metadata',
  async (t) => {
    const { projects } = keystone;
    for (const [user, scope, role] of [
      ['alice', 'red', 'member'],
      ['bob', 'blue', 'member'],
      ['rita', 'red', 'reader'],
      ['carol', 'red', 'reader'],
      ['carol', 'blue', 'member'],
      ['admin', 'admin', 'admin'],
    ] as const) {
      const token = await keystone.token(user, { project: scope });
      for (const protocol of ['connect', 'grpc']) {
        for (const header of ['x-auth-token', 'authorization']) {
          const me = await as(token, controlPlane, header, protocol).system.whoAmI({});
          const how = `${user} in ${scope} by ${header} of ${protocol}`;
          t.like(me, { subject: `${user}@Default`, project: projects[scope], role }, how);
        }
      }
    }
  },
);

test.serial('what is made in one project is not there for the other, and a reader may only read', async (t) => {
  const [alice, bob, rita] = await Promise.all([
    keystone.token('alice'),
    keystone.token('bob', { project: 'blue' }),
    keystone.token('rita'),
  ]);
  await as(alice).bays.createBay(bay('edge'));
  t.is((await as(rita).bays.getBay({ name: 'edge' })).bay?.metadata?.project, keystone.projects.red);
  t.is((await refusal(t, as(bob).bays.getBay({ name: 'edge' }))).code, Code.NotFound);
  t.deepEqual((await as(bob).bays.listBays({})).bays, []);
  t.is((await refusal(t, as(rita).bays.createBay(bay('other')))).code, Code.PermissionDenied);
});

test.serial('a token that is for no project, or gives no role, is refused with the reason', async (t) => {
  for (const [token, reason] of [
    [
      await keystone.token('admin', { domain: 'Default' }),
      /admin@Default is for a domain: ask Keystone for one of a project/,
    ],
    [await keystone.token('admin', 'system'), /is for the system/],
    [await keystone.token('alice', 'unscoped'), /is unscoped/],
    [await keystone.token('oscar'), /oscar@Default has none of the roles admin, member, reader in project red/],
  ] as const) {
    const error = await refusal(t, whoAmI(token));
    t.is(error.code, Code.PermissionDenied);
    t.regex(error.rawMessage, reason);
  }
  for (const token of [
    'gAAAAA-nonsense-that-looks-like-a-token-of-keystone',
    'nonsense',
    await controlPlaneTokenOfOther(),
  ]) {
    t.is((await refusal(t, whoAmI(token))).code, Code.Unauthenticated);
  }
});

/** Of the form that Keystone knows, but of another Keystone's keys. */
async function controlPlaneTokenOfOther(): Promise<string> {
  const token = await keystone.token('alice');
  return `${token.slice(0, -4)}AAAA`;
}

test.serial('a revoked token is nobody once the answer is as old as it may be', async (t) => {
  const [token, other] = [await keystone.token('alice'), await keystone.token('alice')];
  t.is((await whoAmI(token)).subject, 'alice@Default');
  await keystone.request('DELETE', '/auth/tokens', { token, headers: { 'x-subject-token': token } });
  await until('it is nobody', async () => (await codeOf(whoAmI(token))) === Code.Unauthenticated);
  t.is((await whoAmI(other)).subject, 'alice@Default');
});

const codeOf = (call: Promise<unknown>): Promise<Code | undefined> =>
  call.then(
    () => undefined,
    (error: unknown) => ConnectError.from(error).code,
  );

test.serial(
  'a user who is disabled, or loses the role, or whose project is disabled, is nobody, and somebody again after',
  async (t) => {
    const user = await newUser('dora');
    const { project } = await keystone.change('POST', '/projects', { project: { name: 'green' } });
    await keystone.change('PUT', `/projects/${project.id}/users/${user.id}/roles/${keystone.roles.member}`);
    const green = await user.login({ project: { id: project.id } });
    t.is((await whoAmI(green)).project, project.id);
    t.is((await whoAmI(user.token)).project, keystone.projects.red);

    const nobody = (what: string, token: string) =>
      until(what, async () => (await codeOf(whoAmI(token))) === Code.Unauthenticated);
    await keystone.change('PATCH', `/projects/${project.id}`, { project: { enabled: false } });
    await nobody('the project is disabled', green);
    t.is((await whoAmI(user.token)).role, 'member');
    await keystone.change(
      'DELETE',
      `/projects/${keystone.projects.red}/users/${user.id}/roles/${keystone.roles.member}`,
    );
    await nobody('the role is gone', user.token);
    await keystone.change('PATCH', `/projects/${project.id}`, { project: { enabled: true } });
    const again = await user.login({ project: { id: project.id } });
    t.is((await whoAmI(again)).project, project.id);
    await keystone.change('PATCH', `/users/${user.id}`, { user: { enabled: false } });
    await nobody('the user is disabled', again);
  },
);

test.serial(
  'open streams end within five seconds of a revoked token, a disabled user, or a disabled project, and no others do',
  async (t) => {
    const { project } = await keystone.change('POST', '/projects', { project: { name: 'short-lived' } });
    const [revoked, disabled, inProject] = [await newUser('heidi'), await newUser('ivan'), await newUser('judy')];
    const role = keystone.roles.member;
    await keystone.change('PUT', `/projects/${project.id}/users/${inProject.id}/roles/${role}`);
    const projectToken = await inProject.login({ project: { id: project.id } });
    const watches = [revoked.token, disabled.token, projectToken].map((token) => watch(token));
    const other = watch(inProject.token);
    await Promise.all([...watches, other].map(({ synced }) => synced));

    const beganMs = performance.now();
    await Promise.all([
      keystone.request('DELETE', '/auth/tokens', {
        token: revoked.token,
        headers: { 'x-subject-token': revoked.token },
      }),
      keystone.change('PATCH', `/users/${disabled.id}`, { user: { enabled: false } }),
      keystone.change('PATCH', `/projects/${project.id}`, { project: { enabled: false } }),
    ]);
    for (const { ended } of watches) {
      const { code, atMs } = await ended;
      t.is(code, Code.Unauthenticated);
      t.true(atMs - beganMs < 5_000, `${atMs - beganMs} ms`);
    }
    t.false(other.isOver());
    const { records } = await controlPlane.client(AuditService).listAuditRecords({ filter: { method: 'WatchBays' } });
    const ended = records.map(({ kind, code, subject, project: of }) => [kind, code, subject, of].join());
    const { red } = keystone.projects;
    t.deepEqual(ended.sort(), [
      `system,stream_ended,heidi@Default,${red}`,
      `system,stream_ended,ivan@Default,${red}`,
      `system,stream_ended,judy@Default,${project.id}`,
    ]);
    other.cancel();
    await other.ended;
  },
);

/** A watch of bays that is open for as long as it may be. */
function watch(token: string) {
  const cancelling = new AbortController();
  const synced = Promise.withResolvers<void>();
  let over = false;
  const read = async (): Promise<{ code: Code | undefined; atMs: number }> => {
    let code: Code | undefined;
    try {
      for await (const { type } of as(token).bays.watchBays({}, { signal: cancelling.signal })) {
        if (type === WatchEventType.SYNCED) synced.resolve();
      }
    } catch (error) {
      code = ConnectError.from(error).code;
      synced.reject(error);
    }
    over = true;
    return { code, atMs: performance.now() };
  };
  return { synced: synced.promise, ended: read(), isOver: () => over, cancel: () => cancelling.abort() };
}

test.serial(
  'an application credential stands for its user in its project, and its tokens end when it does',
  async (t) => {
    // Its answers are good for longer than the test lasts.
    await using plane = await startFor(keystone.url, ['--keystone-cache', '5m']);
    const { id, token } = await newUser('erin');
    const { body } = await keystone.request('POST', `/users/${id}/application_credentials`, {
      token,
      body: {
        application_credential: {
          name: 'robot',
          roles: [{ name: 'reader' }],
          // In UTC, and without saying so: Keystone gives it back like that, too.
          expires_at: new Date(Date.now() + 6_000).toISOString().slice(0, -1),
        },
      },
    });
    const { id: credential, secret } = body.application_credential;
    const robot = await keystone.issue({
      identity: { methods: ['application_credential'], application_credential: { id: credential, secret } },
    });
    t.like(await whoAmI(robot, plane), { subject: 'erin@Default', project: keystone.projects.red, role: 'reader' });
    const expireMs = Date.parse(`${body.application_credential.expires_at}Z`);
    await until('the token is over', async () => (await codeOf(whoAmI(robot, plane))) === Code.Unauthenticated);
    t.true(Date.now() > expireMs - 500, `${Date.now() - expireMs} ms after its end`);
  },
);

test.serial('an application credential with access rules lets nobody in: they are about other services', async (t) => {
  const { id, token } = await newUser('nina');
  const rules = [{ service: 'compute', method: 'GET', path: '/v2.1/servers' }];
  const { body } = await keystone.request('POST', `/users/${id}/application_credentials`, {
    token,
    body: { application_credential: { name: 'narrow', access_rules: rules } },
  });
  const { id: credential, secret } = body.application_credential;
  const narrow = await keystone.issue({
    identity: { methods: ['application_credential'], application_credential: { id: credential, secret } },
  });
  t.is(await codeOf(whoAmI(narrow)), Code.Unauthenticated);
});

test.serial(
  'a trust lets the trustee be the trustor in a project, with the roles that were lent, until it is taken back',
  async (t) => {
    const [trustor, trustee] = await Promise.all([newUser('frank'), newUser('grace', 'reader')]);
    const { body } = await keystone.request('POST', '/OS-TRUST/trusts', {
      token: trustor.token,
      body: {
        trust: {
          trustor_user_id: trustor.id,
          trustee_user_id: trustee.id,
          project_id: keystone.projects.red,
          roles: [{ name: 'member' }],
          impersonation: true,
        },
      },
    });
    const token = await trustee.login({ 'OS-TRUST:trust': { id: body.trust.id } });
    t.like(await whoAmI(token), { subject: 'frank@Default', project: keystone.projects.red, role: 'member' });
    await keystone.request('DELETE', `/OS-TRUST/trusts/${body.trust.id}`, { token: trustor.token });
    await until('it is over', async () => (await codeOf(whoAmI(token))) === Code.Unauthenticated);
  },
);

test.serial('a trust is over when its trustor is disabled or has lost the role, and open streams end', async (t) => {
  const { projects, roles } = keystone;
  for (const [name, takeAway] of [
    ['olga', (id: string) => keystone.change('PATCH', `/users/${id}`, { user: { enabled: false } })],
    ['pavel', (id: string) => keystone.change('DELETE', `/projects/${projects.red}/users/${id}/roles/${roles.member}`)],
  ] as const) {
    const [trustor, trustee] = [await newUser(name), await newUser(`trustee-of-${name}`, 'reader')];
    const trust = {
      trustor_user_id: trustor.id,
      trustee_user_id: trustee.id,
      project_id: projects.red,
      roles: [{ name: 'member' }],
      impersonation: false,
    };
    const { body } = await keystone.request('POST', '/OS-TRUST/trusts', { token: trustor.token, body: { trust } });
    const token = await trustee.login({ 'OS-TRUST:trust': { id: body.trust.id } });
    const { synced, ended } = watch(token);
    await synced;
    await takeAway(trustor.id);
    t.is((await ended).code, Code.Unauthenticated, name);
    t.is(await codeOf(whoAmI(token)), Code.Unauthenticated, name);
  }
});

test.serial('a control plane that may not validate tokens says that it cannot find out who calls', async (t) => {
  await using plane = await startFor(keystone.url, [], { env: { OS_USERNAME: 'alice', OS_PROJECT_NAME: 'red' } });
  t.is(await codeOf(whoAmI(await keystone.token('rita'), plane)), Code.Unavailable);
});

test.serial(
  'the service credential may be an application credential of clouds.yaml, and roles may have other names',
  async (t) => {
    await using folder = await temporaryFolder('keystone-cloud');
    const own = await keystone.token('baykeeper', { project: 'service' });
    const { body } = await keystone.request('POST', `/users/${keystone.users.baykeeper}/application_credentials`, {
      token: own,
      body: { application_credential: { name: 'control-plane' } },
    });
    const { id, secret } = body.application_credential;
    const file = path.join(folder.path, 'clouds.yaml');
    const auth = { auth_url: keystone.url, application_credential_id: id, application_credential_secret: secret };
    const cloud = { auth_type: 'v3applicationcredential', region_name: 'RegionOne', interface: 'internal', auth };
    await writeFile(
      file,
      JSON.stringify({ clouds: { own: cloud, elsewhere: { ...cloud, region_name: 'RegionTwo' } } }),
    );
    const args = ['--keystone-cloud', 'own', '--keystone-clouds-file', file, '--keystone-roles', 'operator=member'];
    await using plane = await startControlPlane({ args });
    t.like(await whoAmI(await keystone.token('oscar'), plane), { role: 'member', project: keystone.projects.red });
    t.is((await refusal(t, whoAmI(await keystone.token('alice'), plane))).code, Code.PermissionDenied);

    const elsewhere = startControlPlane({ args: [...args, '--keystone-cloud', 'elsewhere'] });
    await t.throwsAsync(elsewhere, {
      message: /no identity endpoint that is internal in region RegionTwo; it has: .*internal in RegionOne/,
    });
  },
);

test.serial('a control plane whose credential is wrong does not start, and says so without the secret', async (t) => {
  const wrong = await t.throwsAsync(startFor(keystone.url, [], { env: { OS_PASSWORD: 'not-this-secret' } }));
  t.regex(wrong?.message ?? '', /cloud envvars: Keystone does not know these credentials/);
  t.notRegex(wrong?.message ?? '', /not-this-secret/);
});

test.serial('Keystone is asked over TLS, by whoever has a certificate of the authority that is named', async (t) => {
  await using folder = await temporaryFolder('keystone-tls');
  const authority = await createAuthority(folder.path);
  const { cert, key } = await authority.issue({ commonName: 'keystone', hosts: ['127.0.0.1'] });
  const front = createServer({ cert, key }, (incoming, answer) => {
    const { method, headers, url } = incoming;
    const onward = plainRequest(new URL(url ?? '/', keystone.url), { method, headers }, (response) => {
      answer.writeHead(response.statusCode ?? 500, response.headers);
      response.pipe(answer);
    });
    onward.on('error', () => answer.destroy());
    incoming.pipe(onward);
  });
  front.listen(0, '127.0.0.1');
  await once(front, 'listening');
  t.teardown(() => void front.close());
  const url = `https://127.0.0.1:${(front.address() as AddressInfo).port}`;
  await using plane = await startFor(url, [], { env: { OS_CACERT: authority.certFile } });
  t.is((await whoAmI(await keystone.token('alice'), plane)).subject, 'alice@Default');
  // Without the authority nobody is believed; it is as if it were away.
  await using doubtful = await startFor(url);
  t.is((await refusal(t, whoAmI(await keystone.token('alice'), doubtful))).code, Code.Unavailable);
});
