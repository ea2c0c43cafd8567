import { dirname } from 'node:path';
import type { Command } from 'commander';
import {
  type ConfigFile,
  type Context,
  defaultServer,
  type GlobalFlags,
  listContexts,
  localContext,
  parseServer,
  readConfig,
  writeConfig,
} from '../context.ts';
import { CliError, UsageError } from '../errors.ts';
import { type Io, write } from '../io.ts';
import { forgetLogin } from '../login.ts';
import { escapeLine } from '../output/escape.ts';
import { allFlags, type Environment, examples, withGlobals } from '../session.ts';
import { caOfFlags } from '../trust.ts';

interface SetFlags extends GlobalFlags {
  readonly tokenFile?: string;
  readonly current?: boolean;
  readonly caFingerprint?: string;
}

/** `bayctl config`. */
export function register(parent: Command, environment: Environment): void {
  const { io } = environment;
  const command = parent.command('config').description('contexts: which control plane, bay and namespace');
  examples(
    command,
    'bayctl config get-contexts',
    'bayctl config set-context work --server https://bays.example.com:7480 --ca-fingerprint sha256:… --token-file ~/.work.token',
    'bayctl config use-context work',
  );
  const add = (name: string, summary: string, example: string, build: (own: Command) => void): void => {
    const own = command.command(name).description(summary);
    build(own);
    examples(withGlobals(own), example);
  };
  add('get-contexts', 'list all contexts', 'bayctl config get-contexts', (own) =>
    own
      .option('-o, --output <format>', 'name')
      .option('--no-headers', 'no titles over the columns')
      .action((flags: { output?: string; headers: boolean }) => getContexts(io, flags)),
  );
  add('current-context', 'print the name of the context in use', 'bayctl config current-context', (own) =>
    own.action(async () => {
      const { current } = await listContexts(io);
      if (!current) throw new CliError('no context is in use: see `bayctl config get-contexts`');
      await write(io.stdout, `${escapeLine(current)}\n`);
    }),
  );
  add('use-context', 'use a context from now on', 'bayctl config use-context work', (own) =>
    own.argument('<name>', 'the context').action(async (name: string) => {
      const { contexts } = await listContexts(io);
      if (!contexts.has(name))
        throw new UsageError(`there is no context "${name}"; there are: ${[...contexts.keys()].join(', ') || 'none'}`);
      await writeConfig({ ...(await readConfig(io)), current: name });
      await write(io.stdout, `context ${escapeLine(name)} is in use\n`);
    }),
  );
  add(
    'set-context',
    'make a context, or change one, with --server, --ca-fingerprint, --ca-file, --token, --bay, --namespace, --project',
    'bayctl config set-context --current --bay edge-1',
    (own) =>
      own
        .argument('[name]', 'the context')
        .option('--current', 'the one in use')
        .option('--token-file <path>', 'a file that holds the token')
        .option('--ca-fingerprint <sha256:hex>', 'learn the CA of the server now, which must have this fingerprint')
        .action((name: string | undefined, _flags: unknown, self: Command) =>
          setContext(io, name, allFlags<SetFlags>(self)),
        ),
  );
  add('delete-context', 'forget a context', 'bayctl config delete-context work', (own) =>
    own.argument('<name>', 'the context').action(async (name: string) => {
      const config = await readConfig(io);
      const contexts = new Map(config.contexts);
      if (!contexts.delete(name)) throw new UsageError(`there is no context "${name}" in ${config.path}`);
      await writeConfig({ ...config, contexts, current: config.current === name ? '' : config.current });
      await forgetLogin(dirname(config.path), name);
      await write(io.stdout, `context ${escapeLine(name)} deleted\n`);
    }),
  );
  add('view', 'print the configuration, without its tokens', 'bayctl config view', (own) =>
    own.option('--raw', 'with its tokens').action((flags: { raw?: boolean }) => view(io, flags.raw === true)),
  );
}

async function getContexts(io: Io, flags: { output?: string; headers: boolean }): Promise<void> {
  const { current, contexts } = await listContexts(io);
  if (flags.output === 'name')
    return write(io.stdout, [...contexts.keys()].map((name) => `${escapeLine(name)}\n`).join(''));
  if (flags.output !== undefined) throw new UsageError('-o takes name here');
  if (contexts.size === 0)
    return write(io.stderr, 'No contexts: `npm start` makes one, and `bayctl config set-context` does.\n');
  const { Table } = await import('../output/table.ts');
  const titles = ['CURRENT', 'NAME', 'SERVER', 'BAY', 'NAMESPACE'];
  const table = new Table(
    titles.map((title) => ({ title })),
    { header: flags.headers },
  );
  const rows = [...contexts].map(([name, context]) => [
    name === current ? '*' : '',
    name,
    context.server ?? '',
    context.bay ?? '',
    context.namespace ?? '',
  ]);
  await write(io.stdout, table.render(rows));
}

async function setContext(io: Io, name: string | undefined, flags: SetFlags): Promise<void> {
  const config = await readConfig(io);
  const { current, contexts } = await listContexts(io);
  const wanted = flags.current ? current : name;
  if (flags.current && name !== undefined) throw new UsageError('give a name or --current, not both');
  if (!wanted) throw new UsageError(flags.current ? 'no context is in use' : 'say which context');
  if (!/^[A-Za-z0-9][A-Za-z0-9._@-]*$/.test(wanted))
    throw new UsageError(`"${wanted}" cannot be the name of a context`);
  if (flags.token !== undefined && flags.tokenFile !== undefined)
    throw new UsageError('give --token or --token-file, not both');
  const before: Context = contexts.get(wanted) ?? {};
  const { token, token_file, ca, ca_file, ...rest } = before;
  const server = flags.server === undefined ? undefined : parseServer(flags.server);
  // A token, or a CA, is for the server it was given for.
  const kept: Context =
    server !== undefined && before.server !== undefined && parseServer(before.server) !== server
      ? {}
      : { token, token_file, ca, ca_file };
  const secret =
    flags.token !== undefined
      ? { token: flags.token }
      : flags.tokenFile !== undefined
        ? { token_file: absolute(io, flags.tokenFile) }
        : { token: kept.token, token_file: kept.token_file };
  const learnt = await caOfFlags(server ?? parseServer(before.server ?? defaultServer), flags);
  const trusted = learnt === undefined ? { ca: kept.ca, ca_file: kept.ca_file } : { ca: learnt };
  const context: Context = withoutEmpty({
    ...rest,
    ...secret,
    ...trusted,
    ...(server === undefined ? {} : { server }),
    ...(flags.bay === undefined ? {} : { bay: flags.bay }),
    ...(flags.namespace === undefined ? {} : { namespace: flags.namespace }),
    ...(flags.project === undefined ? {} : { project: flags.project }),
  });
  const changed: ConfigFile = { ...config, contexts: new Map([...config.contexts, [wanted, context]]) };
  // The first of all contexts is the one in use: there is nothing else it could be for.
  const local = await localContext(io);
  await writeConfig({ ...changed, current: config.current || (config.contexts.size === 0 && !local ? wanted : '') });
  await write(io.stdout, `context ${escapeLine(wanted)} ${contexts.has(wanted) ? 'changed' : 'made'}\n`);
}

async function view(io: Io, raw: boolean): Promise<void> {
  const { current, contexts } = await listContexts(io);
  const shown = [...contexts].map(([name, context]) => [
    name,
    withoutEmpty({ ...context, ...(context.token && !raw ? { token: 'REDACTED' } : {}) }),
  ]);
  const { yamlText } = await import('../output/yaml.ts');
  await write(io.stdout, yamlText({ 'current-context': current, contexts: Object.fromEntries(shown) }));
}

function withoutEmpty(context: Context): Context {
  return Object.fromEntries(Object.entries(context).filter(([, value]) => value !== undefined && value !== ''));
}

function absolute(io: Io, path: string): string {
  const expanded = path.startsWith('~/') ? `${io.home}/${path.slice(2)}` : path;
  return expanded.startsWith('/') ? expanded : `${process.cwd()}/${expanded}`;
}
