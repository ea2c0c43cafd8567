import { Code } from '@connectrpc/connect';
import type { Command } from 'commander';
import { ApplyOutcome, type ApplyResult } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import {
  applyAll,
  type ClusterFlags,
  clusterOptions,
  commonStatus,
  type FileFlags,
  fileOptions,
  readObjects,
  reportRefusal,
} from '../apply_manifests.ts';
import { hasCode } from '../client.ts';
import { CliError, exitStatus, SilentExit } from '../errors.ts';
import type { ManifestObject } from '../manifest.ts';
import { kindOf, metadataOf } from '../objects.ts';
import { palette } from '../output/color.ts';
import { comparable, comparableInCluster } from '../output/comparable.ts';
import { escapeLine } from '../output/escape.ts';
import { unifiedDiff } from '../output/unified_diff.ts';
import { yamlText } from '../output/yaml.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';

/** That there are differences; what is 1 elsewhere is 2 here. */
const different = 1;

interface DiffFlags extends FileFlags, ClusterFlags {}

/** `bayctl diff`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('diff')
    .description('show what `apply` would change: on a Kubernetes bay in its cluster, which is asked for it')
    .action(async (flags: DiffFlags, self: Command) => {
      try {
        await diff(await environment.open(self), flags);
      } catch (error) {
        if (error instanceof CliError && (error instanceof SilentExit || error.exitStatus !== different)) throw error;
        const message = error instanceof Error ? error.message : String(error);
        throw new CliError(message, exitStatus.usage, { cause: error });
      }
    });
  clusterOptions(fileOptions(command));
  examples(
    withGlobals(command),
    'bayctl diff -f web.yaml -b edge-1',
    'bayctl diff -f redis/ -b edge-1 && echo nothing to do',
    'cat web.yaml | bayctl diff -f - -b edge-1',
  ).addHelpText(
    'after',
    'Exit status: 0 no differences, 1 differences; 2 and more: as in `bayctl --help`, and 2 for what is 1 there.\n',
  );
}

async function diff(session: Session, flags: DiffFlags): Promise<void> {
  const objects = await readObjects(session, flags);
  const colour = palette(session.io, session.io.stdout);
  const refusals: number[] = [];
  let differs = false;
  for await (const { source, result } of applyAll(session, objects, true)) {
    if (!result || result.outcome === ApplyOutcome.REFUSED || result.outcome === ApplyOutcome.UNSPECIFIED) {
      refusals.push(Math.max(exitStatus.usage, await reportRefusal(session, source, result)));
      continue;
    }
    const [before, after] = await sides(session, source, result);
    const text = unifiedDiff(before, after, nameOf(source), colour);
    if (text === '') continue;
    differs = true;
    await session.out(text);
  }
  if (refusals.length > 0) throw new SilentExit(Math.max(exitStatus.usage, commonStatus(refusals)));
  if (differs) throw new SilentExit(different);
}

/** What there is, and what there would be: in the cluster, where one was asked; else in the control plane. Empty: nothing. */
async function sides(
  session: Session,
  source: ManifestObject,
  result: ApplyResult,
): Promise<readonly [string, string]> {
  const { live, merged, manifest } = result;
  if (merged) {
    const after = yamlText(comparableInCluster(merged, live === undefined));
    return [live ? yamlText(comparableInCluster(live, false)) : '', after];
  }
  const after = manifest?.object.value;
  if (!after || result.outcome === ApplyOutcome.UNCHANGED) return ['', ''];
  const { bay, namespace, name } = metadataOf(source.object);
  try {
    const before = await session.objects.get(kindOf(source.object), { bay, namespace }, name);
    return [yamlText(comparable(before)), yamlText(comparable(after))];
  } catch (error) {
    if (!hasCode(error, Code.NotFound)) throw error;
    return ['', yamlText(comparable(after))];
  }
}

/** `pod/default/web`. */
function nameOf({ object }: ManifestObject): string {
  const { scope, singular } = kindOf(object);
  const { namespace, name } = metadataOf(object);
  return escapeLine([singular, scope === 'namespace' ? namespace || 'default' : '', name].filter(Boolean).join('/'));
}
