import { randomUUID } from 'node:crypto';
import { chmod, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { CliError, UsageError } from './errors.ts';
import type { Io } from './io.ts';
import { readLogin, tokenSource } from './login.ts';

/** The address of a control plane that runs with its defaults. */
export const defaultServer = 'http://127.0.0.1:7480';

/** In place of a project: every one. */
export const everyProject = '-';

/** One control plane, and how to speak to it. */
export interface Context {
  readonly server?: string;
  readonly token?: string;
  /** A file that holds the token; relative to the file that names it. */
  readonly token_file?: string;
  /** Whom to trust over https, as PEM, and nobody else. */
  readonly ca?: string;
  /** The same in a file; relative to the file that names it. */
  readonly ca_file?: string;
  readonly bay?: string;
  readonly namespace?: string;
  /** For admins, who have all of them. */
  readonly project?: string;
}
const contextFields = ['server', 'token', 'token_file', 'ca', 'ca_file', 'bay', 'namespace', 'project'] as const;

/** The user's file of contexts. */
export interface ConfigFile {
  readonly path: string;
  readonly current: string;
  readonly contexts: ReadonlyMap<string, Context>;
}

/** What a command works with, all sources taken together. */
export interface Settings {
  /** Name of the context it comes from; empty when from flags and environment alone. */
  readonly context: string;
  readonly server: string;
  /** Whom to trust over https, as PEM. Empty: whom the system trusts. */
  readonly ca: string;
  /** Empty: none is sent. */
  readonly token: string;
  /** Of a login: the token of now, renewed when it is about to end. Rejects with CliError when it has ended. Unset: `token` stays as it is. */
  readonly freshToken?: () => Promise<string>;
  /** Default bay; empty: none. */
  readonly bay: string;
  readonly namespace: string;
  /** The project that is asked for; empty: the caller's own, `-`: every one. */
  readonly project: string;
  /** Why there is no token, or what to do when it is not known: for the error message that follows from it. */
  readonly tokenNote: string;
}

/** The flags that every command has. */
export interface GlobalFlags {
  readonly context?: string;
  readonly server?: string;
  readonly token?: string;
  readonly bay?: string;
  readonly namespace?: string;
  readonly project?: string;
  readonly allProjects?: boolean;
  readonly caFile?: string;
  /** Learnt a moment ago, and not in any file yet: PEM. */
  readonly ca?: string;
  readonly requestTimeout?: number;
  readonly allowPlaintext?: boolean;
  readonly verbose?: boolean;
}

/** `BAYCTL_CONFIG`, or `~/.baykeeper/config.yaml`. */
export function configPath(io: Io): string {
  return io.env.BAYCTL_CONFIG ? resolve(io.env.BAYCTL_CONFIG) : join(io.home, '.baykeeper', 'config.yaml');
}

/** Reads the file of contexts; one that is not there is empty. Throws CliError that names what is wrong and where. */
export async function readConfig(io: Io): Promise<ConfigFile> {
  const path = configPath(io);
  const root = await readMapping(path);
  if (!root) return { path, current: '', contexts: new Map() };
  const current = root['current-context'] ?? '';
  if (typeof current !== 'string') throw new CliError(`${path}: current-context: expected a string`);
  const given = root.contexts ?? {};
  if (!isMapping(given)) throw new CliError(`${path}: contexts: expected a mapping from names to contexts`);
  for (const key of Object.keys(root)) {
    if (key !== 'current-context' && key !== 'contexts') throw new CliError(`${path}: unknown field "${key}"`);
  }
  const contexts = new Map<string, Context>();
  for (const [name, value] of Object.entries(given))
    contexts.set(name, parseContext(`${path}: contexts.${name}`, value, path));
  return { path, current, contexts };
}

/** Writes the file of contexts, whole or not at all, readable by its owner only. */
export async function writeConfig(config: ConfigFile): Promise<void> {
  const { stringify } = await import('yaml');
  const text = stringify({
    ...(config.current ? { 'current-context': config.current } : {}),
    contexts: Object.fromEntries(config.contexts),
  });
  const temporary = `${config.path}.${randomUUID()}`;
  await mkdir(dirname(config.path), { recursive: true, mode: 0o700 });
  try {
    await writeFile(temporary, text, { mode: 0o600, flag: 'wx' });
    await chmod(temporary, 0o600);
    await rename(temporary, config.path);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw new CliError(`cannot write ${config.path}: ${reasonOf(cause)}`, undefined, { cause });
  }
}

/**
 * The context `local`: the control plane that `npm start` runs for this user, as it says in `bayctl.yaml` in its folder
 * (`BAYKEEPER_HOME`, or `~/.baykeeper`). Without that file: the default address and `admin.token` in the folder. Undefined when neither is there.
 */
export async function localContext(io: Io): Promise<Context | undefined> {
  const folder = io.env.BAYKEEPER_HOME ? resolve(io.env.BAYKEEPER_HOME) : join(io.home, '.baykeeper');
  const path = join(folder, 'bayctl.yaml');
  const root = await readMapping(path);
  if (root) return { bay: 'local', ...parseContext(path, root, path) };
  const tokenFile = join(folder, 'admin.token');
  const found = await readFile(tokenFile).then(
    () => true,
    () => false,
  );
  return found ? { server: defaultServer, token_file: tokenFile, bay: 'local' } : undefined;
}

/**
 * Flags win over the environment, that over the context. A token belongs to the server it was given for: when a flag or the
 * environment names another server than the context does, the context's token is not sent there.
 */
export async function resolveSettings(io: Io, flags: GlobalFlags): Promise<Settings> {
  const { name, context } = await chooseContext(io, flags);
  const server = parseServer(flags.server || io.env.BAYKEEPER_SERVER || context.server || defaultServer);
  const sameServer = !context.server || parseServer(context.server) === server;
  let token = flags.token || io.env.BAYKEEPER_TOKEN || '';
  let tokenNote = '';
  const folder = dirname(configPath(io));
  const login = token || !name ? undefined : await readLogin(folder, name);
  let source: Settings['freshToken'];
  if (login && login.server === server) {
    source = tokenSource(io, folder, name, login);
    token = await source();
    tokenNote = 'it came from `bayctl login`: log in again';
  } else if (!token && sameServer) {
    token = context.token ?? (context.token_file ? await readToken(context.token_file) : '');
  } else if (!token) {
    tokenNote = `the token of context "${name}" is for ${context.server} and was not sent to ${server}: give --token or BAYKEEPER_TOKEN`;
  }
  if (!token && !tokenNote)
    tokenNote = 'no token was given: use `bayctl login`, --token, BAYKEEPER_TOKEN or `bayctl config set-context`';
  if (!/^[\x21-\x7e]*$/.test(token)) throw new CliError('the token has characters that a token cannot have');
  const url = new URL(server);
  if (token && url.protocol === 'http:' && !isLoopback(url.hostname) && !flags.allowPlaintext) {
    throw new UsageError(
      `will not send a token in clear to ${url.host}: use https://, or --allow-plaintext where the network is trusted`,
    );
  }
  return {
    context: name,
    server,
    ca: await caOf(io, flags, sameServer ? context : {}),
    token,
    ...(source && { freshToken: source }),
    tokenNote,
    // Of every project at once, no name says which bay.
    bay: flags.allProjects ? '' : flags.bay || io.env.BAYKEEPER_BAY || context.bay || '',
    namespace: flags.namespace || context.namespace || '',
    project: projectOf(io, flags, context),
  };
}

/** Who vouches for one server vouches for no other. */
async function caOf(io: Io, flags: GlobalFlags, context: Context): Promise<string> {
  if (flags.ca) return flags.ca;
  const named = flags.caFile || io.env.BAYKEEPER_CA_FILE;
  if (!named && context.ca) return context.ca;
  const path = named || context.ca_file;
  if (!path) return '';
  const { readCa } = await import('./trust.ts');
  return readCa(path);
}

function projectOf(io: Io, flags: GlobalFlags, context: Context): string {
  if (!flags.allProjects) {
    const project = flags.project || io.env.BAYKEEPER_PROJECT || context.project || '';
    if (!/^[\x21-\x7e]*$/.test(project)) throw new UsageError('a project has no spaces, and only ASCII characters');
    return project;
  }
  if (flags.project) throw new UsageError('give --project or --all-projects, not both');
  if (flags.bay)
    throw new UsageError('--all-projects does not go with --bay: several projects may have a bay of that name');
  return everyProject;
}

/** The names of all contexts, `local` among them when there is one, and which of them is in use. */
export async function listContexts(io: Io): Promise<{ current: string; contexts: ReadonlyMap<string, Context> }> {
  const config = await readConfig(io);
  const contexts = new Map(config.contexts);
  if (!contexts.has('local')) {
    const local = await localContext(io);
    if (local) contexts.set('local', local);
  }
  return { current: config.current || (contexts.has('local') ? 'local' : ''), contexts };
}

async function chooseContext(io: Io, flags: GlobalFlags): Promise<{ name: string; context: Context }> {
  const config = await readConfig(io);
  const wanted = flags.context || config.current;
  if (!wanted || (wanted === 'local' && !config.contexts.has('local'))) {
    const local = await localContext(io);
    if (local) return { name: 'local', context: local };
    if (!wanted) return { name: '', context: {} };
  }
  const context = config.contexts.get(wanted);
  if (!context) {
    const known = [...config.contexts.keys()].join(', ') || 'none';
    throw new UsageError(`there is no context "${wanted}" in ${config.path}; there are: ${known}`);
  }
  return { name: wanted, context };
}

function parseContext(where: string, value: unknown, path: string): Context {
  if (!isMapping(value))
    throw new CliError(`${where}: expected a mapping with server, token or token_file, ca or ca_file, bay, namespace`);
  const fields: Partial<Record<(typeof contextFields)[number], string>> = {};
  for (const [key, given] of Object.entries(value)) {
    const field = contextFields.find((known) => known === key);
    if (!field) throw new CliError(`${where}: unknown field "${key}"; fields are ${contextFields.join(', ')}`);
    if (given === null || given === '') continue;
    if (typeof given !== 'string') throw new CliError(`${where}.${key}: expected a string`);
    fields[field] = field === 'token_file' || field === 'ca_file' ? resolve(dirname(path), given) : given;
  }
  if (fields.token !== undefined && fields.token_file !== undefined) {
    throw new CliError(`${where}: give token or token_file, not both`);
  }
  if (fields.ca !== undefined && fields.ca_file !== undefined) {
    throw new CliError(`${where}: give ca or ca_file, not both`);
  }
  return fields;
}

/** The address without its trailing slashes. Throws UsageError when it is not an http or https URL. */
export function parseServer(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || (url.protocol !== 'http:' && url.protocol !== 'https:') || !url.hostname) {
    throw new UsageError(`"${text}" is not the address of a server; expected something like ${defaultServer}`);
  }
  if (url.username || url.password || url.search || url.hash) {
    throw new UsageError('the address of a server has no user, query or fragment in it');
  }
  return url.href.replace(/\/+$/, '');
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

async function readToken(path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch (cause) {
    throw new CliError(`cannot read the token from ${path}: ${reasonOf(cause)}`, undefined, { cause });
  }
}

async function readMapping(path: string): Promise<Record<string, unknown> | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (isMissing(cause)) return undefined;
    throw new CliError(`cannot read ${path}: ${reasonOf(cause)}`, undefined, { cause });
  }
  const { parse, YAMLParseError } = await import('yaml');
  let root: unknown;
  try {
    // Its warnings would quote the line, and with it perhaps a token: as its errors do.
    root = parse(text, { maxAliasCount: 0, stringKeys: true, logLevel: 'error' }) ?? {};
  } catch (error) {
    const broken = error instanceof YAMLParseError ? error : undefined;
    const what = broken ? `${broken.code} in line ${broken.linePos?.[0].line ?? '?'}` : 'aliases are not taken';
    throw new CliError(`${path} is not YAML: ${what}`);
  }
  if (!isMapping(root)) throw new CliError(`${path}: expected a mapping`);
  return root;
}

function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isMissing(cause: unknown): boolean {
  return cause instanceof Error && 'code' in cause && (cause.code === 'ENOENT' || cause.code === 'ENOTDIR');
}

function reasonOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
