import { chmod, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { until } from '../../test/harness/until.ts';
import { AdminToken, AdminTokenError, adminPrincipal, adminTokenFile, loadAdminToken } from './admin_token.ts';

async function folder(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'admin-token-'));
  t.teardown(() => rm(dir, { recursive: true }));
  return dir;
}

test('the token is made once, for its owner alone to read', async (t) => {
  const dir = join(await folder(t), 'data');
  const [one, other] = await Promise.all([loadAdminToken(dir), loadAdminToken(dir)]);
  t.is(one, other);
  t.is(await loadAdminToken(dir), one);
  t.is((await stat(adminTokenFile(dir))).mode & 0o777, 0o600);
  t.is((await readFile(adminTokenFile(dir), 'utf8')).trim(), one);
  t.deepEqual(await readdir(dir), ['admin.token']);
  await chmod(adminTokenFile(dir), 0o644);
  await loadAdminToken(dir);
  t.is((await stat(adminTokenFile(dir))).mode & 0o777, 0o600);
});

test('a file that holds no token is named', async (t) => {
  const dir = await folder(t);
  for (const content of ['', 'short', 'two\nlines of something that is long enough', '\0'.repeat(40)]) {
    await writeFile(adminTokenFile(dir), content);
    await t.throwsAsync(loadAdminToken(dir), {
      instanceOf: AdminTokenError,
      message: /admin\.token holds no admin token/,
    });
  }
});

test('only the token lets in, and another as soon as it is in the file', async (t) => {
  const dataDir = await folder(t);
  const file = adminTokenFile(dataDir);
  const changes: string[] = [];
  using authenticator = await AdminToken.open({
    dataDir,
    log: pino({ level: 'silent' }),
    intervalMs: 20,
    onChange: (code) => void changes.push(code),
  });
  const letsIn = (token: string) => authenticator.authenticate({ token }) !== undefined;
  const first = (await readFile(file, 'utf8')).trim();
  t.is(authenticator.authenticate({ token: first }), adminPrincipal);
  for (const token of ['', 'wrong', first.slice(1), `${first}t`, '\u{1f511}']) t.false(letsIn(token));

  const second = 'another-token-of-the-admin-0123456789';
  await writeFile(`${file}.new`, `${second}\n`);
  await rename(`${file}.new`, file);
  await until('the other one lets in', () => letsIn(second));
  t.false(letsIn(first));
  t.is((await stat(file)).mode & 0o777, 0o600);

  await writeFile(file, 'rubbish');
  await rm(file);
  await until('there is a new one', async () => letsIn((await readFile(file, 'utf8')).trim()));
  t.false(letsIn(second));
  t.deepEqual(changes, ['admin_token_replaced', 'admin_token_replaced']);
});

test('a file that says nothing takes back nothing', async (t) => {
  const dataDir = await folder(t);
  const errors: unknown[] = [];
  const log = pino({ level: 'error' }, { write: (line) => errors.push(line) });
  using authenticator = await AdminToken.open({ dataDir, log, intervalMs: 20 });
  const token = (await readFile(adminTokenFile(dataDir), 'utf8')).trim();
  await writeFile(adminTokenFile(dataDir), 'rubbish');
  await until('it is said', () => errors.length > 0);
  t.regex(String(errors[0]), /holds no admin token/);
  t.is(authenticator.authenticate({ token }), adminPrincipal);
});
