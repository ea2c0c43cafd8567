import path from 'node:path';
import type { Command } from 'commander';
import { SystemService } from '../../proto/gen/baykeeper/v1/system_service_pb.js';
import {
  type Context,
  configPath,
  defaultServer,
  type GlobalFlags,
  listContexts,
  parseServer,
  readConfig,
  writeConfig,
} from '../context.ts';
import { CliError, UsageError } from '../errors.ts';
import { type Io, write } from '../io.ts';
import { writeLogin } from '../login.ts';
import type { NewToken } from '../login_method.ts';
import { escapeLine } from '../output/escape.ts';
import { promptSecret, readSecret } from '../secret_input.ts';
import { allFlags, type Environment, examples, type Session, withGlobals } from '../session.ts';

interface LoginFlags extends GlobalFlags {
  readonly osCloud?: string;
  readonly passwordStdin?: boolean;
  readonly insecure?: boolean;
  readonly caFingerprint?: string;
  readonly oidc?: string;
  readonly oidcClient?: string;
  readonly oidcScope?: string;
}

/** `bayctl login`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('login')
    .description(
      'log in to a control plane with a user of OpenStack (as clouds.yaml or the OS_* variables say, by password, application credential or token), or of an OpenID provider',
    )
    .option(
      '--os-cloud <name>',
      'the cloud of clouds.yaml (default: OS_CLOUD, else the OS_* variables, else the only one)',
    )
    .option('--password-stdin', 'read the password, or the secret of the application credential, from stdin')
    .option('--ca-fingerprint <sha256:hex>', 'learn the CA of the server now, which must have this fingerprint')
    .option('--insecure', 'believe whoever answers for Keystone')
    .option('--oidc <issuer>', 'log in at this OpenID provider, in a browser of any machine')
    .option('--oidc-client <id>', 'with --oidc: the client to log in as')
    .option('--oidc-scope <scopes>', 'with --oidc: what to ask for (default: openid profile email offline_access)')
    .action(async (_flags: unknown, self: Command) => login(environment, allFlags<LoginFlags>(self)));
  examples(
    withGlobals(command),
    'bayctl login --os-cloud red --server https://bays.example.com',
    'OS_CLOUD=red bayctl login --context red',
    'pass show openstack | bayctl login --password-stdin',
    'bayctl login --oidc https://id.example.com --oidc-client bayctl --server https://bays.example.com',
  );
  command.addHelpText(
    'after',
    `
The token is kept for the context, in a file that only you can read, and every command uses it. When it is about to end it is renewed, if the password
or secret is in clouds.yaml, secure.yaml or the environment; else log in again. No password is kept. \`bayctl logout\` revokes the token; that of an OpenID
provider stays good until it expires, and is not renewed any more.
Without a context for the server, one is made and put in use.
`,
  );
}

async function login(environment: Environment, flags: LoginFlags): Promise<void> {
  const { io } = environment;
  // What is wrong with the command line is said before a password is asked for.
  const place = await placeOf(io, flags);
  const { caOfFlags } = await import('../trust.ts');
  const ca = await caOfFlags(place.server, flags);
  const { method, cloud, token, discard } = await (flags.oidc ? tokenOfOidc(io, flags) : tokenOfKeystone(io, flags));
  let session: Session;
  let me: { subject: string; role: string };
  const context = place.context || nameFor(cloud, place.server);
  try {
    await checkFree(io, context, place);
    session = await environment.openWith({
      ...flags,
      ...place.sessionFlags,
      ca,
      server: place.server,
      token: token.token,
    });
    me = await session.api.unary(SystemService.method.whoAmI, {});
    await keep(io, { method, context, isNew: place.isNew, server: place.server, ca, token });
  } catch (error) {
    // Nobody will use it.
    await discard().catch(() => undefined);
    throw error;
  }
  const made = place.isNew ? `; context ${escapeLine(context)} is made and in use` : '';
  await session.out(
    `logged in to ${place.server} as ${escapeLine(token.who)}, role ${escapeLine(me.role)}, until ${new Date(token.expireTimeMs).toISOString()}${made}\n`,
  );
  if (io.env.BAYKEEPER_TOKEN) await session.err('note: BAYKEEPER_TOKEN is set, and wins over this login\n');
}

/** A token, how it was got, and what undoes that. */
interface Got {
  readonly method: string;
  /** What a context for it could be called; `envvars`: as the server. */
  readonly cloud: string;
  readonly token: NewToken;
  discard(): Promise<void>;
}

async function tokenOfKeystone(io: Io, flags: LoginFlags): Promise<Got> {
  if (flags.oidcClient || flags.oidcScope) throw new UsageError('--oidc-client and --oidc-scope go with --oidc');
  const { discard, loginToKeystone } = await import('../keystone_login.ts');
  const { cloud, ...token } = await loginToKeystone(io, {
    cloud: flags.osCloud,
    insecure: flags.insecure,
    allowPlaintext: flags.allowPlaintext,
    askSecret: (what) => (flags.passwordStdin ? readSecret(io) : promptSecret(io, what)),
  });
  return { method: 'keystone', cloud, token, discard: () => discard(io, token) };
}

async function tokenOfOidc(io: Io, flags: LoginFlags): Promise<Got> {
  const { oidc: issuer = '', oidcClient: clientId, oidcScope: scope } = flags;
  if (flags.osCloud || flags.passwordStdin || flags.insecure)
    throw new UsageError('--oidc goes with --oidc-client and --oidc-scope only');
  if (!clientId) throw new UsageError('--oidc needs --oidc-client: the id of a client of the provider');
  const { loginToOidc, oidcLogin } = await import('../oidc_login.ts');
  const token = await loginToOidc(io, {
    issuer,
    clientId,
    scope,
    show: ({ url, code }) => write(io.stderr, `Open ${escapeLine(url)} and enter the code ${escapeLine(code)}\n`),
  });
  return {
    method: 'oidc',
    cloud: 'envvars',
    token,
    discard: () => oidcLogin.revoke(io, { ...token, method: 'oidc', server: '' }),
  };
}

interface Place {
  /** Empty: named after the cloud. */
  readonly context: string;
  readonly isNew: boolean;
  readonly server: string;
  /** With which a session can be opened while the context is not there. */
  readonly sessionFlags: Pick<GlobalFlags, 'context'>;
}

/** The context that the login is for: one that is there for this server, else a new one. */
async function placeOf(io: Io, flags: LoginFlags): Promise<Place> {
  const { current, contexts } = await listContexts(io);
  const wanted = flags.context || current;
  const there = contexts.get(wanted);
  const server = parseServer(flags.server || io.env.BAYKEEPER_SERVER || there?.server || defaultServer);
  if (there && isFor(there, server))
    return { context: wanted, isNew: false, server, sessionFlags: { context: wanted } };
  if (flags.context) {
    if (there) throw new UsageError(`context "${flags.context}" is for ${there.server}: name another with --context`);
    if (!/^[A-Za-z0-9][A-Za-z0-9._@-]*$/.test(flags.context)) {
      throw new UsageError(`"${flags.context}" cannot be the name of a context`);
    }
  }
  return { context: flags.context ?? '', isNew: true, server, sessionFlags: { context: undefined } };
}

const isFor = (context: Context, server: string): boolean => parseServer(context.server ?? defaultServer) === server;

/** The cloud's name; of one that is made of variables, the server's. */
function nameFor(cloud: string, server: string): string {
  const name = cloud === 'envvars' ? new URL(server).host : cloud;
  return name.replaceAll(/[^A-Za-z0-9._@-]+/g, '-').replace(/^[^A-Za-z0-9]+/, '') || 'cloud';
}

async function checkFree(io: Io, name: string, { isNew, server }: Place): Promise<void> {
  const taken = isNew ? (await listContexts(io)).contexts.get(name) : undefined;
  if (taken && !isFor(taken, server)) {
    throw new CliError(`context "${name}" is for ${taken.server}: name another with --context`);
  }
}

interface Kept {
  readonly method: string;
  readonly context: string;
  readonly isNew: boolean;
  readonly server: string;
  /** PEM; undefined: as it is. */
  readonly ca: string | undefined;
  readonly token: NewToken;
}

async function keep(io: Io, { method, context, isNew, server, ca, token }: Kept): Promise<void> {
  await writeLogin(path.dirname(configPath(io)), context, { ...token, method, server });
  if (!isNew && ca === undefined) return;
  const config = await readConfig(io);
  const { ca_file, ...before } = config.contexts.get(context) ?? {};
  const trusted = ca === undefined ? (ca_file === undefined ? {} : { ca_file }) : { ca };
  const contexts = new Map([...config.contexts, [context, { ...before, server, ...trusted }] as const]);
  await writeConfig({ ...config, contexts, current: isNew ? context : config.current });
}

/** `bayctl logout`. */
export function registerLogout(parent: Command, environment: Environment): void {
  const command = parent
    .command('logout')
    .description('revoke and forget the token that bayctl login got')
    .action(async (_flags: unknown, self: Command) => logout(environment.io, allFlags<GlobalFlags>(self)));
  examples(withGlobals(command), 'bayctl logout', 'bayctl logout --context red');
}

async function logout(io: Io, flags: GlobalFlags): Promise<void> {
  const { forgetLogin, readLogin, revokeLogin } = await import('../login.ts');
  const { current, contexts } = await listContexts(io);
  const context = flags.context || current;
  if (flags.context && !contexts.has(flags.context)) throw new UsageError(`there is no context "${flags.context}"`);
  const folder = path.dirname(configPath(io));
  const login = context ? await readLogin(folder, context) : undefined;
  if (!login) throw new CliError(`context "${context}" has no login`);
  // Whatever becomes of the rest, this machine has it no more.
  await forgetLogin(folder, context);
  // What it is renewed with outlives the token.
  if (login.expireTimeMs > io.nowMs() || login.refreshToken) {
    try {
      await revokeLogin(io, login);
    } catch (cause) {
      const until = login.refreshToken ? 'and renew it' : `until ${new Date(login.expireTimeMs).toISOString()}`;
      const reason = cause instanceof Error ? cause.message : String(cause);
      const status = cause instanceof CliError ? cause.exitStatus : undefined;
      throw new CliError(`forgotten, but not revoked: whoever has the token can use it ${until}: ${reason}`, status, {
        cause,
      });
    }
  }
  await write(io.stdout, `logged out: ${escapeLine(login.who)} at ${escapeLine(login.server)}\n`);
}
