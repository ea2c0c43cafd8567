import type { DescMessage, Message } from '@bufbuild/protobuf';
import { pathToString } from '@bufbuild/protobuf/reflect';
import { createValidator } from '@bufbuild/protovalidate';
import { InvalidError } from '../domain/errors.ts';

/** Holds a message against the rules in its proto file. `field`: its own place in the request. Throws {@link RulesError}. */
export type CheckMessage = (schema: DescMessage, message: Message, field?: string) => void;

/** Fields that break the rules of the contract. The first is the error's own. */
export class RulesError extends InvalidError {
  readonly violations: readonly { readonly field: string; readonly message: string }[];
  constructor(violations: RulesError['violations']) {
    const [first] = violations;
    super(first?.field ?? '', violations.map((v, i) => (i === 0 ? v.message : `${v.field}: ${v.message}`)).join('; '));
    this.violations = violations;
  }
}

/** How many violations are told at most. */
const maxViolations = 10;
/** Of a message of more parts than this only the first one is. */
const maxParts = 10_000;

/** One validator for all messages: it plans each message type once. */
export function createMessageRules(): CheckMessage {
  // All patterns are the contract's own, and linear: the platform's engine takes half the time of the RE2 that is the default. A filter's
  // `matches()` is the caller's, and keeps RE2.
  const patterns = new Map<string, RegExp>();
  const regexMatch = (pattern: string, against: string): boolean => {
    let compiled = patterns.get(pattern);
    if (!compiled) {
      compiled = new RegExp(pattern, 'u');
      patterns.set(pattern, compiled);
    }
    return compiled.test(against);
  };
  const first = createValidator({ regexMatch, failFast: true });
  const all = createValidator({ regexMatch });
  return (schema, message, field = '') => {
    const found = first.validate(schema, message);
    if (found.kind === 'valid') return;
    // A list that is too long ends it at once; to go through all of a million wrong elements, and to tell of them, takes seconds.
    const result = hasMoreParts(message, maxParts) ? found : all.validate(schema, message);
    if (result.kind !== 'invalid') throw result.error ?? new Error('a message breaks a rule, and then none');
    const violations = result.violations.slice(0, maxViolations).map((violation) => {
      const path = pathToString(violation.field);
      return { field: [field, path].filter(Boolean).join('.'), message: violation.message || violation.ruleId };
    });
    throw new RulesError(violations);
  };
}

function hasMoreParts(message: Message, limit: number): boolean {
  const open: unknown[] = [message];
  let parts = 0;
  for (let part = open.pop(); part !== undefined; part = open.pop()) {
    if (typeof part !== 'object' || part === null || part instanceof Uint8Array) continue;
    const inner = Object.values(part);
    parts += inner.length;
    if (parts > limit) return true;
    for (const each of inner) if (each !== undefined) open.push(each);
  }
  return false;
}
