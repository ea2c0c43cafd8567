import { type Cloud, type Credential, isLoopback } from '../proto/openstack/cloud.ts';
import { environmentCloud, findCloud } from '../proto/openstack/clouds_file.ts';
import { CloudError, KeystoneError } from '../proto/openstack/errors.ts';
import { type IssuedToken, type KeystoneClient, openKeystoneClient } from '../proto/openstack/keystone_client.ts';
import { CliError, exitStatus, UsageError } from './errors.ts';
import type { Io } from './io.ts';
import type { Login, LoginMethod, NewToken } from './login_method.ts';

/** How Keystone is spoken to. */
export interface KeystoneLoginOptions {
  /** Name of the cloud; default as the openstack client finds it. */
  readonly cloud?: string | undefined;
  /** Believe whoever answers for Keystone. */
  readonly insecure?: boolean | undefined;
  readonly allowPlaintext?: boolean | undefined;
  /** Asked for the secret that is neither in clouds.yaml nor in the environment. `what`: `password of alice`. */
  readonly askSecret: (what: string) => Promise<string>;
}

/** A login that may be kept, and the cloud it is of. */
export interface KeystoneToken extends NewToken {
  readonly cloud: string;
}

/** Gets a token of a project. Rejects with CliError. */
export async function loginToKeystone(io: Io, options: KeystoneLoginOptions): Promise<KeystoneToken> {
  const cloud = await translated(() => findCloud({ ...placeOf(io), cloud: options.cloud }));
  checkWay(cloud, options);
  const verify = cloud.tls.verify && !options.insecure;
  const credential = await withSecret(cloud.credential, options.askSecret);
  return withClient({ ...cloud, tls: { ...cloud.tls, verify } }, async (client) => {
    const issued = await client.issue(credential, cloud.scope);
    const { info, token } = issued;
    if (!info.project || info.project.isDomain) {
      await client.revoke(token);
      throw new UsageError(
        `cloud ${cloud.name}: Keystone gave a token for no project: say which (project_name, OS_PROJECT_NAME)`,
      );
    }
    return { ...newToken(io, { ...cloud, tls: { ...cloud.tls, verify } }, issued), cloud: cloud.name };
  });
}

/** Logins by Keystone: renewed by what clouds.yaml or the environment still say of the same user. */
export const keystoneLogin: LoginMethod = {
  async renew(io, login) {
    const { cloud: name, file, who, verify } = login.detail;
    if (name === environmentCloud && !io.env.OS_AUTH_URL) return undefined;
    const cloud = await translated(() => findCloud({ ...placeOf(io), cloud: name, file }));
    // The variables may be somebody else's by now; and a token gives no longer life than it has.
    if (identityOf(cloud) !== who || cloud.credential.kind === 'token' || !hasSecret(cloud.credential))
      return undefined;
    const same = { ...cloud, tls: { ...cloud.tls, verify: verify !== 'false' } };
    return withClient(same, async (client) => newToken(io, same, await client.issue(cloud.credential, cloud.scope)));
  },
  async revoke(_io, { token, detail }) {
    const { authUrl = '', caFile, certFile, keyFile } = detail;
    const tls = {
      ...(caFile && { caFile }),
      ...(certFile && { certFile }),
      ...(keyFile && { keyFile }),
      verify: detail.verify !== 'false',
    };
    await withClient({ authUrl, tls }, (client) => client.revoke(token));
  },
};

/** Makes a token that was not kept nobody's. */
export const discard = (io: Io, token: NewToken): Promise<void> =>
  keystoneLogin.revoke(io, { ...token, method: 'keystone', server: '' });

const placeOf = (io: Io) => ({ env: io.env, home: io.home, cwd: process.cwd() });

function newToken(io: Io, cloud: Cloud, { token, info }: IssuedToken): NewToken {
  const { caFile, certFile, keyFile, verify } = cloud.tls;
  const detail: Login['detail'] = {
    cloud: cloud.name,
    authUrl: cloud.authUrl,
    who: identityOf(cloud),
    ...(cloud.file && cloud.name !== environmentCloud && { file: cloud.file }),
    ...(caFile && { caFile }),
    ...(certFile && { certFile }),
    ...(keyFile && { keyFile }),
    ...(verify ? {} : { verify: 'false' }),
  };
  const who = `${info.user.name}@${info.user.domain.name} in project ${info.project?.name}`;
  return { token, issueTimeMs: io.nowMs(), expireTimeMs: info.expireTimeMs, who, detail };
}

/** Who it is, where and for what, without the secret: what says this of itself gets the same token. */
function identityOf({ authUrl, credential, scope }: Cloud): string {
  const { password: _password, secret: _secret, token: _token, ...rest } = credential as Record<string, unknown>;
  return JSON.stringify([authUrl, rest, scope]);
}

function hasSecret(credential: Credential): boolean {
  if (credential.kind === 'password') return credential.password !== undefined;
  return credential.kind === 'token' || credential.secret !== undefined;
}

async function withSecret(credential: Credential, ask: KeystoneLoginOptions['askSecret']): Promise<Credential> {
  if (hasSecret(credential)) return credential;
  if (credential.kind === 'password') {
    const { user } = credential;
    return { ...credential, password: await ask(`password of ${'name' in user ? user.name : user.id}`) };
  }
  return { ...credential, secret: await ask('secret of the application credential') } as Credential;
}

function checkWay({ name, authUrl, tls }: Cloud, options: KeystoneLoginOptions): void {
  if (!tls.verify && !options.insecure) {
    throw new UsageError(
      `cloud ${name} says that its certificate is not to be verified: give its cacert, or --insecure`,
    );
  }
  if (authUrl.startsWith('http:') && !isLoopback(authUrl) && !options.allowPlaintext) {
    throw new UsageError(
      `will not send credentials in clear to ${authUrl}: use https://, or --allow-plaintext where the network is trusted`,
    );
  }
}

async function withClient<T>(
  cloud: Pick<Cloud, 'authUrl' | 'tls'>,
  work: (client: KeystoneClient) => Promise<T>,
): Promise<T> {
  return translated(async () => {
    const client = await openKeystoneClient({ ...cloud, timeoutMs: 30_000 });
    try {
      return await work(client);
    } finally {
      await client.close();
    }
  });
}

/** What fails there, in the words and with the exit status of this program. */
async function translated<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof CloudError) throw new UsageError(cause.message, { cause });
    if (!(cause instanceof KeystoneError)) throw cause;
    const denied = cause.failure === 'unauthorized' || cause.failure === 'forbidden';
    throw new CliError(cause.message, denied ? exitStatus.denied : exitStatus.unavailable, { cause });
  }
}
