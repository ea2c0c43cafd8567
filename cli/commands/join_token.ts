import { toJson } from '@bufbuild/protobuf';
import { timestampMs } from '@bufbuild/protobuf/wkt';
import type { Command } from 'commander';
import { type JoinToken, JoinTokenSchema } from '../../proto/gen/baykeeper/v1/join_token_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { CliError, renderError, SilentExit } from '../errors.ts';
import { age, duration } from '../output/age.ts';
import { escapeLine } from '../output/escape.ts';
import { parseOutput, printValue } from '../output/printer.ts';
import { Table } from '../output/table.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';

/** `bayctl bay join-token`. */
export function registerJoinTokens(parent: Command, environment: Environment): void {
  const command = parent
    .command('join-token')
    .description('list and revoke join tokens; `bay join-command` makes them');
  examples(command, 'bayctl bay join-token list', 'bayctl bay join-token revoke 0a1b2c3d');
  const list = command
    .command('list')
    .description('list join tokens, never their secrets: of the bay that -b names, or of every bay')
    .option('-o, --output <format>', 'json, yaml, name or jsonpath=TEMPLATE')
    .option('--no-headers', 'no titles over the columns')
    .action(async (flags: { output?: string; headers: boolean }, self: Command) => {
      const format = await parseOutput(flags.output);
      const session = await environment.open(self);
      const tokens = await listTokens(session, session.flags.bay ?? '');
      const items = tokens.map((token) => toJson(JoinTokenSchema, token, { alwaysEmitImplicit: true }));
      if (await printValue(session.io.stdout, format, { items })) return;
      if (format.type === 'name') return session.out(tokens.map((token) => `${escapeLine(token.id)}\n`).join(''));
      if (tokens.length === 0) return session.err('No join tokens found.\n');
      const nowMs = session.io.nowMs();
      const table = new Table(
        [
          { title: 'ID' },
          { title: 'BAY' },
          { title: 'STATE' },
          { title: 'USES' },
          { title: 'EXPIRES' },
          { title: 'AGE' },
          { title: 'DESCRIPTION', shrinks: true },
        ],
        { header: flags.headers, ...(session.io.stdout.isTTY ? { maxWidth: session.io.stdout.columns } : {}) },
      );
      await session.out(
        table.render(
          tokens.map((token) => [
            token.id,
            token.bay,
            stateOf(token, nowMs),
            `${token.uses}/${token.maxUses}`,
            expiry(token, nowMs),
            age(token.createTime, nowMs),
            token.description,
          ]),
        ),
      );
    });
  examples(withGlobals(list), 'bayctl bay join-token list', 'bayctl bay join-token list -b edge-1 -o json');
  const revoke = command
    .command('revoke')
    .description('no node can join with these any more; nodes that have joined stay')
    .argument('<id...>', 'ids, as `bay join-token list` shows them')
    .action(async (ids: string[], _flags: unknown, self: Command) => {
      await revokeEach(await environment.open(self), 'token', ids, (session, id) =>
        session.api.unary(JoinTokenService.method.revokeJoinToken, { id }),
      );
    });
  examples(withGlobals(revoke), 'bayctl bay join-token revoke 0a1b2c3d');
}

/** As many at once: what is open through the last of a thousand nodes is to end within seconds, too, also while the broker takes its time. */
const atOnce = 100;

/** Revokes each; one that cannot be does not hold up the others. Throws SilentExit in the end where one could not. */
export async function revokeEach(
  session: Session,
  kind: 'token' | 'node',
  ids: readonly string[],
  revoke: (session: Session, id: string) => Promise<unknown>,
): Promise<void> {
  let status = 0;
  const left = ids.values();
  const revokeNext = async (): Promise<void> => {
    for (const id of left) {
      try {
        await revoke(session, id);
        await session.out(`${kind}/${escapeLine(id)} revoked\n`);
      } catch (error) {
        const rendered = renderError(error, session.flags.verbose === true);
        status ||= rendered.status;
        await session.err(rendered.text);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, ids.length) }, revokeNext));
  if (status) throw new SilentExit(status);
}

/** All of a bay; of every bay, where it is empty. */
export async function listTokens(session: Session, bay: string): Promise<JoinToken[]> {
  const tokens: JoinToken[] = [];
  let pageToken = '';
  do {
    const response = await session.api.unary(JoinTokenService.method.listJoinTokens, { bay, pageSize: 500, pageToken });
    tokens.push(...response.joinTokens);
    if (response.nextPageToken !== '' && response.nextPageToken === pageToken)
      throw new CliError('the server gave the same page twice');
    pageToken = response.nextPageToken;
  } while (pageToken !== '');
  return tokens;
}

export function stateOf(token: JoinToken, nowMs: number): string {
  if (token.revokeTime) return 'REVOKED';
  if (token.expireTime && timestampMs(token.expireTime) <= nowMs) return 'EXPIRED';
  return token.uses >= token.maxUses ? 'USED' : 'READY';
}

function expiry(token: JoinToken, nowMs: number): string {
  if (!token.expireTime) return '';
  const leftMs = timestampMs(token.expireTime) - nowMs;
  return leftMs > 0 ? `in ${duration(leftMs)}` : `${duration(-leftMs)} ago`;
}
