import { posix } from 'node:path';
import { type ImageReference, isWithin, parseImage, parseImagePrefix, showImage } from './image_reference.ts';

/**
 * What the owner of a node lets the bay do on it, whatever the control plane says. Pure: what is asked for and the rules in, what is against
 * them out. How it is read from the disk is in policy_file.ts.
 */
export interface Policy {
  /** For people: where it stands. Empty: there is none, and everything is allowed. */
  readonly source: string;
  readonly rules: { readonly [R in RuleName]: Rule<R> };
}

/** Rules that can only be on or off, and those that can be a list of what is allowed. */
export const switches = ['privileged', 'hostNetwork', 'hostPID', 'hostIPC', 'exec'] as const;
export const lists = ['hostPorts', 'hostMounts', 'capabilities', 'images'] as const;
export const ruleNames = [...switches, ...lists] as const;
export type RuleName = (typeof ruleNames)[number];

interface Allowed {
  readonly hostPorts: HostPorts;
  readonly hostMounts: HostMount;
  /** Without `CAP_`. */
  readonly capabilities: string;
  readonly images: ImageReference;
}
type Rule<R extends RuleName> = 'allow' | 'forbid' | (R extends keyof Allowed ? readonly Allowed[R][] : never);

export interface HostMount {
  /** Absolute, without `.`, `..` and a slash at its end. */
  readonly path: string;
  readonly readOnly: boolean;
}

/** A range of ports; one port is a range of its own. */
export interface HostPorts {
  readonly first: number;
  readonly last: number;
}

/** Something that an object asks of a node, and that a policy may have a rule on. */
export interface Ask {
  readonly rule: RuleName;
  /** An image, a path on the node, a capability, a port (0: one that is chosen there); or the value of a switch. */
  readonly value: string;
  /** Of hostMounts. */
  readonly writable?: boolean;
  /** Where it stands in the object: `spec.mounts[0].source`. Empty: it was read from what runs. */
  readonly field: string;
}

/** Something that is asked for, and that the policy forbids. */
export interface Violation {
  readonly field: string;
  /** For people. */
  readonly message: string;
}

/** Longest time that something forbidden has to end, whatever its author gave it: the owner of the node is not to wait for days. */
export const endSeconds = 30;

/** As in a status. The control plane knows this word, too. */
export const forbiddenReason = 'ForbiddenByPolicy';

export const allowAll: Policy = { source: '', rules: rulesOf(() => 'allow') };

/** A policy, as it is now. */
export interface PolicySource {
  readonly current: Policy;
  /** Calls back when it is another one. Returns what ends that. */
  subscribe(listener: () => void): () => void;
  /** What is wrong with the file now. `current` is then what was last read. */
  readonly problem: string | undefined;
}

/** One that never changes. */
export const fixedPolicy = (current: Policy): PolicySource => ({
  current,
  problem: undefined,
  subscribe: () => () => undefined,
});

/** Thrown when a policy cannot be. The message names the field, and what was expected. */
export class PolicyError extends Error {
  override readonly name = 'PolicyError';
}

/**
 * Others can make a container as good as privileged, so they are not left allowed where that is forbidden. As the Pod Security Standards
 * count them: those that engines give a container anyhow.
 */
const baselineCapabilities = [
  ...['AUDIT_WRITE', 'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'MKNOD', 'NET_BIND_SERVICE', 'SETFCAP'],
  ...['SETGID', 'SETPCAP', 'SETUID', 'SYS_CHROOT'],
];

/** Reads what a YAML parser made of a file. Throws PolicyError. */
export function readPolicy(value: unknown, source: string): Policy {
  if (!isFields(value)) throw new PolicyError('expected a mapping, with default: allow or default: forbid');
  for (const key of Object.keys(value)) {
    if (key !== 'default' && !ruleNames.some((name) => name === key)) {
      throw new PolicyError(`${key}: there is no such rule: expected default, ${ruleNames.join(', ')}`);
    }
  }
  const { default: fallback } = value;
  if (fallback !== 'allow' && fallback !== 'forbid') {
    throw new PolicyError(
      'default: expected allow or forbid: it holds for the rules that are not given, also for those of later versions',
    );
  }
  const read = (name: RuleName): unknown => {
    const given = value[name];
    if (given === undefined && name === 'capabilities' && fallback === 'allow' && value.privileged === 'forbid') {
      return baselineCapabilities;
    }
    if (given === undefined) return fallback;
    if (given === 'allow' || given === 'forbid') return given;
    if (!isList(name)) throw new PolicyError(`${name}: expected allow or forbid`);
    if (!Array.isArray(given)) throw new PolicyError(`${name}: expected allow, forbid, or a list of what is allowed`);
    return given.map((item: unknown, index) => readers[name](item, `${name}[${index}]`));
  };
  return { source, rules: rulesOf(read) };
}

function rulesOf(value: (name: RuleName) => unknown): Policy['rules'] {
  return Object.fromEntries(ruleNames.map((name) => [name, value(name)])) as unknown as Policy['rules'];
}

const isList = (name: RuleName): name is keyof Allowed => lists.some((one) => one === name);

const readers: { readonly [R in keyof Allowed]: (item: unknown, at: string) => Allowed[R] } = {
  hostPorts(item, at) {
    const [, from = '', to = from] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(String(item)) ?? [];
    const [first, last] = [Number(from), Number(to)];
    const isRange = 1 <= first && first <= last && last <= 65_535;
    if (!isRange || (typeof item !== 'number' && typeof item !== 'string')) {
      throw new PolicyError(`${at}: expected a port from 1 to 65535, or a range of them, as 30000-32767`);
    }
    return { first, last };
  },
  hostMounts(item, at) {
    const fields = typeof item === 'string' ? { path: item } : item;
    if (!isFields(fields)) throw new PolicyError(`${at}: expected a path, or a mapping with path and readOnly`);
    for (const key of Object.keys(fields)) {
      if (key !== 'path' && key !== 'readOnly')
        throw new PolicyError(`${at}.${key}: there is no such field: expected path, readOnly`);
    }
    const { path, readOnly = false } = fields;
    if (typeof path !== 'string' || !path.startsWith('/') || path.includes('\0') || hasDots(path, '.', '..')) {
      throw new PolicyError(`${at}.path: expected an absolute path without . and ..`);
    }
    if (typeof readOnly !== 'boolean') throw new PolicyError(`${at}.readOnly: expected true or false`);
    return { path: clean(path), readOnly };
  },
  capabilities(item, at) {
    const name = typeof item === 'string' ? capability(item) : '';
    if (!/^[A-Z][A-Z0-9_]*$/.test(name))
      throw new PolicyError(`${at}: expected the name of a capability, as NET_ADMIN`);
    return name;
  },
  images(item, at) {
    const prefix = typeof item === 'string' ? parseImagePrefix(item) : undefined;
    if (!prefix) {
      throw new PolicyError(
        `${at}: expected a registry or a part of one, without tag and digest: registry.example.com, registry.example.com/team, docker.io/library`,
      );
    }
    return prefix;
  },
};

/** What is against the policy. Empty: nothing. */
export function judge({ rules }: Policy, asks: readonly Ask[]): Violation[] {
  return asks.flatMap((ask) => {
    const { rule, field } = ask;
    if (rules[rule] === 'allow') return [];
    const message = isList(rule) ? judges[rule](ask, rules) : `${whats[rule]} (${ask.value})`;
    return message === undefined ? [] : [{ field, message }];
  });
}

/** Undefined: it is allowed. */
const judges: { readonly [R in keyof Allowed]: (ask: Ask, rules: Policy['rules']) => string | undefined } = {
  hostPorts({ value }, { hostPorts: rule }) {
    // Which one it will be is not known before.
    const what = value === '0' ? 'a port of the node that is chosen there' : `the port ${value} of the node`;
    if (!Array.isArray(rule)) return what;
    const port = /^\d+$/.test(value) ? Number(value) : 0;
    if (rule.some(({ first, last }) => first <= port && port <= last)) return undefined;
    return `${what}; allowed: ${shown(rule.map(showPorts))}`;
  },
  hostMounts({ value, writable }, { hostMounts: rule }) {
    const what = `the mount of ${value || '(no path)'} of the node`;
    if (!Array.isArray(rule)) return what;
    // Where `..` leads depends on links.
    if (!value.startsWith('/') || value.includes('\0') || hasDots(value, '..')) {
      return `${what}, which is no absolute path without ..`;
    }
    const found = rule.filter((one) => isUnder(clean(value), one.path));
    if (found.some((one) => !one.readOnly || !writable)) return undefined;
    if (found.length > 0) return `${what}, which may be mounted for reading only`;
    return `${what}; allowed is what is in ${shown(rule.map((one) => one.path))}`;
  },
  capabilities({ value }, { capabilities: rule }) {
    const name = capability(value);
    if (!Array.isArray(rule)) return `the capability ${name}`;
    return rule.includes(name) ? undefined : `the capability ${name}; allowed: ${shown(rule)}`;
  },
  images({ value }, { images: rule }) {
    const what = `the image ${value || '(none)'}`;
    if (!Array.isArray(rule)) return what;
    const image = parseImage(value);
    if (!image) return `${what}, which is no full reference (REGISTRY/NAME:TAG)`;
    if (rule.some((prefix) => isWithin(image, prefix))) return undefined;
    return `${what} (${showImage(image)}); allowed is what is in ${shown(rule.map(showImage))}`;
  },
};

const whats: Readonly<Record<(typeof switches)[number], string>> = {
  privileged: 'privileged containers',
  hostNetwork: "the host's network",
  hostPID: "the host's processes",
  hostIPC: "the host's IPC",
  exec: 'commands in containers',
};

/** As the message of a status. */
export function refusal({ source }: Policy, violations: readonly Violation[]): string {
  const all = violations.map(({ message, field }) => `${field}: ${message}`);
  return `the policy of the node (${source}) forbids this: ${all.slice(0, 8).join(', and ')}`;
}

export const execRefusal = ({ source }: Policy): string =>
  `the policy of the node (${source}) forbids commands in containers`;

/** In one line, for people. */
export function summary({ rules }: Policy): string {
  return ruleNames.map((name) => `${name}: ${ruleText(name, rules)}`).join(', ');
}

function ruleText(name: RuleName, rules: Policy['rules']): string {
  const rule = rules[name];
  if (!Array.isArray(rule)) return String(rule);
  if (name === 'hostPorts') return shown((rule as readonly HostPorts[]).map(showPorts));
  if (name === 'images') return shown((rule as readonly ImageReference[]).map(showImage));
  if (name === 'capabilities') return shown(rule as readonly string[]);
  return shown((rule as readonly HostMount[]).map(({ path, readOnly }) => (readOnly ? `${path} (read-only)` : path)));
}

/** Whether it has any rule at all. */
export const restricts = ({ rules }: Policy): boolean => ruleNames.some((name) => rules[name] !== 'allow');

const shownItems = 8;
const shown = (items: readonly string[]): string =>
  items.length === 0
    ? 'nothing'
    : items.length > shownItems
      ? `${items.slice(0, shownItems).join(' ')} and ${items.length - shownItems} more`
      : items.join(' ');

const showPorts = ({ first, last }: HostPorts): string => (first === last ? `${first}` : `${first}-${last}`);
const capability = (name: string): string => name.toUpperCase().replace(/^CAP_/, '');
const hasDots = (path: string, ...dots: readonly string[]): boolean =>
  path.split('/').some((part) => dots.includes(part));
/** Without `.` and doubled slashes, and without a slash at its end. */
const clean = (path: string): string => posix.normalize(path).replace(/(?<=.)\/$/, '');
/** Whether a path is that of a folder, or one in it. */
export const isUnder = (path: string, top: string): boolean =>
  top === '/' || path === top || path.startsWith(`${top}/`);

function isFields(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
