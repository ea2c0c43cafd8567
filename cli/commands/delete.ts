import { Code } from '@connectrpc/connect';
import type { Command } from 'commander';
import { type FileFlags, fileOptions, readObjects } from '../apply_manifests.ts';
import { parseBoolean, parsePositiveDuration } from '../args.ts';
import { awaitObject } from '../await_object.ts';
import { hasCode } from '../client.ts';
import { everyProject } from '../context.ts';
import { dryRunOption } from '../dry_run.ts';
import { renderError, SilentExit, UsageError } from '../errors.ts';
import { kindOf, metadataOf } from '../objects.ts';
import { escapeLine } from '../output/escape.ts';
import { Progress } from '../output/progress.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';
import { findTargets, inItsProject, type PlacedTarget, type TargetFlags } from '../targets.ts';

interface DeleteFlags extends TargetFlags, FileFlags {
  readonly force?: boolean;
  readonly wait: boolean;
  readonly timeout: number;
  readonly ignoreNotFound?: boolean;
  readonly dryRun?: boolean;
}

const defaultTimeoutMs = 60_000;

/** `bayctl delete`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('delete')
    .description('delete objects, and wait until nothing of them runs')
    .argument('[kind]', 'kind, or KIND/NAME')
    .argument('[name...]', 'names or uids')
    .option('-l, --selector <labels>', 'those with these labels')
    .option('--filter <cel>', 'those for which this CEL expression is true')
    .option('--all', 'all of the kind in the namespace')
    .option('-A, --all-namespaces', 'with --selector, --filter or --all: in every namespace')
    .option(
      '--force',
      'do not wait for the node to confirm it; of a node: with what is on it, which other nodes get; of a bay: with all that is in it',
    )
    .option('--no-wait', 'return when the deletion is asked for')
    .option('--wait [bool]', 'wait until it is done (default: true)', parseBoolean, true)
    .option('--timeout <time>', 'how long to wait', parsePositiveDuration, defaultTimeoutMs)
    .option('--ignore-not-found', 'no error where there is none of that name')
    .action(async (kind: string | undefined, names: string[], flags: DeleteFlags, self: Command) => {
      const session = await environment.open(self);
      const words = kind === undefined ? [] : [kind, ...names];
      if (flags.filename && words.length > 0) throw new UsageError('give -f or names, not both');
      if (!flags.filename && words.length === 0) throw new UsageError('say which objects, or -f FILE');
      if (session.settings.project === everyProject && words.every((word, i) => i === 0 && !word.includes('/')))
        throw new UsageError('of every project only what is named is deleted: give names, or --project');
      const targets = flags.filename ? await fromFiles(session, flags) : await findTargets(session, words, flags);
      if (targets.length === 0) await session.err('Nothing to delete.\n');
      await deleteAll(environment, session, targets, flags);
    });
  fileOptions(command, 'what a file or folder names');
  dryRunOption(command, 'say what would be deleted, and do nothing');
  examples(
    withGlobals(command),
    'bayctl delete container web -b local',
    'bayctl delete container/web container/db -b local --no-wait',
    'bayctl delete containers -b local -l tier=web',
    'bayctl delete -f web.yaml -b local',
    'bayctl delete pod/redis-master rc/redis -b edge-1 --timeout 2m',
  );
}

async function fromFiles(session: Session, flags: DeleteFlags): Promise<PlacedTarget[]> {
  const sources = await readObjects(session, flags);
  // What is in a bay goes before the bay.
  return sources.reverse().map(({ object }) => {
    const { name, bay, namespace } = metadataOf(object);
    return { kind: kindOf(object), name, place: { bay, namespace } };
  });
}

async function deleteAll(
  environment: Environment,
  session: Session,
  targets: readonly PlacedTarget[],
  flags: DeleteFlags,
): Promise<void> {
  const pending: { readonly target: PlacedTarget; readonly owner: Session }[] = [];
  let status = 0;
  const failed = async (error: unknown): Promise<void> => {
    const rendered = renderError(error, session.flags.verbose === true);
    status ||= rendered.status;
    await session.err(rendered.text);
  };
  const dryRun = flags.dryRun === true;
  for (const target of targets) {
    try {
      const owner = await inItsProject(environment, session, target.kind, target.name);
      const place = owner === session ? target.place : owner.place;
      const left = await owner.objects.delete(target.kind, place, target.name, {
        force: flags.force === true,
        allowMissing: flags.ignoreNotFound === true,
        validateOnly: dryRun,
      });
      if (left && metadataOf(left).deleteTime && !dryRun) {
        if (flags.wait) pending.push({ target: { ...target, place, uid: metadataOf(left).uid }, owner });
        else await said(session, target, 'deletion asked for');
      } else if (left || !flags.ignoreNotFound) await said(session, target, `deleted${dryRun ? ' (dry run)' : ''}`);
    } catch (error) {
      if (!(flags.ignoreNotFound && hasCode(error, Code.NotFound))) await failed(error);
    }
  }
  const deadlineMs = session.io.nowMs() + flags.timeout;
  for (const { target, owner } of pending) {
    const progress = new Progress(session.io);
    try {
      await awaitObject(
        owner,
        target,
        { text: 'gone', reached: (object) => object === undefined },
        { deadlineMs, progress },
      );
      progress.end();
      await said(session, target, 'deleted');
    } catch (error) {
      progress.end();
      await failed(error);
    }
  }
  if (status) throw new SilentExit(status);
}

async function said(session: Session, target: PlacedTarget, what: string): Promise<void> {
  await session.out(`${escapeLine(`${target.kind.singular}/${target.name}`)} ${what}\n`);
}
