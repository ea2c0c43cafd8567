import type { JsonValue } from '@bufbuild/protobuf';
import { UsageError } from '../errors.ts';
import { JsonPathParser, type Node, type Operand, type Step, type Test } from './jsonpath_parser.ts';

/** A template in kubectl's JSONPath (https://kubernetes.io/docs/reference/kubectl/jsonpath/), ready to be filled. */
export interface JsonPath {
  /** The template with values in the place of paths. What is not there is left out. */
  render(root: JsonValue): string;
  /** Every value that the template's paths find. */
  values(root: JsonValue): JsonValue[];
}

/** Parses a template; a path without braces is taken as if it had them. Throws UsageError naming the place that is wrong. */
export function parseJsonPath(template: string): JsonPath {
  const braced = template.includes('{') ? template : `{${/^[.$[@]/.test(template) ? '' : '.'}${template}}`;
  if (template.trim() === '') throw new UsageError('jsonpath: the template is empty');
  const nodes = new JsonPathParser(braced).parse();
  return {
    render: (root) => renderNodes(nodes, root, root),
    values: (root) => nodes.flatMap((node) => (node.type === 'path' ? walk(node.steps, root, root) : [])),
  };
}

function renderNodes(nodes: readonly Node[], current: JsonValue, root: JsonValue): string {
  return nodes.map((node) => renderNode(node, current, root)).join('');
}

function renderNode(node: Node, current: JsonValue, root: JsonValue): string {
  switch (node.type) {
    case 'text':
      return node.text;
    case 'path':
      return walk(node.steps, node.fromRoot ? root : current, root)
        .map(valueText)
        .join(' ');
    case 'range':
      return walk(node.steps, node.fromRoot ? root : current, root)
        .map((item) => renderNodes(node.body, item, root))
        .join('');
  }
}

function valueText(value: JsonValue): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function walk(steps: readonly Step[], from: JsonValue, root: JsonValue): JsonValue[] {
  let found: JsonValue[] = [from];
  for (const step of steps) found = found.flatMap((value) => take(step, value, root));
  return found;
}

function take(step: Step, value: JsonValue, root: JsonValue): JsonValue[] {
  switch (step.type) {
    case 'names':
      return step.names.flatMap((name) => member(value, name));
    case 'wildcard':
      return children(value);
    case 'descend':
      return descendants(value);
    case 'slice':
      return Array.isArray(value) ? slice(value, step.start, step.end, step.step) : [];
    case 'indexes':
      return Array.isArray(value)
        ? step.indexes.flatMap((index) => {
            const item = value.at(index);
            return item === undefined ? [] : [item];
          })
        : [];
    case 'filter':
      return children(value).filter((item) => holds(step.test, item, root));
  }
}

function member(value: JsonValue, name: string): JsonValue[] {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || !Object.hasOwn(value, name)) return [];
  const found = value[name];
  return found === undefined ? [] : [found];
}

function children(value: JsonValue): JsonValue[] {
  if (typeof value !== 'object' || value === null) return [];
  return Array.isArray(value) ? value : Object.values(value);
}

function descendants(value: JsonValue): JsonValue[] {
  return [value, ...children(value).flatMap(descendants)];
}

function slice(items: JsonValue[], start: number | undefined, end: number | undefined, step: number): JsonValue[] {
  return items.slice(start ?? 0, end ?? items.length).filter((_, index) => index % step === 0);
}

function holds(test: Test, item: JsonValue, root: JsonValue): boolean {
  switch (test.type) {
    case 'or':
      return test.tests.some((part) => holds(part, item, root));
    case 'and':
      return test.tests.every((part) => holds(part, item, root));
    case 'exists':
      return operand(test.operand, item, root).length > 0;
    case 'compare': {
      const [left] = operand(test.left, item, root);
      const [right] = operand(test.right, item, root);
      if (left === undefined || right === undefined) return false;
      return compare(left, right, test.operator);
    }
  }
}

function operand(part: Operand, item: JsonValue, root: JsonValue): JsonValue[] {
  return part.type === 'literal' ? [part.value] : walk(part.steps, part.fromRoot ? root : item, root);
}

function compare(left: JsonValue, right: JsonValue, operator: string): boolean {
  const order = compareValues(left, right);
  switch (operator) {
    case '==':
      return order === 0;
    case '!=':
      return order !== 0;
    case '<':
      return order < 0;
    case '<=':
      return order <= 0;
    case '>':
      return order > 0;
    default:
      return order >= 0;
  }
}

/** The order of two values: numbers (64-bit ones are strings in JSON) by size, everything else as text. */
export function compareValues(left: JsonValue, right: JsonValue): number {
  const [a, b] = [toNumber(left), toNumber(right)];
  if (a !== undefined && b !== undefined) return a - b;
  const [x, y] = [valueText(left), valueText(right)];
  return x < y ? -1 : x > y ? 1 : 0;
}

function toNumber(value: JsonValue): number | undefined {
  if (typeof value === 'number') return value;
  return typeof value === 'string' && /^-?\d+(\.\d+)?$/.test(value) ? Number(value) : undefined;
}
