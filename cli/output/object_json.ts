import { type JsonObject, type JsonValue, toJson } from '@bufbuild/protobuf';
import { type AnyObject, kindOf, schemaOf } from '../objects.ts';
import { escapeQuoted } from './escape.ts';

/** Of everything that Baykeeper writes and reads as a manifest of its own. */
export const apiVersion = 'baykeeper/v1';

/**
 * The object as `-o json` shows it, stable and complete: its protobuf JSON (https://protobuf.dev/programming-guides/json/), so enums by full
 * name, 64-bit numbers as strings, times in RFC 3339; fields without presence are there also when empty, so that a script finds
 * them; before it `apiVersion` and `kind`, so that `apply -f` takes it back.
 */
export function objectJson(object: AnyObject): JsonObject {
  return { apiVersion, kind: kindOf(object).name, ...messageJson(object, true) };
}

/** As `objectJson`, without what is empty: for people to edit. */
export function sparseJson(object: AnyObject): JsonObject {
  return { apiVersion, kind: kindOf(object).name, ...messageJson(object, false) };
}

/** Many objects: `items`, in order. */
export function listJson(objects: readonly AnyObject[]): JsonObject {
  return { apiVersion, kind: 'List', items: objects.map(objectJson) };
}

function messageJson(object: AnyObject, alwaysEmitImplicit: boolean): JsonObject {
  const json = toJson(schemaOf(kindOf(object).name), object, { alwaysEmitImplicit });
  if (typeof json !== 'object' || json === null || Array.isArray(json)) throw new Error('a message is a JSON object');
  return json;
}

/** JSON in two-space steps, with what could steer a terminal escaped. Ends in a newline. */
export function jsonText(value: JsonValue): string {
  return `${escapeQuoted(JSON.stringify(value, null, 2))}\n`;
}

/** JSON on one line. Ends in a newline. */
export function jsonLine(value: JsonValue): string {
  return `${escapeQuoted(JSON.stringify(value))}\n`;
}
