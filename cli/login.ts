import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { CliError, exitStatus } from './errors.ts';
import type { Io } from './io.ts';
import type { Login, LoginMethod } from './login_method.ts';

/** The least that is left of a token's life when a command begins with it. */
const marginMs = 60_000;

/** All ways, each loaded when it is used. */
const loginMethods: Readonly<Record<string, () => Promise<LoginMethod>>> = {
  keystone: async () => (await import('./keystone_login.ts')).keystoneLogin,
  oidc: async () => (await import('./oidc_login.ts')).oidcLogin,
};

async function methodOf({ method }: Login): Promise<LoginMethod> {
  const load = Object.hasOwn(loginMethods, method) ? loginMethods[method] : undefined;
  if (!load) throw new CliError(`this version of bayctl does not know logins by ${method}: run \`bayctl login\` again`);
  return load();
}

/** The file that keeps a context's login. `folder`: where the file of contexts is. */
const loginFile = (folder: string, context: string): string =>
  path.join(folder, 'logins', `${encodeURIComponent(context)}.json`);

/** Undefined: there is none. Rejects with CliError. */
export async function readLogin(folder: string, context: string): Promise<Login | undefined> {
  const file = loginFile(folder, context);
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && (cause.code === 'ENOENT' || cause.code === 'ENOTDIR'))
      return undefined;
    throw new CliError(`cannot read ${file}: ${reasonOf(cause)}`, undefined, { cause });
  }
  const login = parsed(text);
  if (!login) throw new CliError(`${file} is not what \`bayctl login\` wrote: run it again`);
  return login;
}

/** Keeps it, for its owner alone. */
export async function writeLogin(folder: string, context: string, login: Login): Promise<void> {
  const file = loginFile(folder, context);
  const temporary = `${file}.${randomUUID()}`;
  try {
    await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
    await writeFile(temporary, `${JSON.stringify(login, undefined, 2)}\n`, { mode: 0o600, flag: 'wx' });
    await rename(temporary, file);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw new CliError(`cannot write ${file}: ${reasonOf(cause)}`, undefined, { cause });
  }
}

/** Forgets it, if there is one. */
export const forgetLogin = (folder: string, context: string): Promise<void> =>
  rm(loginFile(folder, context), { force: true });

/** Makes its token nobody's, where it came from. */
export async function revokeLogin(io: Io, login: Login): Promise<void> {
  await (await methodOf(login)).revoke(io, login);
}

/** The token of a login at any time, for a command that may last longer than one. */
export function tokenSource(io: Io, folder: string, context: string, login: Login): () => Promise<string> {
  let current = login;
  return async () => {
    current = await freshLogin(io, folder, context, current);
    return current.token;
  };
}

/**
 * A login whose token is good: renewed and kept when it is about to end and what it takes is at hand. Rejects with CliError when it has ended, and says how
 * to get another.
 */
export async function freshLogin(io: Io, folder: string, context: string, login: Login): Promise<Login> {
  const now = io.nowMs();
  const lifeMs = login.expireTimeMs - login.issueTimeMs;
  if (login.expireTimeMs - now > Math.min(marginMs, lifeMs / 4)) return login;
  let failure: unknown;
  try {
    const renewed = await (await methodOf(login)).renew(io, login);
    if (renewed) {
      const next = { ...login, ...renewed };
      await writeLogin(folder, context, next);
      return next;
    }
  } catch (error) {
    failure = error;
  }
  // As long as it is good, another can wait.
  if (now < login.expireTimeMs) return login;
  const reason = failure instanceof Error ? ` and cannot be renewed: ${failure.message}` : '';
  throw new CliError(
    `the login of context "${context}" (${login.who}) has ended${reason}: run \`bayctl login\` again`,
    exitStatus.denied,
    { cause: failure },
  );
}

function parsed(text: string): Login | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { method, server, token, issueTimeMs, expireTimeMs, who, detail, refreshToken } = value as Record<
    string,
    unknown
  >;
  if (typeof method !== 'string' || typeof server !== 'string' || typeof token !== 'string') return undefined;
  if (typeof issueTimeMs !== 'number' || typeof expireTimeMs !== 'number' || typeof who !== 'string') return undefined;
  if (typeof detail !== 'object' || detail === null) return undefined;
  const strings = Object.entries(detail).filter((entry): entry is [string, string] => typeof entry[1] === 'string');
  const login = { method, server, token, issueTimeMs, expireTimeMs, who, detail: Object.fromEntries(strings) };
  return typeof refreshToken === 'string' ? { ...login, refreshToken } : login;
}

const reasonOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));
