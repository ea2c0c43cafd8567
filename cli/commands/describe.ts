import type { Command } from 'commander';
import { renderError, SilentExit } from '../errors.ts';
import type { AnyObject } from '../objects.ts';
import { describeObject } from '../output/describe.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';
import { findTargets, type TargetFlags } from '../targets.ts';

/** `bayctl describe`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('describe')
    .description('show everything about an object, for people')
    .argument('<kind>', 'kind, or KIND/NAME')
    .argument('[name...]', 'names or uids; none: all of the kind')
    .option('-l, --selector <labels>', 'those with these labels')
    .option('--filter <cel>', 'those for which this CEL expression is true')
    .option('-A, --all-namespaces', 'of every namespace of the bay')
    .action(async (kind: string, names: string[], flags: TargetFlags, self: Command) =>
      describe(await environment.open(self), [kind, ...names], flags),
    );
  examples(
    withGlobals(command),
    'bayctl describe container web -b local',
    'bayctl describe pod redis-master -b edge-1',
    'bayctl describe node/shop-7 -b edge-1',
    'bayctl describe bay edge-1',
  );
}

async function describe(session: Session, words: readonly string[], flags: TargetFlags): Promise<void> {
  const byName = words.length > 1 || words.some((word) => word.includes('/'));
  const targets = await findTargets(session, words, byName ? flags : { ...flags, all: true });
  const results = await Promise.allSettled(
    targets.map(({ kind, place, name }) => session.objects.get(kind, place, name)),
  );
  const found: AnyObject[] = [];
  let status = 0;
  for (const result of results) {
    if (result.status === 'fulfilled') found.push(result.value);
    else {
      const rendered = renderError(result.reason, session.flags.verbose === true);
      status ||= rendered.status;
      await session.err(rendered.text);
    }
  }
  const nowMs = session.io.nowMs();
  await session.out(found.map((object) => describeObject(object, nowMs)).join('\n\n'));
  if (results.length === 0) await session.err('Nothing found.\n');
  if (status) throw new SilentExit(status);
}
