import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CliError, exitStatus } from './errors.ts';
import { type Io, readAll } from './io.ts';
import { maxFileBytes, parseDocuments, type SourceDocument, tooLarge } from './manifest_yaml.ts';

const maxFiles = 10_000;
const extensions = ['.yaml', '.yml', '.json'];

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

function invalid(message: string): CliError {
  return new CliError(message, exitStatus.invalid);
}
