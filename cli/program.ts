import { readFile } from 'node:fs/promises';
import { Command, CommanderError } from 'commander';
import { withDryRunValue } from './dry_run.ts';
import { exitStatus, renderError, UsageError } from './errors.ts';
import { type Io, write } from './io.ts';
import { type CommandModule, type Environment, globalValueFlags, Sessions, withGlobals } from './session.ts';

interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  readonly hidden?: boolean;
  load(): Promise<CommandModule>;
}

/** Every command, in the order of the help. Only the one that is called is loaded. */
const commands: readonly CommandEntry[] = [
  { name: 'get', summary: 'show objects', load: () => import('./commands/get.ts') },
  {
    name: 'describe',
    summary: 'show everything about an object, for people',
    load: () => import('./commands/describe.ts'),
  },
  { name: 'why', summary: 'say why an object is as it is', load: () => import('./commands/why.ts') },
  { name: 'run', summary: 'run a container', load: () => import('./commands/run.ts') },
  { name: 'create', summary: 'make objects, from files or by name', load: () => import('./commands/create.ts') },
  { name: 'apply', summary: 'make objects as files say', load: () => import('./commands/apply.ts') },
  { name: 'diff', summary: 'show what apply would change', load: () => import('./commands/diff.ts') },
  { name: 'edit', summary: 'change an object in your editor', load: () => import('./commands/edit.ts') },
  {
    name: 'scale',
    summary: 'say how many pods replication controllers keep',
    load: () => import('./commands/scale.ts'),
  },
  { name: 'label', summary: 'set and take away labels', load: () => import('./commands/label.ts') },
  { name: 'annotate', summary: 'set and take away annotations', load: () => import('./commands/annotate.ts') },
  { name: 'delete', summary: 'delete objects', load: () => import('./commands/delete.ts') },
  { name: 'logs', summary: 'show what a container, or one of a pod, writes', load: () => import('./commands/logs.ts') },
  {
    name: 'exec',
    summary: 'run a command in a container, or in one of a pod',
    load: () => import('./commands/exec.ts'),
  },
  { name: 'wait', summary: 'wait until objects are as you want', load: () => import('./commands/wait.ts') },
  {
    name: 'container',
    summary: 'start, stop, pause, unpause, reboot containers',
    load: () => import('./commands/container.ts'),
  },
  { name: 'bay', summary: 'make bays, and let nodes join them', load: () => import('./commands/bay.ts') },
  { name: 'node', summary: 'cordon, uncordon, revoke nodes', load: () => import('./commands/node.ts') },
  { name: 'token', summary: 'make, list and revoke access tokens', load: () => import('./commands/token.ts') },
  { name: 'quota', summary: 'show and set how much a project may have', load: () => import('./commands/quota.ts') },
  {
    name: 'audit',
    summary: 'show who changed what, and verify the log of it',
    load: () => import('./commands/audit.ts'),
  },
  { name: 'top', summary: 'show what nodes use', load: () => import('./commands/top.ts') },
  {
    name: 'config',
    summary: 'contexts: which control plane, bay and namespace',
    load: () => import('./commands/config.ts'),
  },
  { name: 'login', summary: 'log in with a user of OpenStack', load: () => import('./commands/login.ts') },
  { name: 'logout', summary: 'revoke and forget the login', load: () => import('./commands/logout.ts') },
  { name: 'whoami', summary: 'show who the control plane takes you for', load: () => import('./commands/whoami.ts') },
  { name: 'version', summary: 'show versions of client and server', load: () => import('./commands/version.ts') },
  {
    name: 'completion',
    summary: 'print a script that completes words in your shell',
    load: () => import('./commands/completion.ts'),
  },
  {
    name: '__complete',
    summary: 'used by completion scripts',
    hidden: true,
    load: () => import('./commands/complete.ts'),
  },
];

const epilogue = `
Examples:
  bayctl get nodes -b local
  bayctl run web -b local --image busybox -- httpd -f
  bayctl get containers -b local --watch
  bayctl why container/web -b local
  bayctl apply -f redis/ -b edge-1 --dry-run=server
  bayctl get pods -b edge-1 -o wide

Environment:
  BAYKEEPER_SERVER, BAYKEEPER_TOKEN, BAYKEEPER_BAY, BAYKEEPER_PROJECT   win over the context
  BAYKEEPER_HOME   folder of the control plane of this machine (default: ~/.baykeeper)
  BAYCTL_CONFIG    file of contexts (default: ~/.baykeeper/config.yaml)
  NO_COLOR         no colours

Exit status:
  0 done                     5 exists already, changed since, or its state does not allow it
  1 failed                   6 control plane or node not reachable, or too busy
  2 wrong usage              7 not in time
  3 not known or allowed     8 a value that cannot be
  4 not found                9 not built yet             130 interrupted
  exec passes on the exit status of what it ran; diff ends with 1 when there are differences.
`;

/** Runs one command line (without the program's own name) to its end. Resolves with the exit status; does not throw. */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  const sessions = new Sessions(io, clientVersion);
  const environment: Environment = {
    io,
    version: clientVersion,
    program: () => buildProgram([], environment, true),
    open: (command) => sessions.open(command),
    openWith: (flags) => sessions.openWith(flags),
  };
  const verbose = beforeDashes(argv).some((word) => word === '-v' || word === '--verbose');
  try {
    const program = await buildProgram(normalise(argv), environment);
    await program.parseAsync(normalise(argv), { from: 'user' });
    return exitStatus.ok;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitStatus.ok : exitStatus.usage;
    const { text, status } = renderError(error, verbose);
    await write(io.stderr, text);
    if (error instanceof UsageError)
      await write(io.stderr, `See 'bayctl ${commandWord(normalise(argv)) ?? ''} --help'.\n`.replace('  ', ' '));
    return status;
  } finally {
    await sessions.close();
  }
}

/** The whole command line; of the commands only the one that `argv` calls has more than its name, or all with `everything`. */
async function buildProgram(argv: readonly string[], environment: Environment, everything = false): Promise<Command> {
  const { io } = environment;
  const program = new Command('bayctl');
  program
    .description('bayctl works with the containers, pods, nodes and bays of Baykeeper.')
    .enablePositionalOptions()
    .exitOverride()
    .showSuggestionAfterError(true)
    .configureOutput({
      writeOut: (text) => io.stdout.write(text),
      writeErr: (text) => io.stderr.write(text),
      getOutHelpWidth: () => io.stdout.columns || 100,
      getErrHelpWidth: () => io.stderr.columns || 100,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
      outputError: (text, put) => put(text.replace(/^error: /, 'Error: ')),
    })
    .helpCommand('help [command]', 'show help for a command')
    .version(await environment.version(), '--version', 'print the version of this program')
    .addHelpText('after', epilogue);
  withGlobals(program);
  const called = commandWord(argv);
  for (const entry of commands) {
    if (everything || entry.name === called) (await entry.load()).register(program, environment);
    else program.command(entry.name, { hidden: entry.hidden === true }).description(entry.summary);
  }
  return program;
}

/** The names of all commands that help shows, with their summaries. */
export function commandSummaries(): readonly { readonly name: string; readonly summary: string }[] {
  return commands.filter((entry) => !entry.hidden);
}

/** `help X…` means `X… --help`, and a bare `--dry-run` one by the server. */
function normalise(argv: readonly string[]): readonly string[] {
  return withDryRunValue(argv[0] === 'help' && argv.length > 1 ? [...argv.slice(1), '--help'] : argv);
}

function commandWord(argv: readonly string[]): string | undefined {
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at] ?? '';
    if (globalValueFlags.has(word)) at++;
    else if (!word.startsWith('-')) return word;
    else if (word === '--') return undefined;
  }
  return undefined;
}

function beforeDashes(argv: readonly string[]): readonly string[] {
  const at = argv.indexOf('--');
  return at < 0 ? argv : argv.slice(0, at);
}

async function clientVersion(): Promise<string> {
  const text = await readFile(new URL('../package.json', import.meta.url), 'utf8');
  const parsed: unknown = JSON.parse(text);
  return typeof parsed === 'object' && parsed !== null && 'version' in parsed ? String(parsed.version) : 'unknown';
}
