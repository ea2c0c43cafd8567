import { UsageError } from './errors.ts';

/** As the API wants a label's key and value. */
const keyPattern = /^([a-z0-9]([-a-z0-9.]*[a-z0-9])?\/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/;
const valuePattern = /^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$/;

/**
 * Translates kubectl's label selectors into the API's CEL filter: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, with
 * commas between. As in Kubernetes, `!=` and `notin` also match what lacks the label. Throws UsageError.
 */
export function selectorToFilter(selector: string): string {
  return splitRequirements(selector)
    .map((requirement) => requirementToFilter(requirement.trim(), selector))
    .join(' && ');
}

/** Both filters, where there are two. */
export function bothFilters(...filters: readonly (string | undefined)[]): string {
  const given = filters.filter((filter): filter is string => Boolean(filter));
  return given.length > 1 ? given.map((filter) => `(${filter})`).join(' && ') : (given[0] ?? '');
}

function splitRequirements(selector: string): string[] {
  const parts: string[] = [''];
  let depth = 0;
  for (const character of selector) {
    if (character === '(') depth++;
    if (character === ')') depth--;
    if (character === ',' && depth === 0) parts.push('');
    else parts[parts.length - 1] += character;
  }
  if (depth !== 0) throw new UsageError(`selector "${selector}": a bracket is not closed`);
  return parts;
}

function requirementToFilter(text: string, selector: string): string {
  const set = /^(\S+)\s+(in|notin)\s*\(([^()]*)\)$/.exec(text);
  if (set) {
    const [, key = '', operator, list = ''] = set;
    const values = list.split(',').map((value) => quoteValue(value.trim(), selector));
    const holds = `${has(key, selector)} && labels[${quoteKey(key, selector)}] in [${values.join(', ')}]`;
    return operator === 'in' ? `(${holds})` : `!(${holds})`;
  }
  const equality = /^([^=!\s]+)\s*(==|!=|=)\s*([^=!\s]*)$/.exec(text);
  if (equality) {
    const [, key = '', operator, value = ''] = equality;
    const holds = `${has(key, selector)} && labels[${quoteKey(key, selector)}] == ${quoteValue(value, selector)}`;
    return operator === '!=' ? `!(${holds})` : `(${holds})`;
  }
  const existence = /^(!?)\s*([^=!\s(),]+)$/.exec(text);
  if (existence) {
    const [, not = '', key = ''] = existence;
    return not ? `!(${has(key, selector)})` : has(key, selector);
  }
  throw new UsageError(
    `selector "${selector}": cannot read "${text}"; expected key=value, key!=value, key in (a,b), key notin (a,b), key or !key`,
  );
}

function has(key: string, selector: string): string {
  return `${quoteKey(key, selector)} in labels`;
}

// What fits the patterns has no quote and no backslash in it, so nothing can end the literal early.
function quoteKey(key: string, selector: string): string {
  if (!keyPattern.test(key)) throw new UsageError(`selector "${selector}": "${key}" cannot be the key of a label`);
  return JSON.stringify(key);
}

function quoteValue(value: string, selector: string): string {
  if (!valuePattern.test(value) || value.length > 63)
    throw new UsageError(`selector "${selector}": "${value}" cannot be the value of a label`);
  return JSON.stringify(value);
}
