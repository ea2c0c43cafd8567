import { type Document, isAlias, isMap, isNode, isPair, isScalar, isSeq } from 'yaml';

/** `a.b`, `a[0]`. */
export function joinPath(path: string, next: string): string {
  if (!path || !next) return path || next;
  return next.startsWith('[') ? `${path}${next}` : `${path}.${next}`;
}

/** Where in a document an offset of its text is: `spec.containers[0].name`. Empty at its top. */
export function pathAt(contents: unknown, offset: number): string {
  let path = '';
  let at = contents;
  for (;;) {
    if (isMap(at)) {
      const pair = at.items.findLast((item) => startOf(item.key) <= offset);
      if (!pair) return path;
      path = joinPath(path, keyText(pair.key));
      at = startOf(pair.value) <= offset ? pair.value : undefined;
    } else if (isSeq(at)) {
      const index = at.items.findLastIndex((item) => startOf(item) <= offset);
      if (index < 0) return path;
      path = joinPath(path, `[${index}]`);
      at = at.items[index];
    } else return path;
  }
}

/** What is wrong in a document that the parser takes, and where. */
export interface Fault {
  readonly path: string;
  readonly message: string;
}

/**
 * The first key that is no word, which would be turned into one that nobody wrote; or the first value with which the aliases stand for more
 * than `maxExpanded` values. Nothing is expanded to find out, so a small text that would grow without end costs nothing.
 */
export function findFault(document: Document, maxExpanded: number): Fault | undefined {
  const sizes = new Map<string, number>();
  let fault: Fault | undefined;
  let expanded = 0;
  const measure = (node: unknown, path: string): number => {
    if (fault) return 0;
    if (isAlias(node)) {
      // An alias inside what it names is not known yet: the parser refuses it.
      const size = sizes.get(node.source) ?? 1;
      expanded += size;
      if (expanded > maxExpanded)
        fault = { path, message: `aliases that stand for more than ${maxExpanded} values: write them out` };
      return size;
    }
    let size = 1;
    if (isMap(node)) {
      for (const { key, value } of node.items) {
        if (!isScalar(key) || key.value === null) fault ??= { path, message: 'a key must be a word' };
        size += measure(value, joinPath(path, keyText(key)));
      }
    } else if (isSeq(node)) {
      for (const [index, item] of node.items.entries()) size += measure(item, joinPath(path, `[${index}]`));
    }
    if (isNode(node) && 'anchor' in node && node.anchor) sizes.set(node.anchor, size);
    return size;
  };
  measure(document.contents, '');
  return fault;
}

function startOf(node: unknown): number {
  if (isPair(node)) return startOf(node.key);
  return isNode(node) ? (node.range?.[0] ?? Number.POSITIVE_INFINITY) : Number.POSITIVE_INFINITY;
}

function keyText(key: unknown): string {
  // The parser has a symbol for the key that merges mappings.
  return isScalar(key) ? (typeof key.value === 'symbol' ? '<<' : String(key.value)) : '';
}
