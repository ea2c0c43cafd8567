import { toBinary } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { type ApplyResult, ManifestSchema, ManifestService } from '../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { collect } from './args.ts';
import { codeName, codeStatus, exitStatus, UsageError } from './errors.ts';
import { manifestPath } from './kubernetes_manifest.ts';
import { inOrder, type ManifestObject, parseObjects, toManifest } from './manifest.ts';
import { readDocuments } from './manifest_file.ts';
import { kindOf, label } from './objects.ts';
import { escapeLine, escapeText } from './output/escape.ts';
import type { Session } from './session.ts';

/** The flags of commands that read files. */
export interface FileFlags {
  readonly filename?: readonly string[];
  readonly recursive?: boolean;
}

/** The flags of commands that send what files have to a Kubernetes cluster. */
export interface ClusterFlags {
  readonly createNamespace?: boolean;
  readonly adopt?: boolean;
}

/** Of one call; the API takes 1000 manifests, and servers refuse messages that are too large. */
const maxManifests = 500;
const maxCallBytes = 1024 * 1024;

/** Gives a command `-f` and `-R`. */
export function fileOptions(command: Command, what = 'a file or folder of YAML or JSON'): Command {
  return command
    .option('-f, --filename <path>', `${what}, or - for stdin; may be given several times`, collect(String))
    .option('-R, --recursive', 'with a folder: also what is in the folders in it');
}

/** Gives a command what is said once for all objects of a Kubernetes bay. */
export function clusterOptions(command: Command): Command {
  return command
    .option('--create-namespace', 'on a Kubernetes bay: make the namespace where there is none')
    .option('--adopt', 'on a Kubernetes bay: take over objects that are in the cluster already and are not ours');
}

/** The objects of the files, in the order in which they can be made. */
export async function readObjects(
  session: Session,
  flags: FileFlags & ClusterFlags,
  options: { readonly generateNames?: boolean } = {},
): Promise<ManifestObject[]> {
  if (!flags.filename) throw new UsageError('say which files, with -f');
  const documents = await readDocuments(session.io, { paths: flags.filename, recursive: flags.recursive === true });
  const defaults = {
    ...session.place,
    bayFlag: session.flags.bay ?? '',
    namespaceFlag: session.flags.namespace ?? '',
    ...options,
  };
  const objects = inOrder(documents.flatMap((document) => parseObjects(document, defaults)));
  if (objects.length === 0) throw new UsageError('there are no objects in these files');
  for (const { object } of objects) {
    const { spec } = object;
    if (!spec || !('adopt' in spec)) continue;
    if (flags.adopt) spec.adopt = true;
    if (flags.createNamespace) spec.createNamespace = true;
  }
  return objects;
}

/** Applies objects in as few calls as may be, and gives the result of each, in their order. */
export async function* applyAll(
  session: Session,
  objects: readonly ManifestObject[],
  validateOnly: boolean,
): AsyncIterable<{ readonly source: ManifestObject; readonly result: ApplyResult | undefined }> {
  for (const batch of batches(objects)) {
    const { results } = await session.api.unary(ManifestService.method.apply, {
      manifests: batch.map(({ object }) => toManifest(object)),
      validateOnly,
    });
    for (const [index, source] of batch.entries()) yield { source, result: results[index] };
  }
}

/** Says why one object was refused, and returns the exit status for it. */
export async function reportRefusal(
  session: Session,
  source: ManifestObject,
  result: ApplyResult | undefined,
): Promise<number> {
  const error = result?.error;
  const name = escapeLine(label(source.object));
  const said = error?.message || 'the server gave no result for it';
  const field = error ? sourcePath(source, error.field) : '';
  const message =
    error?.field && said.startsWith(error.field) ? said.slice(error.field.length).replace(/^:? /, '') : said;
  await session.err(
    `Error: ${escapeText(`${source.where}: ${name} refused: ${field ? `${field}: ` : ''}${message}`)}${error ? ` (${codeName(error.code)})` : ''}\n`,
  );
  return error ? codeStatus(error.code) || exitStatus.failed : exitStatus.failed;
}

/** Of several exit statuses that are none of success: the one that they all are, else 1. */
export function commonStatus(statuses: readonly number[]): number {
  const [first = exitStatus.ok] = statuses;
  return statuses.every((status) => status === first) ? first : exitStatus.failed;
}

/** The server speaks of fields of a request (`pod.spec.manifest.containers`), the author of a file sees others (`spec.containers`). */
function sourcePath({ object, isKubernetes }: ManifestObject, field: string): string {
  const own = kindOf(object).field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const path = field.replace(new RegExp(`^${own}(\\.|$)`), '');
  return isKubernetes ? manifestPath(path) : path;
}

function batches(objects: readonly ManifestObject[]): ManifestObject[][] {
  const result: ManifestObject[][] = [];
  let current: ManifestObject[] = [];
  let bytes = 0;
  for (const source of objects) {
    const size = toBinary(ManifestSchema, toManifest(source.object)).length;
    if (current.length > 0 && (current.length >= maxManifests || bytes + size > maxCallBytes)) {
      result.push(current);
      current = [];
      bytes = 0;
    }
    current.push(source);
    bytes += size;
  }
  if (current.length > 0) result.push(current);
  return result;
}
