import type { JsonObject, JsonValue } from '@bufbuild/protobuf';
import { canonicalJson } from '../canonical_json.ts';

/**
 * Who owns which fields of an object, as a cluster keeps it (`fieldsV1` of an entry of `managedFields`): a tree whose keys are `f:FIELD`,
 * `k:{…}` (an element of a list, by the fields that are its key), `v:…` (an element of a set) and `i:N`, and `.` for the node itself. An empty node
 * ends a path: the field is owned, with all that is in it.
 */
export type FieldSet = JsonObject;

/** A field of a manifest that has a value of its own: nothing in it can be owned apart from the rest. */
export interface Leaf {
  /** For people: `spec.containers[name="web"].image`. */
  readonly path: string;
  /** From the root. An element of a list is its index. */
  readonly steps: readonly (string | number)[];
}

/** Fields of every object that say which object it is. Nobody owns them. */
const identity: ReadonlySet<string> = new Set(['apiVersion', 'kind', 'metadata.name', 'metadata.namespace']);

/**
 * The leaves of a manifest that none of the sets owns, in their order, at most `atMost` of them. As an owner loses a field whenever somebody else
 * changes its value, what is owned still has the value that was applied.
 */
export function leavesNotOwned(manifest: JsonObject, sets: readonly FieldSet[], atMost = 64): Leaf[] {
  const missing: Leaf[] = [];
  // At the root an empty set is one that owns nothing.
  const nodes = sets.filter((set) => !isEnd(set));
  // As it mostly is, and far cheaper to find out than where each leaf is.
  const [only, ...others] = nodes;
  if (only && others.length === 0 && ownsAll(only, manifest, identity)) return missing;
  visit(manifest, nodes, [], '', (leaf) => {
    missing.push(leaf);
    return missing.length < atMost;
  });
  return missing;
}

const ofMetadata: ReadonlySet<string> = new Set(['name', 'namespace']);
const nothing: ReadonlySet<string> = new Set();

/** Whether one set owns every leaf of a value. `except`: fields of it that nobody owns. */
function ownsAll(node: FieldSet, value: JsonValue, except: ReadonlySet<string> = nothing): boolean {
  if (isEnd(node)) return true;
  if (isObject(value)) {
    for (const key in value) {
      const item = value[key];
      if (item === undefined || item === null || except.has(key)) continue;
      const under = child(node, `f:${key}`);
      const exceptUnder = except === identity && key === 'metadata' ? ofMetadata : nothing;
      if (!under || !ownsAll(under, item, exceptUnder)) return false;
    }
  } else if (Array.isArray(value) && value.length > 0) {
    const nodes = itemsOf(value, node);
    for (let index = 0; index < value.length; index += 1) {
      const under = nodes[index];
      const item = value[index];
      if (item === undefined || item === null) continue;
      if (!under || !ownsAll(under, item)) return false;
    }
  }
  return true;
}

/** Whether a set owns a leaf of a manifest. */
export function owns(set: FieldSet, manifest: JsonObject, leaf: Leaf): boolean {
  let value: JsonValue | undefined = manifest;
  let node: FieldSet | undefined = isEnd(set) ? undefined : set;
  for (const step of leaf.steps) {
    if (!node) return false;
    if (isEnd(node)) return true;
    if (typeof step === 'number') {
      const list: readonly JsonValue[] = Array.isArray(value) ? value : [];
      node = itemsOf(list, node)[step];
      value = list[step];
    } else {
      node = child(node, `f:${step}`);
      value = isObject(value) ? value[step] : undefined;
    }
  }
  return node !== undefined;
}

/** The paths of a set, for people, at most `atMost` of them, and how many there are. What has no name of its own (`f:status`) can be left out by its first field. */
export function pathsOf(
  set: FieldSet,
  atMost: number,
  without: readonly string[] = [],
): { paths: string[]; count: number } {
  const paths: string[] = [];
  let count = 0;
  const walk = (node: FieldSet, path: string) => {
    const keys = Object.keys(node).filter((key) => key !== '.');
    if (keys.length === 0) {
      count += 1;
      if (paths.length < atMost) paths.push(path);
      return;
    }
    for (const key of keys) {
      const next = child(node, key);
      if (!next || (path === '' && without.includes(key.slice(2)))) continue;
      walk(next, joined(path, key));
    }
  };
  walk(set, '');
  return { paths, count };
}

function joined(path: string, key: string): string {
  const value = key.slice(2);
  if (key.startsWith('f:')) return path === '' ? value : `${path}.${value}`;
  if (key.startsWith('k:')) {
    const fields = parsed(value);
    if (isObject(fields)) {
      return `${path}[${Object.entries(fields)
        .map(([name, item]) => `${name}=${JSON.stringify(item)}`)
        .join(',')}]`;
    }
  }
  return `${path}[${value}]`;
}

/** Returns false when `found` has had enough. */
function visit(
  value: JsonValue,
  nodes: readonly FieldSet[],
  steps: readonly (string | number)[],
  path: string,
  found: (leaf: Leaf) => boolean,
): boolean {
  if (nodes.some(isEnd)) return true;
  if (isObject(value)) {
    const entries = Object.entries(value);
    if (entries.length > 0) {
      return entries.every(([key, item]) => {
        const at = path === '' ? key : `${path}.${key}`;
        if (identity.has(at)) return true;
        const under = nodes.map((node) => child(node, `f:${key}`)).filter((node) => node !== undefined);
        return visit(item, under, [...steps, key], at, found);
      });
    }
  } else if (Array.isArray(value)) {
    // An empty list is nothing that could be owned, unless as a whole.
    if (value.length === 0) return true;
    if (nodes.length > 0) {
      const items = nodes.map((node) => itemsOf(value, node));
      return value.every((item, index) => {
        const under = items.map((nodesOfList) => nodesOfList[index]).filter((node) => node !== undefined);
        return visit(item, under, [...steps, index], `${path}${itemName(item, index)}`, found);
      });
    }
  } else if (value === null) {
    // No value is what everybody has who has none.
    return true;
  }
  return nodes.length > 0 ? true : found({ path, steps });
}

function itemName(item: JsonValue, index: number): string {
  if (isObject(item) && typeof item.name === 'string') return `[name=${JSON.stringify(item.name)}]`;
  return isObject(item) || Array.isArray(item) ? `[${index}]` : `[${JSON.stringify(item)}]`;
}

/**
 * The node of each element of a list. An element need not spell out all fields of its key, as the cluster fills in those that have
 * a default: it goes with a node that says nothing else, each node with one element.
 */
function itemsOf(list: readonly JsonValue[], node: FieldSet): (FieldSet | undefined)[] {
  const names = keyNamesOf(node);
  const found = list.map((item, index) => itemOf(item, index, names, node));
  if (names.length === 0 || found.every((one) => one !== undefined)) return found;
  return completed(list, found, names, node);
}

/** The fields that are the key of a list's elements, in the order in which the cluster writes them; none: it is a set, or has no keys. */
function keyNamesOf(node: FieldSet): string[] {
  for (const key in node) {
    if (!key.startsWith('k:')) continue;
    const fields = parsed(key.slice(2));
    if (isObject(fields)) return Object.keys(fields);
  }
  return [];
}

/** Undefined when it has none, or none that is written just so. */
function itemOf(item: JsonValue, index: number, names: readonly string[], node: FieldSet): FieldSet | undefined {
  if (names.length === 0 || !isObject(item))
    return child(node, `v:${JSON.stringify(item)}`) ?? child(node, `i:${index}`);
  const key: JsonObject = {};
  for (const name of names) {
    const value = item[name];
    if (value === undefined) return undefined;
    key[name] = value;
  }
  return child(node, `k:${JSON.stringify(key)}`);
}

/** Finds what is written in another way, and what does not spell out its key. */
function completed(
  list: readonly JsonValue[],
  found: readonly (FieldSet | undefined)[],
  names: readonly string[],
  node: FieldSet,
): (FieldSet | undefined)[] {
  const all = Object.keys(node).filter((key) => key.startsWith('k:'));
  const taken = new Set(found);
  const left = all
    .map((key) => ({ node: child(node, key), fields: parsed(key.slice(2)) }))
    .filter((one) => one.node !== undefined && !taken.has(one.node));
  const whole = [...found];
  const known = (item: JsonObject) => names.filter((name) => item[name] !== undefined).length;
  const missing = list
    .map((item, index) => ({ item, index }))
    .filter((one): one is { item: JsonObject; index: number } => isObject(one.item) && whole[one.index] === undefined);
  // Who says more of its key chooses first.
  for (const { item, index } of missing.sort((a, b) => known(b.item) - known(a.item))) {
    const match = left.findIndex(
      ({ fields }) =>
        isObject(fields) &&
        Object.entries(fields).every(
          ([name, value]) => item[name] === undefined || canonicalJson(item[name]) === canonicalJson(value),
        ),
    );
    if (match < 0) continue;
    whole[index] = left[match]?.node;
    left.splice(match, 1);
  }
  return whole;
}

const isObject = (value: JsonValue | undefined): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function child(node: FieldSet, key: string): FieldSet | undefined {
  const next = node[key];
  return isObject(next) ? next : undefined;
}

function isEnd(node: FieldSet): boolean {
  for (const _ in node) return false;
  return true;
}

function parsed(text: string): JsonValue | undefined {
  try {
    return JSON.parse(text) as JsonValue;
  } catch {
    return undefined;
  }
}
