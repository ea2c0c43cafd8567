import { type Command, Option } from 'commander';
import { parsePositiveDuration } from './args.ts';
import type { Api } from './client.ts';
import { type GlobalFlags, resolveSettings, type Settings } from './context.ts';
import { type Io, write } from './io.ts';
import type { Objects, Place } from './objects.ts';
import { escapeLine } from './output/escape.ts';

/** How long one call may take unless `--request-timeout` says otherwise. */
export const defaultRequestTimeoutMs = 30_000;

/** One run of the program, as its command sees it. What takes long to load is loaded when it is asked for. */
export interface Session {
  readonly io: Io;
  readonly flags: GlobalFlags;
  readonly settings: Settings;
  readonly requestTimeoutMs: number;
  readonly api: Api;
  readonly objects: Objects;
  /** Bay and namespace from flags, environment and context. */
  readonly place: Place;
  /** Writes to stdout. */
  out(text: string): Promise<void>;
  /** Writes to stderr. */
  err(text: string): Promise<void>;
}

/** What commands are registered with. */
export interface Environment {
  readonly io: Io;
  /** Version of this program. */
  version(): Promise<string>;
  /** The whole command line, every command loaded. */
  program(): Promise<Command>;
  /** Opens a connection to the control plane that the command's flags choose. It is closed when the program ends. */
  open(command: Command): Promise<Session>;
  /** The same, for flags that come from elsewhere. */
  openWith(flags: GlobalFlags): Promise<Session>;
}

/** A file in commands/. */
export interface CommandModule {
  register(parent: Command, environment: Environment): void;
}

/** The flags that take a value before the command's name may come. */
export const globalValueFlags: ReadonlySet<string> = new Set([
  '-b',
  '--bay',
  '-n',
  '--namespace',
  '--project',
  '--context',
  '--server',
  '--token',
  '--ca-file',
  '--request-timeout',
]);

/** Gives a command the flags that every command has. */
export function withGlobals(command: Command): Command {
  const group = 'Global options:';
  const options = [
    new Option('-b, --bay <name>', 'the bay (default: BAYKEEPER_BAY, or of the context)'),
    new Option('-n, --namespace <name>', 'the namespace (default: of the context, or default)'),
    new Option('--project <name>', 'work in this project: admins only (default: BAYKEEPER_PROJECT, or of the context)'),
    new Option('--all-projects', 'look at every project at once: admins only'),
    new Option('--context <name>', 'which context of the configuration to use'),
    new Option('--server <url>', 'address of the control plane (default: BAYKEEPER_SERVER, or of the context)'),
    new Option('--token <token>', 'who you are (default: BAYKEEPER_TOKEN, or of the context)'),
    new Option('--ca-file <path>', 'whom to trust over https, as PEM (default: BAYKEEPER_CA_FILE, or of the context)'),
    new Option('--request-timeout <time>', 'how long one call may take (default: 30s)').argParser(
      parsePositiveDuration,
    ),
    new Option('--allow-plaintext', 'send the token over http:// to another machine'),
    new Option('-v, --verbose', 'say on stderr what is called, with request ids'),
  ];
  for (const option of options) command.addOption(option.helpGroup(group));
  return command;
}

/** Gives a command's help its examples. */
export function examples(command: Command, ...lines: readonly string[]): Command {
  return command.addHelpText('after', `\nExamples:\n${lines.map((line) => `  ${line}\n`).join('')}`);
}

/** A command's flags and those given before its name; the nearer ones win. */
export function allFlags<T extends GlobalFlags>(command: Command): T {
  const chain: Command[] = [];
  for (let at: Command | null = command; at; at = at.parent) chain.unshift(at);
  return Object.assign({}, ...chain.map((at) => at.opts())) as T;
}

/** Opens sessions, and closes them all at the end. */
export class Sessions {
  readonly #io: Io;
  readonly #version: () => Promise<string>;
  readonly #open: Api[] = [];

  constructor(io: Io, version: () => Promise<string>) {
    this.#io = io;
    this.#version = version;
  }

  open(command: Command): Promise<Session> {
    return this.openWith(allFlags<GlobalFlags>(command));
  }

  async openWith(flags: GlobalFlags): Promise<Session> {
    const io = this.#io;
    const settings = await resolveSettings(io, flags);
    const requestTimeoutMs = flags.requestTimeout ?? defaultRequestTimeoutMs;
    const [{ createApi }, { Objects }] = await Promise.all([import('./client.ts'), import('./objects.ts')]);
    const trace = (line: string): void => {
      io.stderr.write(`${escapeLine(line)}\n`);
    };
    if (flags.verbose) trace(`server ${settings.server}, context ${settings.context || '(none)'}`);
    const api = createApi({
      settings,
      requestTimeoutMs,
      userAgent: `bayctl/${await this.#version()}`,
      signal: io.signal,
      ...(flags.verbose ? { trace } : {}),
    });
    this.#open.push(api);
    return {
      io,
      flags,
      settings,
      requestTimeoutMs,
      api,
      objects: new Objects(api),
      place: { bay: settings.bay, namespace: settings.namespace },
      out: (text) => write(io.stdout, text),
      err: (text) => write(io.stderr, text),
    };
  }

  /** What a server has told by then of who vouches for it is kept. */
  async close(): Promise<void> {
    for (const api of this.#open) {
      await this.#learn(api).catch(() => undefined);
      api.close();
    }
  }

  /** It can be learnt by the next command, too: what hinders it now is not worth a word. */
  async #learn(api: Api): Promise<void> {
    const renewed = this.#io.signal.aborted ? undefined : await api.newAuthority();
    if (renewed === undefined) return;
    const { keepAuthority } = await import('./ca_renewal.ts');
    await keepAuthority(this.#io, api.settings, renewed);
  }
}
