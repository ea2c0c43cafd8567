import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { chmod, link, mkdir, open, readFile, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import type { Principal } from '../domain/principal.ts';
import { FileWatch } from './file_watch.ts';
import type { Authenticator, Credentials, OnRightsChange } from './port.ts';

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
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  return readOrMake(adminTokenFile(dataDir));
}

async function readOrMake(file: string): Promise<string> {
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
    throw new AdminTokenError(`${file} holds no admin token: remove it, and a new one is made`);
  }
  // It may have been restored or edited with other rights than it was made with.
  if (((await stat(file)).mode & 0o077) !== 0) await chmod(file, 0o600);
  return token;
}

const hasCode = (error: unknown, code: string): boolean =>
  error instanceof Error && 'code' in error && error.code === code;

/** Options of {@link AdminToken}. */
export interface AdminTokenOptions {
  readonly dataDir: string;
  readonly log: Logger;
  readonly onChange?: OnRightsChange;
  /** How often to look whether the file has changed. Default 1 s. */
  readonly intervalMs?: number;
}

/**
 * Lets in whoever has the admin token. Only its hash is kept in memory, and compared in constant time. What is in the file counts as soon as it changes; when
 * the file is removed a new token is made, and the one before lets nobody in any more. While the file cannot be used, the one before stays, and the log says why.
 */
export class AdminToken implements Authenticator, Disposable {
  readonly #options: AdminTokenOptions;
  readonly #watch: FileWatch;
  #kept: Buffer;

  private constructor(options: AdminTokenOptions, token: string) {
    this.#options = options;
    this.#kept = sha256(token);
    this.#watch = new FileWatch(adminTokenFile(options.dataDir), () => this.#read(), options.intervalMs);
  }

  /** Rejects as {@link loadAdminToken} does. */
  static async open(options: AdminTokenOptions): Promise<AdminToken> {
    return new AdminToken(options, await loadAdminToken(options.dataDir));
  }

  authenticate({ token }: Credentials): Principal | undefined {
    return timingSafeEqual(sha256(token), this.#kept) ? adminPrincipal : undefined;
  }

  [Symbol.dispose](): void {
    this.#watch[Symbol.dispose]();
  }

  async #read(): Promise<void> {
    const { dataDir, log, onChange } = this.#options;
    const file = adminTokenFile(dataDir);
    try {
      const kept = sha256(await readOrMake(file));
      if (kept.equals(this.#kept)) return;
      this.#kept = kept;
      const message = 'there is another admin token: the one before lets nobody in any more';
      log.warn({ file }, message);
      onChange?.('admin_token_replaced', message);
    } catch (error) {
      log.error({ err: error }, 'the admin token cannot be used: the one before stays');
    }
  }
}

const sha256 = (value: string): Buffer => createHash('sha256').update(value).digest();
