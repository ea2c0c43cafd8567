import { toJson } from '@bufbuild/protobuf';
import { durationFromMs, type Timestamp, timestampMs } from '@bufbuild/protobuf/wkt';
import { type Command, Option } from 'commander';
import { type AccessToken, AccessTokenSchema, Role, RoleSchema } from '../../proto/gen/baykeeper/v1/access_token_pb.js';
import { AccessTokenService } from '../../proto/gen/baykeeper/v1/access_token_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { parsePositiveDuration } from '../args.ts';
import { CliError } from '../errors.ts';
import { age, duration } from '../output/age.ts';
import { enumName } from '../output/enum_name.ts';
import { escapeLine } from '../output/escape.ts';
import { parseOutput, printValue } from '../output/printer.ts';
import { Table } from '../output/table.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';
import { revokeEach } from './join_token.ts';

const roles = { reader: Role.READER, member: Role.MEMBER, admin: Role.ADMIN } as const;

interface CreateFlags {
  readonly role: keyof typeof roles;
  readonly ttl?: number;
  readonly description?: string;
  readonly output?: string;
}

/** `bayctl token`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('token')
    .description('make, list and revoke access tokens: for admins. Join tokens are under `bay join-token`');
  examples(
    command,
    'bayctl token create --role reader --project red --ttl 720h --description ci',
    'bayctl token list --all-projects',
    'bayctl token revoke bk0123456789abcdef',
  );
  registerCreate(command, environment);
  registerList(command, environment);
  const revoke = command
    .command('revoke')
    .description('nobody is let in with these any more, and streams opened with them end')
    .argument('<id...>', 'ids, as `token list` shows them; those of join tokens are taken, too')
    .action(async (ids: string[], _flags: unknown, self: Command) => {
      await revokeEach(await environment.open(self), 'token', ids, async (session, id) => {
        const access = id.startsWith('bk');
        if (access) await session.api.unary(AccessTokenService.method.revokeAccessToken, { id });
        else await session.api.unary(JoinTokenService.method.revokeJoinToken, { id });
      });
    });
  examples(withGlobals(revoke), 'bayctl token revoke bk0123456789abcdef --project red');
}

function registerCreate(parent: Command, environment: Environment): void {
  const create = parent
    .command('create')
    .description('make a token, and print it: it is shown this once')
    .addOption(
      new Option('--role <role>', 'what it lets do: reader, member, or admin of all projects')
        .choices(Object.keys(roles))
        .makeOptionMandatory(),
    )
    .option('--ttl <time>', 'how long it is good (default: until it is revoked)', parsePositiveDuration)
    .option('--description <text>', 'what it is for, shown by `token list`')
    .option('-o, --output <format>', 'json, yaml or jsonpath=TEMPLATE: the token with what is known of it')
    .action(async (flags: CreateFlags, self: Command) => {
      const format = await parseOutput(flags.output);
      const session = await environment.open(self);
      const { accessToken, token } = await session.api.unary(AccessTokenService.method.createAccessToken, {
        role: roles[flags.role],
        ...(flags.ttl === undefined ? {} : { ttl: durationFromMs(flags.ttl) }),
        description: flags.description ?? '',
      });
      if (!accessToken || !/^[\x21-\x7e]+$/.test(token)) throw new CliError('the server gave no token');
      const shown = toJson(AccessTokenSchema, accessToken, { alwaysEmitImplicit: true });
      if (await printValue(session.io.stdout, format, { token, accessToken: shown })) return;
      await session.out(`${token}\n`);
    });
  examples(
    withGlobals(create),
    'bayctl token create --role member',
    'bayctl token create --role reader --project red --ttl 720h --description ci > ci.token',
  );
}

function registerList(parent: Command, environment: Environment): void {
  const list = parent
    .command('list')
    .description('list access tokens, never their secrets')
    .option('-o, --output <format>', 'json, yaml, name or jsonpath=TEMPLATE')
    .option('--no-headers', 'no titles over the columns')
    .action(async (flags: { output?: string; headers: boolean }, self: Command) => {
      const format = await parseOutput(flags.output);
      const session = await environment.open(self);
      const tokens = await listTokens(session);
      const items = tokens.map((token) => toJson(AccessTokenSchema, token, { alwaysEmitImplicit: true }));
      if (await printValue(session.io.stdout, format, { items })) return;
      if (format.type === 'name') return session.out(tokens.map((token) => `${escapeLine(token.id)}\n`).join(''));
      if (tokens.length === 0) return session.err('No access tokens found.\n');
      const nowMs = session.io.nowMs();
      const titles = ['ID', 'PROJECT', 'ROLE', 'STATE', 'EXPIRES', 'LAST USED', 'AGE'].map((title) => ({ title }));
      const table = new Table([...titles, { title: 'DESCRIPTION', shrinks: true }], {
        header: flags.headers,
        ...(session.io.stdout.isTTY ? { maxWidth: session.io.stdout.columns } : {}),
      });
      await session.out(table.render(tokens.map((token) => rowOf(token, nowMs))));
    });
  examples(withGlobals(list), 'bayctl token list --project red', 'bayctl token list --all-projects -o json');
}

const rowOf = (token: AccessToken, nowMs: number): string[] => [
  token.id,
  token.project,
  enumName(RoleSchema, token.role).toLowerCase(),
  stateOf(token, nowMs),
  expiry(token.expireTime, nowMs),
  token.lastUseTime ? `${duration(Math.max(0, nowMs - timestampMs(token.lastUseTime)))} ago` : 'never',
  age(token.createTime, nowMs),
  token.description,
];

async function listTokens(session: Session): Promise<AccessToken[]> {
  const tokens: AccessToken[] = [];
  let pageToken = '';
  do {
    const response = await session.api.unary(AccessTokenService.method.listAccessTokens, { pageSize: 500, pageToken });
    tokens.push(...response.accessTokens);
    if (response.nextPageToken !== '' && response.nextPageToken === pageToken)
      throw new CliError('the server gave the same page twice');
    pageToken = response.nextPageToken;
  } while (pageToken !== '');
  return tokens;
}

function stateOf(token: AccessToken, nowMs: number): string {
  if (token.revokeTime) return 'REVOKED';
  return token.expireTime && timestampMs(token.expireTime) <= nowMs ? 'EXPIRED' : 'READY';
}

function expiry(time: Timestamp | undefined, nowMs: number): string {
  if (!time) return 'never';
  const leftMs = timestampMs(time) - nowMs;
  return leftMs > 0 ? `in ${duration(leftMs)}` : `${duration(-leftMs)} ago`;
}
