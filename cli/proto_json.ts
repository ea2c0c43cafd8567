import {
  type DescEnum,
  type DescField,
  type DescMessage,
  fromJson,
  type JsonValue,
  type Message,
} from '@bufbuild/protobuf';
import { isMapping, type Mapping } from './json.ts';
import { shortEnumName } from './output/enum_name.ts';

/** Makes the error for a path (`spec.ports[0].protocol`) and what is wrong there. */
export type Failure = (path: string, message: string) => Error;

/**
 * Decodes protobuf JSON as people write it: field names in camelCase or snake_case, enums by full or short name in any case
 * (`ALWAYS`, `on-failure`), and nothing unknown. Throws what `fail` makes.
 */
export function decode<T extends Message>(schema: DescMessage, value: JsonValue, fail: Failure): T {
  const normal = normalise(schema, value, '', fail);
  try {
    return fromJson(schema, normal) as T;
  } catch (cause) {
    locate(schema, normal, '', fail);
    throw fail('', cause instanceof Error ? cause.message : String(cause));
  }
}

/** Gives enums their full names, and finds fields that do not exist. */
function normalise(schema: DescMessage, value: JsonValue, path: string, fail: Failure): JsonValue {
  if (schema.typeName.startsWith('google.protobuf.')) return value;
  if (!isMapping(value)) throw fail(path, `expected a mapping, and not ${describe(value)}`);
  const result: Mapping = {};
  const seen = new Map<string, string>();
  for (const [key, given] of Object.entries(value)) {
    const at = path ? `${path}.${key}` : key;
    const field = findField(schema, key);
    if (!field) throw fail(at, `unknown field${suggestion(schema, key)}`);
    const twin = seen.get(field.name);
    if (twin !== undefined) throw fail(at, `given twice, also as ${twin}`);
    seen.set(field.name, key);
    result[field.jsonName] = given === null ? null : normaliseField(field, given, at, fail);
  }
  return result;
}

function normaliseField(field: DescField, value: JsonValue, path: string, fail: Failure): JsonValue {
  switch (field.fieldKind) {
    case 'message':
      return normalise(field.message, value, path, fail);
    case 'enum':
      return enumValue(field.enum, value, path, fail);
    case 'list':
      if (!Array.isArray(value)) throw fail(path, `expected a list, and not ${describe(value)}`);
      return value.map((item, index) => {
        const at = `${path}[${index}]`;
        if (field.listKind === 'message') return normalise(field.message, item, at, fail);
        return field.listKind === 'enum' ? enumValue(field.enum, item, at, fail) : item;
      });
    default:
      return value;
  }
}

function enumValue(desc: DescEnum, value: JsonValue, path: string, fail: Failure): JsonValue {
  if (typeof value === 'number') return value;
  if (typeof value !== 'string') throw fail(path, `expected one of ${enumWords(desc)}, and not ${describe(value)}`);
  const wanted = value.toUpperCase().replace(/-/g, '_');
  const squeezed = wanted.replace(/_/g, '');
  const found = desc.values.find((candidate) => {
    const short = shortEnumName(desc, candidate.name);
    return candidate.name === wanted || short === wanted || short.replace(/_/g, '') === squeezed;
  });
  if (!found) throw fail(path, `"${value}" is not one of ${enumWords(desc)}`);
  return found.name;
}

/** The words that a user can write for an enum. */
export function enumWords(desc: DescEnum): string {
  return desc.values
    .filter((value) => value.number !== 0)
    .map((value) => shortEnumName(desc, value.name))
    .join(', ');
}

/** Finds the field that the decoder will not take, by giving it one at a time, and throws. */
function locate(schema: DescMessage, value: JsonValue, path: string, fail: Failure): void {
  if (schema.typeName.startsWith('google.protobuf.') || !isMapping(value)) return;
  for (const [key, given] of Object.entries(value)) {
    const field = findField(schema, key);
    if (!field) continue;
    const at = path ? `${path}.${field.jsonName}` : field.jsonName;
    if (takes(schema, key, given)) continue;
    if (field.fieldKind === 'message') locate(field.message, given, at, fail);
    if (field.fieldKind === 'list' && Array.isArray(given)) {
      for (const [index, item] of given.entries()) {
        if (takes(schema, key, [item])) continue;
        if (field.listKind === 'message') locate(field.message, item, `${at}[${index}]`, fail);
        throw fail(`${at}[${index}]`, expectation(field, item));
      }
    }
    if (field.fieldKind === 'map' && isMapping(given)) {
      for (const [entry, item] of Object.entries(given)) {
        if (!takes(schema, key, { [entry]: item })) throw fail(`${at}.${entry}`, expectation(field, item));
      }
    }
    throw fail(at, expectation(field, given));
  }
}

function takes(schema: DescMessage, key: string, value: JsonValue): boolean {
  try {
    fromJson(schema, { [key]: value });
    return true;
  } catch {
    return false;
  }
}

const scalarWords: Readonly<Record<number, string>> = {
  1: 'a number',
  3: 'a whole number',
  5: 'a whole number',
  8: 'true or false',
  9: 'a string',
  12: 'bytes in base64',
  13: 'a whole number, not negative',
};

function expectation(field: DescField, value: JsonValue): string {
  const scalar = 'scalar' in field ? field.scalar : undefined;
  if (field.fieldKind === 'map' && !isMapping(value) && typeof value === 'object')
    return `expected a mapping, and not ${describe(value)}`;
  if (scalar !== undefined) {
    const hint =
      scalar === 9 && (typeof value === 'number' || typeof value === 'boolean') ? `: put it in quotes, "${value}"` : '';
    return `expected ${scalarWords[scalar] ?? 'a number'}, and not ${describe(value)}${hint}`;
  }
  if (field.message?.typeName === 'google.protobuf.Duration')
    return `expected a length of time in seconds, as "10s", and not ${describe(value)}`;
  if (field.message?.typeName === 'google.protobuf.Timestamp')
    return `expected a time in RFC 3339, and not ${describe(value)}`;
  return `${describe(value)} is not a value it can have`;
}

function describe(value: JsonValue): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a mapping';
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}

function findField(schema: DescMessage, key: string): DescField | undefined {
  return schema.fields.find((field) => field.jsonName === key || field.name === key);
}

function suggestion(schema: DescMessage, key: string): string {
  const squeezed = key.toLowerCase().replace(/[_-]/g, '');
  const close = schema.fields.find(
    (field) => field.name.replace(/_/g, '') === squeezed || field.name.replace(/_/g, '') === `${squeezed}s`,
  );
  return close
    ? `; is ${close.jsonName} meant?`
    : `; known are ${schema.fields.map((field) => field.jsonName).join(', ')}`;
}
