import type { JsonValue } from '@bufbuild/protobuf';
import { type Document, isMap, parseAllDocuments } from 'yaml';
import { CliError, exitStatus } from './errors.ts';
import type { Mapping } from './json.ts';
import { splitJson } from './json_stream.ts';
import { kubernetesTags } from './kubernetes_yaml.ts';
import { findFault, joinPath, pathAt } from './manifest_path.ts';

/** Larger files are refused: nobody wrote them by hand, and parsing takes a multiple of this in memory. */
export const maxFileBytes = 16 * 1024 * 1024;
/** How many values the aliases of one document may stand for. */
const maxExpanded = 1000;
const maxDepth = 200;

/** One document of a file. */
export interface SourceDocument {
  /** For messages: `web.yaml, document 2`. */
  readonly where: string;
  readonly value: JsonValue;
}

/**
 * The documents of one file, empty ones left out. What is not of our own `apiVersion` is read as kubectl reads it, where `yes` is a
 * boolean and `0644` is octal; ours is YAML 1.2. JSON documents may also follow each other with nothing between them. Throws CliError, with
 * file, document and path.
 */
export function parseDocuments(name: string, bytes: Uint8Array): SourceDocument[] {
  const text = decodeText(name, bytes);
  const documents: SourceDocument[] = [];
  let count = 0;
  for (const piece of splitJson(text)) {
    if (piece.trim() === '') continue;
    const hasOwn = /baykeeper\/v/.test(piece);
    const parsed = parseText(name, piece, hasOwn ? 'own' : 'kubernetes');
    // A file with both is read twice: which of its documents are whose is known only afterwards.
    const others =
      hasOwn && parsed.some((document) => !isOwn(document)) ? parseText(name, piece, 'kubernetes') : parsed;
    for (const [index, document] of parsed.entries()) {
      count++;
      const where = `${name}, document ${count}`;
      const value = toValue(isOwn(document) ? document : (others[index] ?? document), where);
      if (value !== null) documents.push({ where, value });
    }
  }
  return documents;
}

/** An error at a place in a file. */
export function manifestError(where: string, path: string, message: string, cause?: unknown): CliError {
  return new CliError(`${where}: ${path ? `${path}: ` : ''}${message}`, exitStatus.invalid, { cause });
}

function parseText(name: string, text: string, whose: 'own' | 'kubernetes'): readonly Document[] {
  try {
    return [
      ...parseAllDocuments(text, {
        uniqueKeys: true,
        merge: true,
        prettyErrors: true,
        logLevel: 'error',
        ...(whose === 'kubernetes' ? { customTags: kubernetesTags } : {}),
      }),
    ];
  } catch (cause) {
    throw manifestError(name, '', 'nested too deeply', cause);
  }
}

function isOwn(document: Document): boolean {
  const version = isMap(document.contents) ? document.contents.get('apiVersion') : undefined;
  return typeof version === 'string' && version.startsWith('baykeeper/');
}

function toValue(document: Document, where: string): JsonValue {
  const [error] = document.errors;
  if (error) {
    const message = error.code === 'DUPLICATE_KEY' ? `is there twice${lineOf(error.message)}` : plain(error.message);
    throw manifestError(where, pathAt(document.contents, error.pos[0]), message, error);
  }
  try {
    const fault = findFault(document, maxExpanded);
    if (fault) throw manifestError(where, fault.path, fault.message);
    const value: unknown = document.toJS({ maxAliasCount: maxExpanded });
    return checkJson(value ?? null, where, '', 0);
  } catch (cause) {
    if (cause instanceof CliError) throw cause;
    if (cause instanceof RangeError) throw manifestError(where, '', 'nested too deeply', cause);
    // The parser throws ReferenceError for an alias without anchor, and for aliases that stand for too much.
    throw manifestError(where, '', plain(cause instanceof Error ? cause.message : String(cause)), cause);
  }
}

function checkJson(value: unknown, where: string, path: string, depth: number): JsonValue {
  if (depth > maxDepth) throw manifestError(where, '', 'nested too deeply');
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value;
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw manifestError(where, path, `${value} is not a number that JSON has`);
    return value;
  }
  if (typeof value === 'bigint') return String(value);
  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) checkJson(item, where, joinPath(path, `[${index}]`), depth + 1);
    return value;
  }
  if (typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    for (const [key, item] of Object.entries(value)) checkJson(item, where, joinPath(path, key), depth + 1);
    return value as Mapping;
  }
  throw manifestError(where, path, 'this kind of value has no place in a manifest');
}

function decodeText(name: string, bytes: Uint8Array): string {
  if (bytes.length > maxFileBytes) throw tooLarge(name);
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    if (text.includes('\0'))
      throw manifestError(name, '', 'holds bytes that text does not have; expected YAML or JSON');
    return text;
  } catch (cause) {
    if (cause instanceof CliError) throw cause;
    throw manifestError(name, '', 'is not UTF-8; expected YAML or JSON', cause);
  }
}

/** A file that is not even looked at. */
export function tooLarge(name: string): CliError {
  return manifestError(name, '', `larger than ${maxFileBytes / 1024 / 1024} MiB`);
}

/** Without the excerpt of the text. */
function plain(message: string): string {
  return message.replace(/:?\n[\s\S]*$/, '');
}

function lineOf(message: string): string {
  const at = / at (line \d+, column \d+)/.exec(message)?.[1];
  return at ? ` (${at})` : '';
}
