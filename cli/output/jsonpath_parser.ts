import type { JsonValue } from '@bufbuild/protobuf';
import { UsageError } from '../errors.ts';

/** A piece of a template. */
export type Node =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'path'; readonly steps: readonly Step[]; readonly fromRoot: boolean }
  | {
      readonly type: 'range';
      readonly steps: readonly Step[];
      readonly fromRoot: boolean;
      readonly body: readonly Node[];
    };

/** One step of a path. */
export type Step =
  | { readonly type: 'names'; readonly names: readonly string[] }
  | { readonly type: 'indexes'; readonly indexes: readonly number[] }
  | {
      readonly type: 'slice';
      readonly start: number | undefined;
      readonly end: number | undefined;
      readonly step: number;
    }
  | { readonly type: 'wildcard' }
  | { readonly type: 'descend' }
  | { readonly type: 'filter'; readonly test: Test };

/** What a filter asks. */
export type Test =
  | { readonly type: 'or' | 'and'; readonly tests: readonly Test[] }
  | { readonly type: 'exists'; readonly operand: Operand }
  | { readonly type: 'compare'; readonly left: Operand; readonly right: Operand; readonly operator: string };

/** A side of a comparison. */
export type Operand =
  | { readonly type: 'literal'; readonly value: JsonValue }
  | { readonly type: 'path'; readonly steps: readonly Step[]; readonly fromRoot: boolean };

const operators = ['==', '!=', '<=', '>=', '<', '>'];

/** Reads a template into nodes. Throws UsageError naming the place that is wrong. */
export class JsonPathParser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  parse(): Node[] {
    const nodes = this.#nodes();
    if (this.#at < this.#text.length) throw this.#error('{end} without {range}');
    return nodes;
  }

  /** Up to the end, or to an `{end}` that it leaves in place. */
  #nodes(): Node[] {
    const nodes: Node[] = [];
    while (this.#at < this.#text.length) {
      const brace = this.#text.indexOf('{', this.#at);
      const end = brace < 0 ? this.#text.length : brace;
      if (end > this.#at) nodes.push({ type: 'text', text: this.#text.slice(this.#at, end) });
      this.#at = end;
      if (brace < 0) break;
      if (/^\{\s*end\s*\}/.test(this.#text.slice(this.#at))) break;
      this.#at++;
      this.#braces(nodes);
    }
    return nodes;
  }

  #braces(nodes: Node[]): void {
    this.#blanks();
    const word = /^range\s/.exec(this.#text.slice(this.#at));
    if (word) {
      this.#at += word[0].length;
      const path = this.#path();
      this.#expect('}');
      const body = this.#nodes();
      const end = /^\{\s*end\s*\}/.exec(this.#text.slice(this.#at));
      if (!end) throw this.#error('{range} without {end}');
      this.#at += end[0].length;
      nodes.push({ type: 'range', ...path, body });
      return;
    }
    while (!this.#eat('}')) {
      if (this.#at >= this.#text.length) throw this.#error('"{" without "}"');
      const quote = this.#peek();
      if (quote === '"' || quote === "'") nodes.push({ type: 'text', text: this.#quoted() });
      else nodes.push({ type: 'path', ...this.#path() });
      this.#blanks();
    }
  }

  #path(): { steps: Step[]; fromRoot: boolean } {
    this.#blanks();
    const steps: Step[] = [];
    const start = this.#at;
    const fromRoot = this.#eat('$');
    if (!fromRoot) this.#eat('@');
    for (;;) {
      if (this.#text.startsWith('..', this.#at)) {
        this.#at += 2;
        steps.push({ type: 'descend' });
        if (this.#peek() !== '[') steps.push(this.#name());
      } else if (this.#eat('.')) {
        if (this.#peek() !== '[' && !this.#pathEnds()) steps.push(this.#name());
      } else if (this.#eat('[')) {
        steps.push(this.#bracket());
      } else break;
    }
    if (this.#at === start) {
      if (/[A-Za-z_]/.test(this.#peek())) steps.push(this.#name(), ...this.#path().steps);
      else throw this.#error('expected a path, as {.metadata.name}');
    }
    return { steps, fromRoot };
  }

  #pathEnds(): boolean {
    return /^[\s})\]=!<>&|]|^$/.test(this.#peek());
  }

  #name(): Step {
    if (this.#eat('*')) return { type: 'wildcard' };
    let name = '';
    for (let character = this.#peek(); character !== ''; character = this.#peek()) {
      if (character === '\\') {
        this.#at++;
        name += this.#peek();
      } else if (/[\s.[\]{}()=!<>&|,'"]/.test(character)) break;
      else name += character;
      this.#at++;
    }
    if (name === '') throw this.#error('expected a name');
    return { type: 'names', names: [name] };
  }

  #bracket(): Step {
    this.#blanks();
    if (this.#eat('*')) {
      this.#expect(']');
      return { type: 'wildcard' };
    }
    if (this.#eat('?')) {
      this.#expect('(');
      const test = this.#or();
      this.#expect(')');
      this.#expect(']');
      return { type: 'filter', test };
    }
    if (this.#peek() === '"' || this.#peek() === "'") {
      const names = [this.#quoted()];
      while (this.#eat(',')) {
        this.#blanks();
        names.push(this.#quoted());
      }
      this.#expect(']');
      return { type: 'names', names };
    }
    return this.#numbers();
  }

  #numbers(): Step {
    const end = this.#text.indexOf(']', this.#at);
    const inside = end < 0 ? '' : this.#text.slice(this.#at, end).trim();
    const range = /^(-?\d+)?:(-?\d+)?(?::(\d+))?$/.exec(inside);
    if (range) {
      this.#at = end + 1;
      const step = range[3] === undefined ? 1 : Number(range[3]);
      if (step === 0) throw this.#error('a step of 0 goes nowhere');
      return { type: 'slice', start: optional(range[1]), end: optional(range[2]), step };
    }
    if (!/^-?\d+(\s*,\s*-?\d+)*$/.test(inside))
      throw this.#error('expected an index, a range, names in quotes, * or ?(…)');
    this.#at = end + 1;
    return { type: 'indexes', indexes: inside.split(',').map(Number) };
  }

  #or(): Test {
    const tests = [this.#and()];
    while (this.#eatWord('||')) tests.push(this.#and());
    return tests.length === 1 && tests[0] ? tests[0] : { type: 'or', tests };
  }

  #and(): Test {
    const tests = [this.#test()];
    while (this.#eatWord('&&')) tests.push(this.#test());
    return tests.length === 1 && tests[0] ? tests[0] : { type: 'and', tests };
  }

  #test(): Test {
    this.#blanks();
    if (this.#eat('(')) {
      const inner = this.#or();
      this.#expect(')');
      return inner;
    }
    const left = this.#operand();
    this.#blanks();
    const operator = operators.find((candidate) => this.#text.startsWith(candidate, this.#at));
    if (!operator) return { type: 'exists', operand: left };
    this.#at += operator.length;
    return { type: 'compare', left, right: this.#operand(), operator };
  }

  #operand(): Operand {
    this.#blanks();
    const first = this.#peek();
    if (first === '"' || first === "'") return { type: 'literal', value: this.#quoted() };
    const [word] = /^(?:-?\d+(?:\.\d+)?|true|false|null)\b/.exec(this.#text.slice(this.#at)) ?? [];
    if (word !== undefined) {
      this.#at += word.length;
      // To JSON, a number with a nought before it is none.
      return { type: 'literal', value: /\d/.test(word) ? Number(word) : JSON.parse(word) };
    }
    return { type: 'path', ...this.#path() };
  }

  #quoted(): string {
    const quote = this.#peek();
    if (quote !== '"' && quote !== "'") throw this.#error('expected text in quotes');
    let text = '';
    for (this.#at++; ; this.#at++) {
      const character = this.#peek();
      if (character === '') throw this.#error('a quote is not closed');
      if (character === quote) break;
      if (character === '\\') {
        this.#at++;
        const escaped = this.#peek();
        text += { n: '\n', t: '\t', r: '\r' }[escaped] ?? escaped;
      } else text += character;
    }
    this.#at++;
    return text;
  }

  #peek(): string {
    return this.#text.charAt(this.#at);
  }

  #eat(character: string): boolean {
    if (this.#peek() !== character) return false;
    this.#at++;
    return true;
  }

  #eatWord(word: string): boolean {
    this.#blanks();
    if (!this.#text.startsWith(word, this.#at)) return false;
    this.#at += word.length;
    return true;
  }

  #expect(character: string): void {
    this.#blanks();
    if (!this.#eat(character)) throw this.#error(`expected "${character}"`);
  }

  #blanks(): void {
    while (/\s/.test(this.#peek())) this.#at++;
  }

  #error(message: string): UsageError {
    return new UsageError(`jsonpath: ${message}, at character ${this.#at + 1} of ${this.#text}`);
  }
}

function optional(text: string | undefined): number | undefined {
  return text === undefined ? undefined : Number(text);
}
