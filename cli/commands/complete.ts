import type { Command, Option } from 'commander';
import { type GlobalFlags, listContexts } from '../context.ts';
import { write } from '../io.ts';
import { mappingsAt, textAt } from '../json.ts';
import { findKind, type KindName, type KindRow, kindRow, kindRows } from '../kinds.ts';
import { metadataOf } from '../objects.ts';
import { escapeLine } from '../output/escape.ts';
import { outputWords } from '../output/printer.ts';
import type { Environment, Session } from '../session.ts';

/** Somebody waits with a finger on the tab key. */
const timeoutMs = 2_000;
const maxNames = 500;

interface Candidate {
  readonly word: string;
  readonly description?: string;
}

/** The words before the one under the cursor, understood. */
interface Line {
  readonly command: Command;
  /** Names of the commands that lead there: `bay join-command`. */
  readonly path: string;
  readonly operands: readonly string[];
  /** The option whose value is under the cursor. */
  readonly option: Option | undefined;
  /** What is typed of it. */
  readonly typed: string;
  /** What stands before it in the same word: `--output=`. */
  readonly prefix: string;
  readonly flags: GlobalFlags;
}

/** `bayctl __complete -- WORD…`, for the scripts of `bayctl completion`. Never fails: what it cannot find out it leaves out. */
export function register(parent: Command, environment: Environment): void {
  parent
    .command('__complete', { hidden: true })
    .description('used by completion scripts')
    .argument('[word...]')
    .action(async (words: string[]) => {
      const program = await environment.program();
      const line = understand(program, words);
      if (!line) return;
      const candidates = await candidatesFor(environment, program, line);
      const matching = candidates.filter(({ word }) => word.startsWith(line.typed));
      await write(
        environment.io.stdout,
        matching
          .map(
            ({ word, description }) =>
              `${escapeLine(line.prefix + word)}${description ? `\t${escapeLine(description)}` : ''}\n`,
          )
          .join(''),
      );
    });
}

/** Undefined when the cursor is behind `--`, where the words are not ours. */
function understand(program: Command, words: readonly string[]): Line | undefined {
  const before = words.slice(0, -1);
  const current = words.at(-1) ?? '';
  let command = program;
  const operands: string[] = [];
  const path: string[] = [];
  const flags: Record<string, string> = {};
  let pending: Option | undefined;
  for (const word of before) {
    if (pending) {
      flags[pending.attributeName()] = word;
      pending = undefined;
    } else if (word === '--') {
      return undefined;
    } else if (word.startsWith('-')) {
      const [flag = '', value] = word.split(/=(.*)/s);
      const option = findOption(command, flag);
      if (option && takesValue(option)) {
        if (value === undefined) pending = option;
        else flags[option.attributeName()] = value;
      }
    } else {
      const next = operands.length === 0 ? command.commands.find((candidate) => candidate.name() === word) : undefined;
      if (next) {
        command = next;
        path.push(word);
      } else operands.push(word);
    }
  }
  const globals = {
    context: flags.context,
    server: flags.server,
    token: flags.token,
    bay: flags.bay,
    namespace: flags.namespace,
  };
  const at = current.indexOf('=');
  const inline = !pending && current.startsWith('--') && at > 0 ? findOption(command, current.slice(0, at)) : undefined;
  return {
    command,
    path: path.join(' '),
    operands,
    option: pending ?? inline,
    typed: inline ? current.slice(at + 1) : current,
    prefix: inline ? current.slice(0, at + 1) : '',
    flags: globals,
  };
}

function findOption(command: Command, flag: string): Option | undefined {
  return command.options.find((option) => option.long === flag || option.short === flag);
}

function takesValue(option: Option): boolean {
  return option.required;
}

async function candidatesFor(environment: Environment, program: Command, line: Line): Promise<readonly Candidate[]> {
  if (line.option) return optionValues(environment, line, line.option);
  if (line.typed.startsWith('-')) {
    return line.command.options.map((option) => ({
      word: option.long ?? option.short ?? '',
      description: option.description,
    }));
  }
  if (line.command.commands.length > 0 && line.operands.length === 0) {
    const children = line.command.commands.filter((child) => !child.name().startsWith('__'));
    return children.map((child) => ({ word: child.name(), description: child.description() }));
  }
  return operandValues(environment, program, line);
}

async function optionValues(environment: Environment, line: Line, option: Option): Promise<readonly Candidate[]> {
  switch (option.attributeName()) {
    case 'bay':
      return names(environment, line, 'Bay');
    case 'node':
      return names(environment, line, 'Node');
    case 'model':
      return names(environment, line, 'BayModel');
    case 'context':
      return contexts(environment);
    case 'output':
      return outputWords.map(plain);
    case 'restart':
      return ['always', 'on-failure', 'never'].map(plain);
    case 'engine':
      return ['docker', 'kubernetes'].map(plain);
    case 'provisioner':
      return ['enroll', 'heat'].map(plain);
    case 'dryRun':
      return ['server', 'none'].map(plain);
    case 'container':
      return containersOf(environment, line);
    case 'for':
      return ['phase=RUNNING', 'condition=Ready', 'delete', 'jsonpath='].map(plain);
    case 'sortBy':
      return (line.path === 'top nodes' ? ['cpu', 'memory', 'disk', 'name'] : ['name', 'age']).map(plain);
    default:
      return [];
  }
}

async function operandValues(environment: Environment, program: Command, line: Line): Promise<readonly Candidate[]> {
  switch (line.path) {
    case 'get':
    case 'describe':
    case 'delete':
    case 'wait':
    case 'edit':
    case 'label':
    case 'annotate':
    case 'why':
      return objectWords(environment, line, line.path === 'get' ? [plain('all')] : []);
    case 'logs':
    case 'exec':
      if (line.operands.length > 0) return [];
      return line.typed.includes('/') ? qualified(environment, line) : streamTargets(environment, line);
    case 'scale':
      return line.typed.includes('/')
        ? qualified(environment, line)
        : line.operands.length === 0
          ? ['rc', 'replicationcontroller'].map(plain)
          : names(environment, line, 'ReplicationController');
    case 'container start':
    case 'container stop':
    case 'container pause':
    case 'container unpause':
    case 'container reboot':
      return names(environment, line, 'Container');
    case 'node cordon':
    case 'node uncordon':
    case 'node revoke':
    case 'top nodes':
      return names(environment, line, 'Node');
    case 'bay join-command':
    case 'bay revoke':
      return line.operands.length === 0 ? names(environment, line, 'Bay') : [];
    case 'config use-context':
    case 'config delete-context':
    case 'config set-context':
      return line.operands.length === 0 ? contexts(environment) : [];
    case 'completion':
      return ['bash', 'zsh', 'fish'].map(plain);
    case 'help':
      return program.commands.filter((child) => !child.name().startsWith('__')).map((child) => plain(child.name()));
    default:
      return [];
  }
}

/** A kind, then names of it; or KIND/NAME. */
async function objectWords(
  environment: Environment,
  line: Line,
  more: readonly Candidate[],
): Promise<readonly Candidate[]> {
  if (line.typed.includes('/')) return qualified(environment, line);
  const [first] = line.operands;
  if (first === undefined) return [...kindRows.flatMap((row) => [plain(row.singular), plain(row.plural)]), ...more];
  const kind = first.includes('/') ? undefined : findKind(first);
  return kind ? names(environment, line, kind.name) : [];
}

async function qualified(environment: Environment, line: Line): Promise<readonly Candidate[]> {
  const word = line.typed.slice(0, line.typed.indexOf('/'));
  const kind = findKind(word);
  if (!kind) return [];
  const found = await names(environment, line, kind.name);
  return found.map((candidate) => ({ ...candidate, word: `${word}/${candidate.word}` }));
}

/** What has logs and runs commands: containers by their names alone, and pods. */
async function streamTargets(environment: Environment, line: Line): Promise<readonly Candidate[]> {
  const [containers, pods] = await Promise.all([
    names(environment, line, 'Container'),
    names(environment, line, 'Pod'),
  ]);
  return [...containers, ...pods.map(({ word }) => plain(`pod/${word}`))];
}

/** The containers of the pod that the line names. */
function containersOf(environment: Environment, line: Line): Promise<readonly Candidate[]> {
  const name = line.operands[0]?.replace(/^[^/]*\//, '');
  if (!name) return Promise.resolve([]);
  return inTime(environment, line, async (session) => {
    const pod = await session.objects.get(kindRow('Pod'), session.place, name);
    const manifest = pod.$typeName === 'baykeeper.v1.Pod' ? pod.spec?.manifest : undefined;
    const all = [...mappingsAt(manifest, 'containers'), ...mappingsAt(manifest, 'initContainers')];
    return all.map((container) => plain(textAt(container, 'name')));
  });
}

async function contexts(environment: Environment): Promise<readonly Candidate[]> {
  try {
    const all = await listContexts(environment.io);
    return [...all.contexts].map(([name, { server }]) => ({ word: name, description: server ?? '' }));
  } catch {
    // A broken file is reported by the command itself; a tab key has nowhere to report to.
    return [];
  }
}

function names(environment: Environment, line: Line, kind: KindName): Promise<readonly Candidate[]> {
  return inTime(environment, line, (session) => fetchNames(session, kindRow(kind)));
}

async function inTime(
  environment: Environment,
  line: Line,
  fetch: (session: Session) => Promise<readonly Candidate[]>,
): Promise<readonly Candidate[]> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<readonly Candidate[]>((resolve) => {
    timer = setTimeout(() => resolve([]), timeoutMs);
  });
  try {
    const session = await environment.openWith({ ...line.flags, requestTimeout: timeoutMs });
    return await Promise.race([fetch(session), late]);
  } catch {
    return [];
  } finally {
    clearTimeout(timer);
  }
}

async function fetchNames(session: Session, kind: KindRow): Promise<readonly Candidate[]> {
  const place = { bay: session.place.bay, namespace: session.place.namespace || 'default' };
  const { objects } = await session.objects.list(kind, place, { limit: maxNames });
  return objects.map((object) => plain(metadataOf(object).name));
}

function plain(word: string): Candidate {
  return { word };
}
