import { toBinary } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import {
  ApplyOutcome,
  type ApplyResult,
  ManifestSchema,
  ManifestService,
} from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { collect } from '../args.ts';
import { codeName, exitStatus, SilentExit, UsageError } from '../errors.ts';
import { inOrder, type ManifestObject, parseObjects, toManifest } from '../manifest.ts';
import { readDocuments } from '../manifest_file.ts';
import { label } from '../objects.ts';
import { escapeLine, escapeText } from '../output/escape.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';

interface ApplyFlags {
  readonly filename?: readonly string[];
  readonly recursive?: boolean;
  readonly dryRun?: boolean;
}

/** Of one call; the API takes 1000 manifests, and servers refuse messages that are too large. */
const maxManifests = 500;
const maxCallBytes = 1024 * 1024;

/** `bayctl apply`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('apply')
    .description('make objects as files say: those that are not there are created, those that differ are changed')
    .option(
      '-f, --filename <path>',
      'a file or folder of YAML or JSON, or - for stdin; may be given several times',
      collect(String),
    )
    .option('-R, --recursive', 'with a folder: also what is in the folders in it')
    .option('--dry-run', 'check everything and say what would be done, and do nothing')
    .action(async (flags: ApplyFlags, self: Command) => {
      if (!flags.filename) throw new UsageError('say which files, with -f');
      await apply(await environment.open(self), flags.filename, flags);
    });
  examples(
    withGlobals(command),
    'bayctl apply -f web.yaml -b local',
    'bayctl apply -f manifests/ -R -b local --dry-run',
    'cat web.yaml | bayctl apply -f - -b local',
  );
}

/** The objects of the files, in the order in which they can be made. */
export async function readObjects(
  session: Session,
  paths: readonly string[],
  recursive: boolean,
): Promise<ManifestObject[]> {
  const documents = await readDocuments(session.io, { paths, recursive });
  const defaults = {
    ...session.place,
    bayFlag: session.flags.bay ?? '',
    namespaceFlag: session.flags.namespace ?? '',
  };
  const objects = inOrder(documents.flatMap((document) => parseObjects(document, defaults)));
  if (objects.length === 0) throw new UsageError('there are no objects in these files');
  return objects;
}

async function apply(session: Session, paths: readonly string[], flags: ApplyFlags): Promise<void> {
  const objects = await readObjects(session, paths, flags.recursive === true);
  let status: number = exitStatus.ok;
  for (const batch of batches(objects)) {
    const response = await session.api.unary(ManifestService.method.apply, {
      manifests: batch.map(({ object }) => toManifest(object)),
      validateOnly: flags.dryRun === true,
    });
    for (const [index, source] of batch.entries()) {
      const refused = await report(session, source, response.results[index], flags.dryRun === true);
      if (refused) status = exitStatus.failed;
    }
  }
  if (status !== exitStatus.ok) throw new SilentExit(status);
}

/** Says what became of one object. Whether it was refused. */
async function report(
  session: Session,
  source: ManifestObject,
  result: ApplyResult | undefined,
  dryRun: boolean,
): Promise<boolean> {
  const name = escapeLine(label(source.object));
  const word =
    result &&
    {
      [ApplyOutcome.CREATED]: 'created',
      [ApplyOutcome.CONFIGURED]: 'configured',
      [ApplyOutcome.UNCHANGED]: 'unchanged',
    }[result.outcome as ApplyOutcome.CREATED | ApplyOutcome.CONFIGURED | ApplyOutcome.UNCHANGED];
  if (word) {
    await session.out(`${name} ${word}${dryRun ? ' (dry run)' : ''}\n`);
    return false;
  }
  const error = result?.error;
  const message = error?.message || 'the server gave no result for it';
  const field = error?.field && !message.startsWith(error.field) ? `${error.field}: ` : '';
  await session.err(
    `Error: ${escapeText(`${source.where}: ${name} refused: ${field}${message}`)}${error ? ` (${codeName(error.code)})` : ''}\n`,
  );
  return true;
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
