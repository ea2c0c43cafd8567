import { Code } from '@connectrpc/connect';
import type { Command } from 'commander';
import { hasCode } from './client.ts';
import { CliError, exitStatus, renderError, SilentExit, UsageError } from './errors.ts';
import { label, metadataOf } from './objects.ts';
import { escapeLine } from './output/escape.ts';
import { type Environment, examples, type Session, withGlobals } from './session.ts';
import { findTargets, type PlacedTarget, type TargetFlags } from './targets.ts';

interface Change {
  readonly set: ReadonlyMap<string, string>;
  readonly remove: ReadonlySet<string>;
}

interface ChangeFlags extends TargetFlags {
  readonly overwrite?: boolean;
}

/** Somebody else may change the object in between; then it is read again. */
const attempts = 5;

/** Registers `label` or `annotate`, which differ in the field alone. */
export function registerMetadataCommand(
  parent: Command,
  environment: Environment,
  which: { readonly command: 'label' | 'annotate'; readonly field: 'labels' | 'annotations' },
): void {
  const command = parent
    .command(which.command)
    .description(`set ${which.field} with KEY=VALUE, take them away with KEY-`)
    .argument('<kind>', 'kind, or KIND/NAME')
    .argument('<word...>', 'names, then KEY=VALUE and KEY-')
    .option('--overwrite', 'also where there is another value already')
    .option('-l, --selector <labels>', 'of those with these labels')
    .option('--all', 'of all of the kind in the namespace')
    .action(async (kind: string, words: string[], flags: ChangeFlags, self: Command) => {
      const session = await environment.open(self);
      const isChange = (word: string): boolean => word.includes('=') || word.endsWith('-');
      const change = parseChange(words.filter(isChange));
      const targets = await findTargets(session, [kind, ...words.filter((word) => !isChange(word))], flags);
      let status = 0;
      for (const target of targets) {
        try {
          await changeOne(session, target, change, which.field, flags.overwrite === true);
        } catch (error) {
          const rendered = renderError(error, session.flags.verbose === true);
          status ||= rendered.status;
          await session.err(rendered.text);
        }
      }
      if (status) throw new SilentExit(status);
    });
  examples(
    withGlobals(command),
    `bayctl ${which.command} container web tier=front -b local`,
    `bayctl ${which.command} node/shop-7 zone=north --overwrite -b edge-1`,
    `bayctl ${which.command} container web tier- -b local`,
  );
}

function parseChange(words: readonly string[]): Change {
  const set = new Map<string, string>();
  const remove = new Set<string>();
  for (const word of words) {
    const at = word.indexOf('=');
    if (at > 0) set.set(word.slice(0, at), word.slice(at + 1));
    else if (at < 0 && word.length > 1) remove.add(word.slice(0, -1));
    else throw new UsageError(`cannot read "${word}"; expected KEY=VALUE or KEY-`);
  }
  if (set.size + remove.size === 0) throw new UsageError('say what to change: KEY=VALUE or KEY-');
  const both = [...remove].find((key) => set.has(key));
  if (both !== undefined) throw new UsageError(`"${both}" cannot be set and taken away at once`);
  return { set, remove };
}

async function changeOne(
  session: Session,
  { kind, place, name }: PlacedTarget,
  change: Change,
  field: 'labels' | 'annotations',
  overwrite: boolean,
): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const object = await session.objects.get(kind, place, name);
    const metadata = metadataOf(object);
    const before = metadata[field];
    const after = { ...before };
    for (const [key, value] of change.set) {
      const present = Object.hasOwn(before, key) ? before[key] : undefined;
      if (present !== undefined && present !== value && !overwrite) {
        throw new CliError(`${label(object)} has ${key}=${present} already: use --overwrite`, exitStatus.conflict);
      }
      after[key] = value;
    }
    for (const key of change.remove) delete after[key];
    const same =
      Object.keys(after).length === Object.keys(before).length &&
      Object.entries(after).every(([key, value]) => before[key] === value);
    if (same) {
      await session.out(`${escapeLine(label(object))} unchanged\n`);
      return;
    }
    metadata[field] = after;
    try {
      await session.objects.update(object, [`metadata.${field}`]);
      await session.out(`${escapeLine(label(object))} ${field === 'labels' ? 'labelled' : 'annotated'}\n`);
      return;
    } catch (error) {
      if (!hasCode(error, Code.Aborted) || attempt >= attempts) throw error;
    }
  }
}
