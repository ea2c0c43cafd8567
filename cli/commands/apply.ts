import type { Command } from 'commander';
import { ApplyOutcome } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
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
import { dryRunOption } from '../dry_run.ts';
import { SilentExit } from '../errors.ts';
import { label } from '../objects.ts';
import { escapeLine } from '../output/escape.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';

interface ApplyFlags extends FileFlags, ClusterFlags {
  readonly dryRun?: boolean;
}

/** `bayctl apply`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('apply')
    .description('make objects as files say: those that are not there are created, those that differ are changed')
    .action(async (flags: ApplyFlags, self: Command) => apply(await environment.open(self), flags));
  clusterOptions(fileOptions(command));
  dryRunOption(command, 'check everything (on a Kubernetes bay its cluster does), and do nothing');
  examples(
    withGlobals(command),
    'bayctl apply -f web.yaml -b local',
    'bayctl apply -f redis/ -b edge-1 -n shop --create-namespace',
    'bayctl apply -f redis/ -b edge-1 --dry-run=server',
    'bayctl apply -f service.yaml -b edge-1 --adopt',
    'cat web.yaml | bayctl apply -f - -b local',
  ).addHelpText(
    'after',
    `
What files may have: v1 manifests of Kubernetes (Pod, Service, ReplicationController) and objects of baykeeper/v1, also in Lists and several
documents. Of a v1 manifest everything goes on as it is written, but for status and what a server writes into metadata (uid,
resourceVersion, managedFields …), which is left out; null means left out, and plain words mean what they mean to kubectl.
`,
  );
}

const words: Readonly<Record<number, string>> = {
  [ApplyOutcome.CREATED]: 'created',
  [ApplyOutcome.CONFIGURED]: 'configured',
  [ApplyOutcome.UNCHANGED]: 'unchanged',
};

async function apply(session: Session, flags: ApplyFlags): Promise<void> {
  const objects = await readObjects(session, flags);
  const refusals: number[] = [];
  for await (const { source, result } of applyAll(session, objects, flags.dryRun === true)) {
    const word = result && words[result.outcome];
    if (word) await session.out(`${escapeLine(label(source.object))} ${word}${flags.dryRun ? ' (dry run)' : ''}\n`);
    else refusals.push(await reportRefusal(session, source, result));
  }
  if (refusals.length > 0) throw new SilentExit(commonStatus(refusals));
}
