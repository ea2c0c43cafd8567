import test from 'ava';
import { pino } from 'pino';
import { AccessTokens } from '../../control-plane/auth/access_tokens.ts';
import { firstOf } from '../../control-plane/auth/authenticators.ts';
import { principals, startApi } from '../../test/harness/api_fixture.ts';
import { bayctl } from '../run_fixture.ts';

test('an admin makes a token, whoever has it is let in with it, and it is listed and revoked', async (t) => {
  let tokens: AccessTokens | undefined;
  const authenticator = firstOf([
    { authenticate: ({ token }) => principals[token] },
    { authenticate: (credentials) => tokens?.authenticate(credentials) },
  ]);
  await using api = await startApi({ api: { authenticator } });
  await using opened = await AccessTokens.open({ ...api, log: pino({ level: 'silent' }) });
  tokens = opened;
  const as = (token: string, ...argv: readonly string[]) =>
    bayctl(undefined, ['--server', api.server.url, '--token', token, ...argv]);

  const made = await as(
    'admin-token',
    'token',
    'create',
    '--role',
    'reader',
    '--project',
    'red',
    '--ttl',
    '720h',
    '--description',
    'ci',
  );
  t.is(made.status, 0, made.stderr);
  const token = made.stdout.trim();
  const [id = '', secret = ''] = token.split('.');
  t.regex((await as(token, 'whoami')).stdout, new RegExp(`^token/${id}, reader in project red`));
  await opened.noteUses();

  const listed = await as('admin-token', 'token', 'list', '--project', 'red');
  t.regex(listed.stdout, new RegExp(`^ID .*\\n${id} +red +reader +READY +in \\w+ +\\w+ ago +\\w+ +ci\\n$`));
  t.false(listed.stdout.includes(secret));
  t.regex((await as('admin-token', 'token', 'list')).stderr, /No access tokens found/);
  t.is((await as('admin-token', 'token', 'list', '--all-projects', '-o', 'name')).stdout, `${id}\n`);

  t.is((await as('admin-token', 'token', 'revoke', id, '--project', 'red')).stdout, `token/${id} revoked\n`);
  t.is((await as(token, 'whoami')).status, 3);
  t.regex((await as('admin-token', 'token', 'list', '--project', 'red')).stdout, /REVOKED/);
  t.is((await as('admin-token', 'token', 'revoke', 'bk00', '--project', 'red')).status, 4);

  t.is((await as('red-token', 'token', 'create', '--role', 'reader')).status, 3);
  t.is((await as('admin-token', 'token', 'create')).status, 2);
  t.is((await as('admin-token', 'token', 'create', '--role', 'king')).status, 2);
});
