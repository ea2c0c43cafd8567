import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { AdminTokenError, adminAuthenticator, adminPrincipal, adminTokenFile, loadAdminToken } from './admin_token.ts';

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

test('only the token lets in', (t) => {
  const authenticator = adminAuthenticator('right');
  t.is(authenticator.authenticate({ token: 'right' }), adminPrincipal);
  for (const token of ['', 'wrong', 'righ', 'rightt', '\u{1f511}'])
    t.is(authenticator.authenticate({ token }), undefined);
});
