import { UsageError } from './errors.ts';

/** The seven kinds, by name. */
export type KindName = 'BayModel' | 'Bay' | 'Node' | 'Pod' | 'Service' | 'ReplicationController' | 'Container';

/** What commands need to know of a kind without loading its messages. */
export interface KindRow {
  readonly name: KindName;
  /** As printed: `container/web`. */
  readonly singular: string;
  readonly plural: string;
  /** Other words for it. */
  readonly aliases: readonly string[];
  /** Where its names are unique. */
  readonly scope: 'project' | 'bay' | 'namespace';
  /** Fields of requests and responses. */
  readonly field: string;
  readonly listField: string;
}

export const kindRows: readonly KindRow[] = [
  row('BayModel', ['bm'], 'project', 'bayModel'),
  row('Bay', [], 'project', 'bay'),
  row('Node', ['no'], 'bay', 'node'),
  row('Pod', ['po'], 'namespace', 'pod'),
  row('Service', ['svc'], 'namespace', 'service'),
  row('ReplicationController', ['rc'], 'namespace', 'replicationController'),
  row('Container', ['c', 'ctr'], 'namespace', 'container'),
];

/** What `all` stands for: what users run in a bay. */
export const allKinds: readonly KindName[] = ['Container', 'Pod', 'Service', 'ReplicationController'];

function row(name: KindName, aliases: readonly string[], scope: KindRow['scope'], field: string): KindRow {
  const singular = name.toLowerCase();
  return { name, singular, plural: `${singular}s`, aliases, scope, field, listField: `${field}s` };
}

/** The row of a kind. */
export function kindRow(name: KindName): KindRow {
  const found = kindRows.find((candidate) => candidate.name === name);
  if (!found) throw new Error(`no row for kind ${name}`);
  return found;
}

/** The kind for a word as users type it: `ctr`, `Containers`, `bay_model`. Undefined for any other word. */
export function findKind(word: string): KindRow | undefined {
  const wanted = word.toLowerCase().replace(/[_-]/g, '');
  return kindRows.find(
    (candidate) =>
      candidate.singular === wanted ||
      candidate.plural === wanted ||
      candidate.aliases.some((alias) => alias === wanted),
  );
}

/** As `findKind`. Throws UsageError naming the kinds there are. */
export function parseKind(word: string): KindRow {
  const found = findKind(word);
  if (found) return found;
  const known = kindRows.map((candidate) => [candidate.singular, ...candidate.aliases].join('|')).join(', ');
  throw new UsageError(`there is no kind "${word}"; kinds are: ${known}`);
}

/** One object as users name it. */
export interface Target {
  readonly kind: KindRow;
  readonly name: string;
}

/** Parses `KIND/NAME`, or `NAME` where `defaultKind` says what it is. */
export function parseTarget(text: string, defaultKind?: KindName): Target {
  const parts = text.split('/');
  const [first = '', second = ''] = parts;
  if (parts.length === 2 && first && second) return { kind: parseKind(first), name: second };
  if (parts.length === 1 && first && defaultKind) return { kind: kindRow(defaultKind), name: first };
  throw new UsageError(`expected KIND/NAME (as container/web), and not "${text}"`);
}

/** What `get`, `delete` and the like were given: whole kinds, or objects of them. */
export interface Selection {
  readonly kinds: readonly KindRow[];
  /** Empty: all of the kinds. */
  readonly targets: readonly Target[];
}

/** Parses `KIND`, `KIND,KIND`, `all`, `KIND NAME…` and `KIND/NAME…`. */
export function parseSelection(words: readonly string[]): Selection {
  const [first, ...rest] = words;
  if (first === undefined) throw new UsageError('say which kind, or KIND/NAME');
  if (words.some((word) => word.includes('/'))) {
    const targets = words.map((word) => parseTarget(word));
    return { kinds: [...new Set(targets.map((target) => target.kind))], targets };
  }
  const kinds = first
    .split(',')
    .flatMap((word) => (word.toLowerCase() === 'all' ? allKinds.map(kindRow) : [parseKind(word)]));
  const unique = [...new Set(kinds)];
  if (rest.length > 0 && unique.length > 1)
    throw new UsageError('names can follow one kind only; write KIND/NAME for each');
  const [only] = unique;
  return { kinds: unique, targets: only ? rest.map((name) => ({ kind: only, name })) : [] };
}
