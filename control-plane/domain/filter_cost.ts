import { type CelFunc, CelScalar, celEnv, celFunc, celMethod, isCelError, isCelList, parse, plan } from '@bufbuild/cel';

type Expr = ReturnType<typeof parse>['expr'];

/** What one evaluation may cost, in steps: about a tenth of a second. */
const maxSteps = 100_000;
/** So many characters are looked at in one step. */
const charactersPerStep = 8;
/** To take a regular expression apart. */
const stepsPerPattern = 200;
/** An engine of regular expressions has a state for each part of a pattern, and may be in all of them at each character. */
const statesPerStep = 8;
/** What `map` and `filter` make is a list within a list for each element, through all of which each element has to go. */
const listsPerStep = 10;

/** CEL's own. */
const matches = plan(celEnv(), parse('text.matches(pattern)').expr);

/**
 * Counts what a filter costs on one object. An object may be half a megabyte, what is looked at for each element of a list costs the square of that, and
 * nothing can be interrupted in between: so it is counted before it is done.
 */
export class FilterCost {
  #left = maxSteps;

  /** Functions of CEL that count. */
  readonly functions: CelFunc[];

  constructor() {
    const { DYN, INT, BOOL, STRING } = CelScalar;
    const cost = this;
    this.functions = [
      celFunc(rangeFunction, [DYN, INT, BOOL], DYN, (range, parts, collects) => {
        cost.#range(range, Number(parts), collects);
        return range;
      }),
      celMethod('matches', STRING, [STRING], BOOL, function (pattern) {
        if (!cost.#affordsMatch(pattern, this.length)) return false;
        const result = matches({ text: this, pattern });
        if (isCelError(result)) throw result;
        return result === true;
      }),
    ];
  }

  /** Begins with another object. */
  begin(): void {
    this.#left = maxSteps;
  }

  /** It has cost too much. What came out counts for nothing: CEL takes an error for a value that it may go on with. */
  get isTooMuch(): boolean {
    return this.#left < 0;
  }

  /** So many elements are looked at. Throws when that is too much. */
  elements(count: number): void {
    this.#take(1 + count);
  }

  /** A value of so many characters is looked at. Throws when that is too much. */
  text(length: number): void {
    this.#take(1 + length / charactersPerStep);
  }

  /** A macro goes through a list or map: so many parts of the filter are evaluated for each element, which may be large itself. */
  #range(range: unknown, parts: number, collects: boolean): void {
    const count = sizeOf(range);
    this.#take(count * parts);
    if (!isCelList(range)) return;
    if (collects) this.#take((count * count) / listsPerStep);
    for (const element of range) this.#take(weightOf(element) * parts);
  }

  /** False: too much. Nothing is thrown, as each error takes longer to make than most texts take to be looked at. */
  #affordsMatch(pattern: string, length: number): boolean {
    const states = pattern.length * repeatsIn(pattern);
    this.#left -= stepsPerPattern + states + (states / statesPerStep) * length;
    return this.#left >= 0;
  }

  #take(steps: number): void {
    this.#left -= steps;
    if (this.#left < 0) throw new Error('the filter takes too long');
  }
}

/** Stands around what a macro goes through. No filter can call it: it is not a name of CEL. */
const rangeFunction = 'baykeeperRange';

/** Has what a macro goes through counted. `parts`: of the filter, for each element; `collects`: a list is made. */
export function countedRange(range: Expr, parts: number, collects: boolean): Expr {
  const { expr } = parse(`${rangeFunction}(0, ${parts}, ${collects})`);
  if (expr.exprKind.case === 'callExpr') expr.exprKind.value.args[0] = range;
  return expr;
}

/** Of a list or map. */
const sizeOf = (value: unknown): number => (value as { readonly size?: number }).size ?? 0;

/** How much there is to look at in an element. Of a map, which is read as it is looked at, nothing yet. */
function weightOf(element: unknown): number {
  if (typeof element === 'string') return element.length / charactersPerStep;
  if (!isCelList(element)) return 0;
  let weight = element.size;
  for (const inner of element) weight += weightOf(inner);
  return weight;
}

/** How often a part of a pattern is repeated at most by counts such as {3,5}: one within another multiply, up to the engine's limit. */
function repeatsIn(pattern: string): number {
  let repeats = 1;
  for (const [, from = '', to = ''] of pattern.matchAll(/\{(\d{1,4})(?:,(\d{0,4}))?\}/g)) {
    repeats = Math.min(1_000, repeats * Math.max(1, Number(from), Number(to)));
  }
  return repeats;
}
