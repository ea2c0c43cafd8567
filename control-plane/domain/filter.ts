import { celEnv, isCelError, parse, plan } from '@bufbuild/cel';
import type { DescEnum, DescField, DescMessage } from '@bufbuild/protobuf';
import { ExhaustedError, InvalidError } from './errors.ts';
import { countedRange, FilterCost } from './filter_cost.ts';
import { MessageMap, recordMap } from './filter_values.ts';
import { type KindName, kinds } from './kinds.ts';
import type { ObjectMessage } from './object.ts';
import { shortEnumName } from './present.ts';

/** Whether an object is wanted. */
export type Filter = (object: ObjectMessage) => boolean;

type Expr = ReturnType<typeof parse>['expr'];

/** Longest filter, in characters. */
export const maxFilterLength = 2048;
/** Most parts that a filter may have: names, values, operators. */
const maxNodes = 256;
/** How deep its parts may be nested. */
const maxDepth = 24;
/** How many `exists`, `all`, `map`… it may have, none inside another. */
const maxMacros = 4;

/** What a filter may call: the standard functions, as CEL's parser names them. */
const functions = new Set([
  ...['_==_', '_!=_', '_<_', '_<=_', '_>_', '_>=_', '_&&_', '_||_', '!_', '_?_:_', '_[_]', '@in', 'in'],
  ...['_+_', '_-_', '_*_', '_/_', '_%_', '-_', '@not_strictly_false'],
  ...['contains', 'startsWith', 'endsWith', 'matches', 'size', 'type', 'dyn'],
  ...['int', 'uint', 'double', 'string', 'bool', 'bytes', 'duration', 'timestamp'],
  ...['getFullYear', 'getMonth', 'getDate', 'getDayOfMonth', 'getDayOfWeek', 'getDayOfYear'],
  ...['getHours', 'getMinutes', 'getSeconds', 'getMilliseconds'],
]);
const typeNames = new Set(['int', 'uint', 'double', 'bool', 'string', 'bytes', 'list', 'map', 'null_type', 'type']);

/** What is known of a part's value before there is one. Undefined: nothing. */
type Shape =
  | { readonly is: 'message'; readonly desc: DescMessage }
  | { readonly is: 'field'; readonly field: DescField }
  | undefined;

/**
 * Compiles a CEL expression over an object's `metadata`, `labels`, `spec` and `status`. Undefined for an empty one.
 *
 * Enums compare with their short names; fields are named as in the proto files or as in JSON. What cannot be evaluated on an object, a label
 * that it lacks for example, makes it not match. Throws InvalidError naming `filter`, with the position, for what is no expression, what names
 * a field that there is not, and what would cost too much. The filter throws ExhaustedError when it costs too much on an object.
 */
export function compileFilter(kind: KindName, source: string): Filter | undefined {
  if (source.trim() === '') return undefined;
  if (source.length > maxFilterLength) throw new InvalidError('filter', `is longer than ${maxFilterLength} characters`);
  const { expr, positions } = parseFilter(source);
  new Checker(kinds[kind].schema, positions).check(expr);
  const cost = new FilterCost();
  let run: ReturnType<typeof plan>;
  try {
    run = plan(celEnv({ funcs: cost.functions }), expr);
  } catch (error) {
    throw new InvalidError('filter', `cannot be used: ${messageOf(error)}`, { cause: error });
  }
  return (object) => {
    const { metadata, spec, status } = object;
    cost.begin();
    const result = run({
      metadata: metadata ? new MessageMap(metadata, cost) : new Map(),
      labels: recordMap(metadata?.labels ?? {}, cost),
      spec: spec ? new MessageMap(spec, cost) : new Map(),
      status: status ? new MessageMap(status, cost) : new Map(),
    });
    if (cost.isTooMuch) throw new ExhaustedError('the filter takes too long: make it simpler');
    if (isCelError(result)) return false;
    if (typeof result !== 'boolean')
      throw new InvalidError('filter', 'must be true or false: compare its value with something');
    return result;
  };
}

function parseFilter(source: string): { expr: Expr; positions: { readonly [id: string]: number } } {
  tooDeep(source);
  try {
    const { expr, sourceInfo } = parse(source);
    return { expr, positions: sourceInfo?.positions ?? {} };
  } catch (error) {
    const at = offsetOf(error);
    const where = at === undefined ? '' : ` at character ${at + 1}: …${JSON.stringify(source.slice(at, at + 16))}`;
    throw new InvalidError('filter', `cannot be understood${where}`, { cause: error });
  }
}

/** The parser goes down its stack with each bracket inside another, so it never gets to see many of them. */
function tooDeep(source: string): void {
  let depth = 0;
  let quote = '';
  for (let i = 0; i < source.length; i += 1) {
    const c = source[i] as string;
    if (quote) {
      if (c === '\\') i += 1;
      else if (c === quote) quote = '';
    } else if (c === '"' || c === "'") quote = c;
    else if ('([{'.includes(c)) depth += 1;
    else if (')]}'.includes(c)) depth -= 1;
    if (depth > 8) throw new InvalidError('filter', `has too many brackets inside one another, at character ${i + 1}`);
  }
}

function offsetOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('location' in error)) return undefined;
  const { location } = error as { location?: { start?: { offset?: unknown } } };
  const offset = location?.start?.offset;
  return typeof offset === 'number' ? offset : undefined;
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Walks an expression once: bounds its cost, has what its macros go through counted, and finds names that do not exist. */
class Checker {
  readonly #roots: ReadonlyMap<string, Shape>;
  readonly #positions: { readonly [id: string]: number };
  #nodes = 0;
  #macros = 0;

  constructor(schema: DescMessage, positions: { readonly [id: string]: number }) {
    const roots = new Map<string, Shape>();
    for (const name of ['metadata', 'spec', 'status']) {
      const field = schema.field[name];
      if (field?.fieldKind === 'message') roots.set(name, { is: 'message', desc: field.message });
    }
    roots.set('labels', undefined);
    this.#roots = roots;
    this.#positions = positions;
  }

  check(expr: Expr): void {
    this.#walk(expr, new Map(), 0, false);
  }

  #fail(expr: Expr, message: string): never {
    const at = this.#positions[String(expr.id)];
    throw new InvalidError('filter', at === undefined ? message : `${message}, at character ${at + 1}`);
  }

  #walk(expr: Expr, scope: ReadonlyMap<string, Shape>, depth: number, inMacro: boolean): Shape {
    this.#nodes += 1;
    if (this.#nodes > maxNodes) this.#fail(expr, `has more than ${maxNodes} parts`);
    if (depth > maxDepth) this.#fail(expr, 'is nested too deeply');
    const kind = expr.exprKind;
    switch (kind.case) {
      case 'constExpr':
        return undefined;
      case 'identExpr': {
        const { name } = kind.value;
        if (scope.has(name)) return scope.get(name);
        if (this.#roots.has(name)) return this.#roots.get(name);
        if (typeNames.has(name)) return undefined;
        return this.#fail(expr, `"${name}" is not known: there are metadata, labels, spec and status`);
      }
      case 'selectExpr': {
        if (!kind.value.operand) return undefined;
        return this.#select(expr, this.#walk(kind.value.operand, scope, depth + 1, inMacro), kind.value.field);
      }
      case 'callExpr':
        return this.#call(expr, kind.value, scope, depth, inMacro);
      case 'listExpr':
        for (const element of kind.value.elements) this.#walk(element, scope, depth + 1, inMacro);
        return undefined;
      case 'structExpr':
        if (kind.value.messageName) this.#fail(expr, `"${kind.value.messageName}" cannot be made here`);
        for (const entry of kind.value.entries) {
          if (entry.keyKind.case === 'mapKey') this.#walk(entry.keyKind.value, scope, depth + 1, inMacro);
          if (entry.value) this.#walk(entry.value, scope, depth + 1, inMacro);
        }
        return undefined;
      case 'comprehensionExpr': {
        if (inMacro) this.#fail(expr, 'has an exists, all, map or filter inside another');
        this.#macros += 1;
        if (this.#macros > maxMacros) this.#fail(expr, `has more than ${maxMacros} of exists, all, map and filter`);
        const { iterRange, accuInit, loopCondition, loopStep, result, iterVar, accuVar } = kind.value;
        const range = iterRange && this.#walk(iterRange, scope, depth + 1, true);
        const inner = new Map(scope).set(iterVar, elementOf(range)).set(accuVar, undefined);
        const before = this.#nodes;
        for (const part of [accuInit, loopCondition, loopStep, result])
          if (part) this.#walk(part, inner, depth + 1, true);
        if (iterRange) {
          const collects = accuInit?.exprKind.case === 'listExpr';
          kind.value.iterRange = countedRange(iterRange, this.#nodes - before, collects);
        }
        return undefined;
      }
      default:
        return this.#fail(expr, 'cannot be understood');
    }
  }

  #select(expr: Expr, operand: Shape, name: string): Shape {
    if (operand?.is === 'field' && operand.field.fieldKind !== 'map' && operand.field.fieldKind !== 'message') {
      this.#fail(expr, `"${operand.field.name}" has no "${name}" in it`);
    }
    if (operand?.is !== 'message') return undefined;
    const field = operand.desc.fields.find((candidate) => candidate.name === name || candidate.jsonName === name);
    if (!field) return this.#fail(expr, `there is no field "${name}" in ${operand.desc.name}`);
    if (field.fieldKind === 'message') {
      return isOwn(field.message) ? { is: 'message', desc: field.message } : undefined;
    }
    return { is: 'field', field };
  }

  #call(
    expr: Expr,
    call: { readonly function: string; readonly target?: Expr; readonly args: readonly Expr[] },
    scope: ReadonlyMap<string, Shape>,
    depth: number,
    inMacro: boolean,
  ): Shape {
    if (!functions.has(call.function)) this.#fail(expr, `"${call.function}" is not a function that is known here`);
    if (call.target) this.#walk(call.target, scope, depth + 1, inMacro);
    const shapes = call.args.map((arg) => this.#walk(arg, scope, depth + 1, inMacro));
    if (call.function === '_==_' || call.function === '_!=_') {
      const [left, right] = call.args;
      if (left && right) {
        this.#comparable(shapes[0], right);
        this.#comparable(shapes[1], left);
      }
    }
    if (call.function === '_[_]') return elementOf(shapes[0]);
    return undefined;
  }

  /** A misspelt name of an enum's value would match nothing, silently. */
  #comparable(shape: Shape, other: Expr): void {
    if (shape?.is !== 'field' || shape.field.fieldKind !== 'enum' || other.exprKind.case !== 'constExpr') return;
    const schema: DescEnum = shape.field.enum;
    const constant = other.exprKind.value.constantKind;
    const names = schema.values.map((value) => shortEnumName(schema, value.number));
    if (constant.case === 'stringValue' && names.includes(constant.value)) return;
    this.#fail(other, `${shape.field.name} is one of ${names.map((name) => `"${name}"`).join(', ')}`);
  }
}

/** Messages of ours are looked into; times and free-form content are CEL's own business. */
const isOwn = (desc: DescMessage): boolean => !desc.typeName.startsWith('google.protobuf.');

function elementOf(shape: Shape): Shape {
  if (shape?.is !== 'field' || shape.field.fieldKind !== 'list' || shape.field.listKind !== 'message') return undefined;
  return isOwn(shape.field.message) ? { is: 'message', desc: shape.field.message } : undefined;
}
