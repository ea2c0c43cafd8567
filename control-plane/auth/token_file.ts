import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import type { Logger } from 'pino';
import { parseDocument } from 'yaml';
import { type Principal, projectPattern, type Role } from '../domain/principal.ts';
import { FileWatch } from './file_watch.ts';
import type { Authenticator, Credentials, OnRightsChange } from './port.ts';

/** The file of tokens cannot be used. The message names the file, what in it is wrong, and what was expected. */
export class TokenFileError extends Error {
  override readonly name = 'TokenFileError';
}

/** Options of {@link TokenFile}. */
export interface TokenFileOptions {
  readonly file: string;
  readonly clock: { now(): number };
  readonly log: Logger;
  readonly onChange?: OnRightsChange;
  /** How often to look whether it has changed. Default 1 s. */
  readonly intervalMs?: number;
}

const maxBytes = 4 * 1024 * 1024;
const fields = ['sha256', 'subject', 'project', 'role', 'expires', 'description'];

/**
 * Callers in a file, by the hashes of their tokens. It is read again when it changes; while it cannot be read or something in it is wrong, what it said before
 * stays, and the log says why. An empty list lets nobody in.
 */
export class TokenFile implements Authenticator, Disposable {
  readonly #options: TokenFileOptions;
  readonly #watch: FileWatch;
  /** By hash: who looks for a token by trial learns from the time at most something about its hash. */
  #principals: ReadonlyMap<string, Principal>;

  private constructor(options: TokenFileOptions, principals: ReadonlyMap<string, Principal>) {
    this.#options = options;
    this.#principals = principals;
    this.#watch = new FileWatch(options.file, () => this.#read(), options.intervalMs);
  }

  /** Rejects with TokenFileError. */
  static async open(options: TokenFileOptions): Promise<TokenFile> {
    return new TokenFile(options, await readPrincipals(options.file));
  }

  authenticate({ token }: Credentials): Principal | undefined {
    const principal = this.#principals.get(createHash('sha256').update(token).digest('hex'));
    if (!principal) return undefined;
    const { expireTimeMs } = principal;
    return expireTimeMs !== undefined && this.#options.clock.now() >= expireTimeMs ? undefined : principal;
  }

  [Symbol.dispose](): void {
    this.#watch[Symbol.dispose]();
  }

  async #read(): Promise<void> {
    const { file, log, onChange } = this.#options;
    try {
      const before = this.#principals;
      this.#principals = await readPrincipals(file);
      log.info({ file, tokens: this.#principals.size }, 'token file read');
      const message = changeOf(before, this.#principals);
      if (message !== '') onChange?.('token_file_read', message);
    } catch (error) {
      log.error({ err: error }, 'token file cannot be used: what it said before stays');
    }
  }
}

/** Named each up to here: a file may have thousands. */
const maxNamed = 10;

/** Whom it lets in now, and whom not any more: `new: rose (member of red); gone: bert (reader of blue)`. Empty: it is as before. */
function changeOf(before: ReadonlyMap<string, Principal>, now: ReadonlyMap<string, Principal>): string {
  const missing = (here: ReadonlyMap<string, Principal>, there: ReadonlyMap<string, Principal>): string[] =>
    [...here].filter(([sha256, who]) => !isDeepStrictEqual(who, there.get(sha256))).map(([, who]) => describe(who));
  const named = (what: string, who: readonly string[]): readonly string[] => {
    const more = who.length > maxNamed ? ` and ${who.length - maxNamed} more` : '';
    return who.length === 0 ? [] : [`${what}: ${who.slice(0, maxNamed).join(', ')}${more}`];
  };
  return [...named('new', missing(now, before)), ...named('gone', missing(before, now))].join('; ');
}

const describe = ({ subject, project, role, expireTimeMs }: Principal): string =>
  `${subject} (${role} of ${project}${expireTimeMs === undefined ? '' : ` until ${new Date(expireTimeMs).toISOString()}`})`;

async function readPrincipals(file: string): Promise<ReadonlyMap<string, Principal>> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (error) {
    throw new TokenFileError(`cannot read the token file: ${error instanceof Error ? error.message : error}`);
  }
  if (bytes.length > maxBytes) throw new TokenFileError(`${file} is larger than ${maxBytes} bytes`);
  return parseTokenFile(bytes.toString('utf8'), file);
}

/** The callers of a file, by the hashes of their tokens. Throws TokenFileError. */
export function parseTokenFile(text: string, file: string): ReadonlyMap<string, Principal> {
  const document = parseDocument(text, { uniqueKeys: true });
  const [broken] = document.errors;
  // Not the parser's own message, which shows lines of the file.
  if (broken)
    throw new TokenFileError(`${file} is not YAML: ${broken.code} in line ${broken.linePos?.[0].line ?? '?'}`);
  let list: unknown;
  try {
    list = document.toJS({ maxAliasCount: 0 }) ?? [];
  } catch (error) {
    throw new TokenFileError(`${file}: aliases are not taken`, { cause: error });
  }
  if (!Array.isArray(list)) throw new TokenFileError(`${file}: expected a list of tokens`);
  const principals = new Map<string, Principal>();
  for (const [i, entry] of list.entries()) {
    const at = `${file}: [${i}]`;
    const { sha256, principal } = parseEntry(entry, at);
    if (principals.has(sha256)) throw new TokenFileError(`${at}.sha256: is in the file twice`);
    principals.set(sha256, principal);
  }
  return principals;
}

function parseEntry(entry: unknown, at: string): { readonly sha256: string; readonly principal: Principal } {
  if (typeof entry !== 'object' || entry === null || Array.isArray(entry)) {
    throw new TokenFileError(`${at}: expected a mapping with sha256, subject, project, role and, if it ends, expires`);
  }
  const given = entry as Record<string, unknown>;
  const unknown = Object.keys(given).find((key) => !fields.includes(key));
  if (unknown !== undefined) {
    throw new TokenFileError(`${at}: unknown field ${JSON.stringify(unknown)}; fields are ${fields.join(', ')}`);
  }
  const text = (field: string, pattern: RegExp, expected: string): string => {
    const value = given[field];
    if (typeof value !== 'string' || !pattern.test(value))
      throw new TokenFileError(`${at}.${field}: expected ${expected}`);
    return value;
  };
  if (given.description !== undefined) text('description', /^/, 'text');
  const sha256 = text('sha256', /^[0-9a-f]{64}$/, 'the SHA-256 of the token, as 64 lower-case hexadecimal digits');
  const subject = text('subject', /^[\x21-\x7e]{1,255}$/, 'up to 255 printable characters without spaces');
  const project = text('project', projectPattern, 'up to 63 letters, digits, "_", "." and "-"');
  const role = text('role', /^(admin|member|reader)$/, 'admin, member or reader') as Role;
  const who = { subject, project, role };
  const expireTimeMs = expiryOf(given.expires, at);
  return { sha256, principal: Object.freeze(expireTimeMs === undefined ? who : { ...who, expireTimeMs }) };
}

function expiryOf(value: unknown, at: string): number | undefined {
  if (value === undefined) return undefined;
  const text = typeof value === 'string' ? value : '';
  const timeMs = /^\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d))?$/.test(text)
    ? Date.parse(text)
    : Number.NaN;
  if (Number.isNaN(timeMs)) {
    throw new TokenFileError(`${at}.expires: expected a time such as 2027-01-31T00:00:00Z, or a day`);
  }
  return timeMs;
}
