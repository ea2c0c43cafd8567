import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { CliError, exitStatus } from './errors.ts';
import type { Io } from './io.ts';
import { lockLogin } from './login_lock.ts';
import type { Login, LoginMethod } from './login_method.ts';

/** The least that is left of a token's life when a command begins with it. */
const marginMs = 60_000;
/** How often it is looked whether another bayctl has renewed what it is waited for. */
const lookMs = 50;

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
    await rm(temporary, { force: true }).catch(() => undefined);
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
  let pending: Promise<Login> | undefined;
  return async () => {
    pending ??= freshLogin(io, folder, context, current).finally(() => {
      pending = undefined;
    });
    current = await pending;
    return current.token;
  };
}

/**
 * A login whose token is good: renewed and kept when it is about to end and what it takes is at hand, by one bayctl for all of them. Rejects with
 * CliError when it has ended, or is its context's no more, and says how to get another.
 */
export async function freshLogin(io: Io, folder: string, context: string, login: Login): Promise<Login> {
  let latest = login;
  let failure: unknown;
  try {
    while (!isGood(io, latest)) {
      const kept = await readLogin(folder, context);
      if (!kept || !isSame(kept, login)) break;
      latest = kept;
      if (isGood(io, kept)) break;
      using lock = await lockLogin(io, loginFile(folder, context));
      if (lock) {
        const renewed = await renewedLogin(io, folder, context, login);
        if (renewed) return renewed;
        break;
      }
      // As long as it is good, another can wait.
      if (io.nowMs() < latest.expireTimeMs) break;
      await delay(lookMs, undefined, { signal: io.signal });
    }
  } catch (error) {
    failure = error;
  }
  if (io.nowMs() < latest.expireTimeMs) return latest;
  const reason = failure instanceof Error ? ` and cannot be renewed: ${failure.message}` : '';
  const isAway = failure instanceof CliError && failure.exitStatus === exitStatus.unavailable;
  throw new CliError(
    `the login of context "${context}" (${login.who}) has ended${reason}: run \`bayctl login\` again`,
    isAway ? exitStatus.unavailable : exitStatus.denied,
    { cause: failure },
  );
}

/** What is kept is renewed, which may be newer than what is known. Undefined: it cannot be, or is not to be kept any more. */
async function renewedLogin(io: Io, folder: string, context: string, login: Login): Promise<Login | undefined> {
  const isKept = (kept: Login | undefined): kept is Login => kept !== undefined && isSame(kept, login);
  const kept = await readLogin(folder, context);
  if (!isKept(kept) || isGood(io, kept)) return isKept(kept) ? kept : undefined;
  const renewed = await (await methodOf(kept)).renew(io, kept);
  // Who logged out or in meanwhile does not get it back.
  if (!renewed || !isKept(await readLogin(folder, context))) return undefined;
  const next = { ...kept, ...renewed };
  await writeLogin(folder, context, next);
  return next;
}

function isGood(io: Io, { issueTimeMs, expireTimeMs }: Login): boolean {
  return expireTimeMs - io.nowMs() > Math.min(marginMs, (expireTimeMs - issueTimeMs) / 4);
}

const isSame = (one: Login, other: Login): boolean =>
  one.method === other.method && one.server === other.server && one.who === other.who;

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
