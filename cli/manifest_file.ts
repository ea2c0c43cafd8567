import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { JsonValue } from '@bufbuild/protobuf';
import { type Document, isAlias, isMap, isScalar, parseAllDocuments, visit } from 'yaml';
import { CliError, exitStatus } from './errors.ts';
import { type Io, readAll } from './io.ts';

/** Larger files are refused: nobody wrote them by hand, and parsing takes a multiple of this in memory. */
const maxFileBytes = 16 * 1024 * 1024;
/** How many nodes the aliases of one document may stand for. */
const maxAliasCount = 1000;
const maxFiles = 10_000;
const extensions = ['.yaml', '.yml', '.json'];

/** A JSON object. */
export type Mapping = { [key: string]: JsonValue };

/** One document of a file. */
export interface SourceDocument {
  /** For messages: `web.yaml, document 2`. */
  readonly where: string;
  readonly value: JsonValue;
}

/** What `-f` names: files, folders (with `recursive` what is in their folders too), `-` for stdin. */
export interface SourceOptions {
  readonly paths: readonly string[];
  readonly recursive: boolean;
}

/** Reads and parses everything. Throws CliError, with the file, the document and the line, on the first thing that is wrong; so nothing is half done. */
export async function readDocuments(io: Io, options: SourceOptions): Promise<SourceDocument[]> {
  const documents: SourceDocument[] = [];
  for (const path of options.paths) {
    if (path === '-') documents.push(...parseDocuments('stdin', await readStdin(io)));
    else
      for (const file of await filesAt(path, options.recursive))
        documents.push(...parseDocuments(file, await readOne(file)));
  }
  if (documents.length === 0)
    throw invalid(`no objects in ${options.paths.map((path) => (path === '-' ? 'stdin' : path)).join(', ')}`);
  return documents;
}

/** Whether it is a JSON object. */
export function isMapping(value: unknown): value is Mapping {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The documents of one file, empty ones left out. */
export function parseDocuments(name: string, bytes: Uint8Array): SourceDocument[] {
  const text = decodeText(name, bytes);
  if (text.trim() === '') return [];
  let parsed: readonly Document[];
  try {
    parsed = parseAllDocuments(text, { uniqueKeys: true, merge: true, prettyErrors: true, logLevel: 'error' });
  } catch (cause) {
    throw tooDeep(name, cause);
  }
  const documents: SourceDocument[] = [];
  for (const [index, document] of [...parsed].entries()) {
    const where = `${name}, document ${index + 1}`;
    const [error] = document.errors;
    if (error) throw invalid(`${where}: ${plain(error.message)}`, error);
    const value = toValue(document, where);
    if (value !== null) documents.push({ where, value });
  }
  return documents;
}

function toValue(document: Document, where: string): JsonValue {
  try {
    checkKeys(document, where);
    const value: unknown = document.toJS({ maxAliasCount });
    return checkJson(value ?? null, where, '', 0);
  } catch (cause) {
    if (cause instanceof CliError) throw cause;
    if (cause instanceof RangeError) throw tooDeep(where, cause);
    // The parser throws ReferenceError for an alias without anchor, and for aliases that stand for too much.
    throw invalid(`${where}: ${plain(cause instanceof Error ? cause.message : String(cause))}`, cause);
  }
}

/** A key that is no word would be turned into one that nobody wrote. */
function checkKeys(document: Document, where: string): void {
  visit(document, {
    Pair(_index, pair) {
      if (isAlias(pair.key) || isMap(pair.key) || (isScalar(pair.key) && pair.key.value === null)) {
        throw invalid(`${where}: a key must be a word`);
      }
    },
  });
}

function checkJson(value: unknown, where: string, path: string, depth: number): JsonValue {
  if (depth > 200) throw invalid(`${where}: nested too deeply`);
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value;
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw invalid(`${where}: ${path}: ${value} is not a number that JSON has`);
    return value;
  }
  if (typeof value === 'bigint') return String(value);
  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) checkJson(item, where, `${path}[${index}]`, depth + 1);
    return value;
  }
  if (typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    for (const [key, item] of Object.entries(value)) checkJson(item, where, path ? `${path}.${key}` : key, depth + 1);
    return value as Mapping;
  }
  throw invalid(`${where}: ${path}: this kind of value has no place in a manifest`);
}

function decodeText(name: string, bytes: Uint8Array): string {
  if (bytes.length > maxFileBytes) throw tooLarge(name);
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    if (text.includes('\0')) throw invalid(`${name}: holds bytes that text does not have; expected YAML or JSON`);
    return text;
  } catch (cause) {
    if (cause instanceof CliError) throw cause;
    throw invalid(`${name}: is not UTF-8; expected YAML or JSON`, cause);
  }
}

async function readStdin(io: Io): Promise<Uint8Array> {
  try {
    return await readAll(io.stdin, maxFileBytes);
  } catch (cause) {
    if (cause instanceof RangeError) throw tooLarge('stdin');
    throw cause;
  }
}

async function readOne(path: string): Promise<Uint8Array> {
  try {
    const { size } = await stat(path);
    if (size > maxFileBytes) throw tooLarge(path);
    return await readFile(path);
  } catch (cause) {
    if (cause instanceof CliError) throw cause;
    throw unreadable(path, cause);
  }
}

/** The file itself, or of a folder the files that look like manifests, in the order of their names. */
async function filesAt(path: string, recursive: boolean): Promise<string[]> {
  const files: string[] = [];
  try {
    const found = await stat(path);
    if (!found.isDirectory()) return [path];
    const entries = await readdir(path, { withFileTypes: true });
    entries.sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const entry of entries) {
      const full = join(path, entry.name);
      if (entry.isDirectory()) {
        if (recursive) files.push(...(await filesAt(full, true)));
      } else if (extensions.some((extension) => entry.name.endsWith(extension))) files.push(full);
      if (files.length > maxFiles) throw invalid(`${path}: more than ${maxFiles} files`);
    }
  } catch (cause) {
    if (cause instanceof CliError) throw cause;
    throw unreadable(path, cause);
  }
  return files;
}

function unreadable(path: string, cause: unknown): CliError {
  const missing = cause instanceof Error && 'code' in cause && cause.code === 'ENOENT';
  const reason = missing ? 'there is no such file or folder' : cause instanceof Error ? cause.message : String(cause);
  return new CliError(`${path}: ${reason}`, exitStatus.failed, { cause });
}

function tooLarge(name: string): CliError {
  return invalid(`${name}: larger than ${maxFileBytes / 1024 / 1024} MiB`);
}

function tooDeep(where: string, cause: unknown): CliError {
  return invalid(`${where}: nested too deeply`, cause);
}

function plain(message: string): string {
  return message.replace(/:?\n[\s\S]*$/, '');
}

function invalid(message: string, cause?: unknown): CliError {
  return new CliError(message, exitStatus.invalid, { cause });
}
