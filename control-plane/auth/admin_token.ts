import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { chmod, link, mkdir, open, readFile, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { Principal } from '../domain/principal.ts';
import type { Authenticator } from './port.ts';

/** The admin token cannot be used. The message says which file, and what to do. */
export class AdminTokenError extends Error {
  override readonly name = 'AdminTokenError';
}

/** Who the admin token stands for. */
export const adminPrincipal: Principal = Object.freeze({ subject: 'admin', project: 'default', role: 'admin' });

/** The file of the admin token in the data folder. */
export const adminTokenFile = (dataDir: string): string => join(dataDir, 'admin.token');

/**
 * The admin token: 256 random bits, made at the first start and kept in `<dataDir>/admin.token`, mode 0600. Throws AdminTokenError when the file is
 * there and holds none, and the file system's errors.
 */
export async function loadAdminToken(dataDir: string): Promise<string> {
  const file = adminTokenFile(dataDir);
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const existing = await readToken(file);
  if (existing !== undefined) return existing;

  // Written aside and linked into place: a crash leaves no half of it, and of two that start at once one wins.
  const token = randomBytes(32).toString('base64url');
  const aside = `${file}.${randomBytes(6).toString('hex')}`;
  const handle = await open(aside, 'wx', 0o600);
  try {
    await handle.writeFile(`${token}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  try {
    await link(aside, file);
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
  } finally {
    await unlink(aside);
  }
  return (await readToken(file)) ?? token;
}

async function readToken(file: string): Promise<string | undefined> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
  const token = text.trim();
  if (!/^[A-Za-z0-9_-]{22,128}$/.test(token)) {
    throw new AdminTokenError(`${file} holds no admin token: remove it, and a new one is made at the next start`);
  }
  // It may have been restored or edited with other rights than it was made with.
  if (((await stat(file)).mode & 0o077) !== 0) await chmod(file, 0o600);
  return token;
}

const hasCode = (error: unknown, code: string): boolean =>
  error instanceof Error && 'code' in error && error.code === code;

/** Lets in whoever has the admin token. Only its hash is kept in memory, and compared in constant time. */
export function adminAuthenticator(token: string): Authenticator {
  const kept = sha256(token);
  return {
    authenticate: (credentials) => (timingSafeEqual(sha256(credentials.token), kept) ? adminPrincipal : undefined),
  };
}

const sha256 = (value: string): Buffer => createHash('sha256').update(value).digest();
