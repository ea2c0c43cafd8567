import { clone } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import type { Command } from 'commander';
import { ReplicationControllerSchema } from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { parseCount } from '../args.ts';
import { hasCode } from '../client.ts';
import { CliError, exitStatus, renderError, SilentExit, UsageError } from '../errors.ts';
import { replicasAsked } from '../output/cluster_columns.ts';
import { escapeLine } from '../output/escape.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';
import { findTargets, type PlacedTarget, type TargetFlags } from '../targets.ts';

interface ScaleFlags extends TargetFlags {
  readonly replicas: number;
  readonly currentReplicas?: number;
}

/** Somebody else may change the object in between; then it is read again. */
const attempts = 5;

/** `bayctl scale`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('scale')
    .description('say how many pods replication controllers keep')
    .argument('<kind>', 'rc, or rc/NAME')
    .argument('[name...]', 'names or uids')
    .requiredOption('--replicas <count>', 'how many', parseCount)
    .option('--current-replicas <count>', 'only where it is asked for so many now', parseCount)
    .option('-l, --selector <labels>', 'those with these labels')
    .option('--all', 'all in the namespace')
    .action(async (kind: string, names: string[], flags: ScaleFlags, self: Command) =>
      scale(await environment.open(self), [kind, ...names], flags),
    );
  examples(
    withGlobals(command),
    'bayctl scale rc/redis --replicas=2 -b edge-1',
    'bayctl scale rc redis redis-sentinel --replicas=3 -b edge-1',
    'bayctl scale rc/redis --current-replicas=2 --replicas=3 -b edge-1',
  );
}

async function scale(session: Session, words: readonly string[], flags: ScaleFlags): Promise<void> {
  const targets = await findTargets(session, words, flags);
  const other = targets.find(({ kind }) => kind.name !== 'ReplicationController');
  if (other) throw new UsageError(`a ${other.kind.singular} cannot be scaled, a replicationcontroller can`);
  if (targets.length === 0) await session.err('Nothing to scale.\n');
  let status = 0;
  for (const target of targets) {
    try {
      const word = await scaleOne(session, target, flags);
      await session.out(`${escapeLine(`${target.kind.singular}/${target.name}`)} ${word}\n`);
    } catch (error) {
      const rendered = renderError(error, session.flags.verbose === true);
      status ||= rendered.status;
      await session.err(rendered.text);
    }
  }
  if (status) throw new SilentExit(status);
}

async function scaleOne(session: Session, { kind, place, name }: PlacedTarget, flags: ScaleFlags): Promise<string> {
  for (let attempt = 1; ; attempt++) {
    const controller = await session.objects.get(kind, place, name);
    if (controller.$typeName !== 'baykeeper.v1.ReplicationController' || !controller.spec)
      throw new CliError('the server gave something that is not a replication controller');
    const asked = replicasAsked(controller);
    if (flags.currentReplicas !== undefined && flags.currentReplicas !== asked)
      throw new CliError(
        `${kind.singular}/${name} is asked for ${asked} replicas, and not for ${flags.currentReplicas}`,
        exitStatus.conflict,
      );
    if (controller.spec.manifest?.replicas === flags.replicas) return 'unchanged';
    const changed = clone(ReplicationControllerSchema, controller);
    if (changed.spec) changed.spec.manifest = { ...controller.spec.manifest, replicas: flags.replicas };
    try {
      await session.objects.update(changed, ['spec.manifest']);
      return 'scaled';
    } catch (error) {
      if (!hasCode(error, Code.Aborted) || attempt >= attempts) throw error;
    }
  }
}
