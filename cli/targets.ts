import { everyProject } from './context.ts';
import { UsageError } from './errors.ts';
import { type KindName, type KindRow, kindRow, parseSelection, parseTarget, type Target } from './kinds.ts';
import { metadataOf, type Place } from './objects.ts';
import { bothFilters, selectorToFilter } from './selector.ts';
import type { Environment, Session } from './session.ts';

/** One object that a command works on, and where it is. */
export interface PlacedTarget {
  readonly kind: KindRow;
  readonly name: string;
  /** Of the very object meant, when it is known: another of the same name is not it. */
  readonly uid?: string;
  readonly place: Place;
}

/** How users say which objects they mean. */
export interface TargetFlags {
  readonly selector?: string;
  readonly filter?: string;
  readonly all?: boolean;
  readonly allNamespaces?: boolean;
}

/** The objects that words and flags name: by name, or all of the kinds that match. Throws UsageError when neither is said. */
export async function findTargets(
  session: Session,
  words: readonly string[],
  flags: TargetFlags,
): Promise<PlacedTarget[]> {
  const selection = parseSelection(words);
  const byFilter = flags.selector !== undefined || flags.filter !== undefined;
  const { place } = session;
  if (selection.targets.length > 0) {
    if (byFilter || flags.all) throw new UsageError('give names, or --selector, --filter or --all, not both');
    return selection.targets.map((target) => ({ ...target, place }));
  }
  if (!byFilter && !flags.all) throw new UsageError('say which: names, --selector, --filter or --all');
  const filter = bothFilters(flags.selector && selectorToFilter(flags.selector), flags.filter);
  const searched = { bay: place.bay, namespace: flags.allNamespaces ? '' : place.namespace || 'default' };
  const found: PlacedTarget[] = [];
  for (const kind of selection.kinds) {
    const { objects } = await session.objects.list(kind, searched, { filter });
    for (const { metadata } of objects) {
      found.push({ kind, name: metadata?.name ?? '', place: { bay: place.bay, namespace: metadata?.namespace ?? '' } });
    }
  }
  return found;
}

/**
 * A session in the project and bay of the one object that has this name, where every project is asked: what changes something is done in one, and recorded
 * there. Any other session is as it was.
 */
export async function inItsProject(
  environment: Environment,
  session: Session,
  kind: KindRow,
  name: string,
): Promise<Session> {
  if (session.settings.project !== everyProject) return session;
  const { project, bay, namespace } = metadataOf(await session.objects.get(kind, session.place, name));
  return environment.openWith({ ...session.flags, allProjects: false, project, bay, namespace });
}

/** Names of one kind, given plain or as KIND/NAME. */
export function namesOf(words: readonly string[], kind: KindName): string[] {
  return words.map((word) => {
    if (!word.includes('/')) return word;
    const [target] = parseSelection([word]).targets;
    if (target?.kind !== kindRow(kind)) throw new UsageError(`"${word}" is not a ${kindRow(kind).singular}`);
    return target.name;
  });
}

/**
 * What has logs and runs commands: a container or a pod. A bare name is a pod's when the flags are, else a container's. `lacks`, for the
 * message: `has no logs`. Throws UsageError.
 */
export function parseStreamTarget(text: string, lacks: string, isOfPod: boolean): Target {
  const target = parseTarget(text, isOfPod ? 'Pod' : 'Container');
  const { name, singular } = target.kind;
  if (name !== 'Pod' && name !== 'Container')
    throw new UsageError(`a ${singular} ${lacks}: name a container, or a pod`);
  if (name === 'Container' && isOfPod) throw new UsageError('--container and --previous are for pods: write pod/NAME');
  return target;
}
