import type { JsonValue } from '@bufbuild/protobuf';

/** A JSON object. */
export type Mapping = { [key: string]: JsonValue };

/** Whether it is a JSON object. */
export function isMapping(value: unknown): value is Mapping {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What stands at the end of a path of keys in JSON that somebody else wrote; undefined when it does not lead anywhere. */
export function valueAt(value: unknown, ...path: readonly string[]): JsonValue | undefined {
  let at: unknown = value;
  for (const key of path) {
    if (!isMapping(at) || !Object.hasOwn(at, key)) return undefined;
    at = at[key];
  }
  return at as JsonValue | undefined;
}

/** The string at a path, or an empty one. */
export function textAt(value: unknown, ...path: readonly string[]): string {
  const found = valueAt(value, ...path);
  return typeof found === 'string' ? found : '';
}

/** The number at a path, or 0. */
export function numberAt(value: unknown, ...path: readonly string[]): number {
  const found = valueAt(value, ...path);
  return typeof found === 'number' ? found : 0;
}

/** The mapping at a path, or an empty one. */
export function mappingAt(value: unknown, ...path: readonly string[]): Mapping {
  const found = valueAt(value, ...path);
  return isMapping(found) ? found : {};
}

/** The mappings of the list at a path. */
export function mappingsAt(value: unknown, ...path: readonly string[]): readonly Mapping[] {
  const found = valueAt(value, ...path);
  return Array.isArray(found) ? found.filter(isMapping) : [];
}
