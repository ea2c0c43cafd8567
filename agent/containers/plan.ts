import type { EngineContainer, UpdateRequest } from '../drivers/driver.ts';
import { endSeconds } from '../policy.ts';
import type { DesiredState } from '../ports.ts';
import { memoryOf, nanoCpusOf, pullOf, restartOf, stopTimeoutSeconds } from './container_spec.ts';
import { engineName, label, type Owner, ownedUid, ownerLabels, temporaryName } from './engine_labels.ts';
import type { Memory, ObjectMemory } from './memory.ts';
import { freshPowerSteps, isOver, power, powerSteps } from './power.ts';
import { created, type Step, stopSteps } from './step.ts';
import { type Present, type Wanted, wantedOf } from './wanted.ts';

/**
 * What is to be done, and nothing done: from what should be and what is to the steps between them.
 *
 * The steps of one object are to be run in their order, those of different objects in any. Whatever happens between two steps, planning
 * anew from what is then there leads to the same end. Once everything is as asked there are no steps.
 *
 * Only containers that bear the owner's labels are ever named in a step, and one is removed only for an object that is to be deleted,
 * is in a grave, or is missing from a state that is known to be complete; or because another container takes its place.
 */

/** What the engine has of one object. */
export interface ObjectView {
  /** Containers that bear its uid and the owner's labels. */
  readonly owned: readonly EngineContainer[];
  /** The container that has the name that it should have, when it is not one of them. */
  readonly occupant: EngineContainer | undefined;
}

export interface ObjectPlan {
  readonly steps: readonly Step[];
  /** Why there can be no step: another's container has the name; a removal is under way; or it is forbidden. */
  readonly blocked?:
    | { readonly by: 'name'; readonly occupant: EngineContainer }
    | { readonly by: 'removal' }
    | { readonly by: 'policy' };
}

/** What the node's owner says to one object. */
export interface Verdict {
  /** What is wanted is forbidden. */
  readonly wanted: boolean;
  /** What a container was given is forbidden. */
  readonly container: (container: EngineContainer) => boolean;
}

export const nothingForbidden: Verdict = { wanted: false, container: () => false };

export interface PlanInput {
  readonly desired: DesiredState;
  /** Every container on the engine; those of others count for their names only. */
  readonly observed: readonly EngineContainer[];
  readonly memory: Pick<Memory, 'get'>;
  readonly owner: Owner;
}

/** All steps for all objects. */
export function plan({ desired, observed, memory, owner }: PlanInput): Step[] {
  const uids = new Set([...desired.objects.keys(), ...desired.graves]);
  for (const container of observed) {
    const uid = ownedUid(owner, container);
    if (uid) uids.add(uid);
  }
  return [...uids].flatMap((uid) => {
    const wanted = wantedOf(desired, uid);
    return planObject(owner, wanted, viewOf(owner, wanted, observed), memory.get(uid)).steps;
  });
}

export function viewOf(owner: Owner, wanted: Wanted, observed: readonly EngineContainer[]): ObjectView {
  const owned = observed.filter((one) => ownedUid(owner, one) === wanted.uid);
  const name = wanted.kind === 'present' ? engineName(wanted.namespace, wanted.name) : undefined;
  return { owned, occupant: observed.find((one) => one.name === name && !owned.includes(one)) };
}

/** The steps for one object. What is forbidden is stopped before anything else, and stays on the engine: it may be allowed again. */
export function planObject(
  owner: Owner,
  wanted: Wanted,
  view: ObjectView,
  memory: ObjectMemory,
  verdict: Verdict = nothingForbidden,
): ObjectPlan {
  if (wanted.kind === 'absent') return planAbsent(wanted, view, verdict);
  const timeoutSeconds = wanted.kind === 'present' ? Math.min(stopTimeoutSeconds(wanted.spec), endSeconds) : endSeconds;
  const stops = view.owned
    .filter((one) => isForbidden(wanted, one, verdict))
    .flatMap((one) => stopSteps(wanted.uid, one, timeoutSeconds));
  if (wanted.kind !== 'present' || stops.length > 0) return { steps: stops };
  return verdict.wanted ? { steps: [], blocked: { by: 'policy' } } : planPresent(owner, wanted, view, memory);
}

/** One that is as it is wanted to be is judged by that: the engine may word it otherwise. */
export const isForbidden = (wanted: Wanted, container: EngineContainer, verdict: Verdict): boolean =>
  wanted.kind === 'present' && container.labels[label.spec] === wanted.hash
    ? verdict.wanted
    : verdict.container(container);

function planAbsent(wanted: Extract<Wanted, { kind: 'absent' }>, { owned }: ObjectView, verdict: Verdict): ObjectPlan {
  const { uid, stopTimeoutSeconds: given } = wanted;
  const timeoutSeconds = (one: EngineContainer) =>
    isForbidden(wanted, one, verdict) ? Math.min(given ?? endSeconds, endSeconds) : given;
  const steps = owned
    .filter((one) => one.state !== 'removing')
    .flatMap((one) => [...stopSteps(uid, one, timeoutSeconds(one)), remove(uid, one)]);
  return owned.length > 0 && steps.length === 0 ? { steps, blocked: { by: 'removal' } } : { steps };
}

function planPresent(owner: Owner, wanted: Present, view: ObjectView, memory: ObjectMemory): ObjectPlan {
  const { uid, spec } = wanted;
  const name = engineName(wanted.namespace, wanted.name);
  const temporary = temporaryName(wanted.namespace, wanted.name);

  // A removal that is under way frees the name when it is done.
  if (view.owned.some((one) => one.state === 'removing')) return { steps: [], blocked: { by: 'removal' } };
  const dead = view.owned.filter((one) => one.state === 'dead');
  const owned = view.owned.filter((one) => one.state !== 'dead');

  const next = owned.find((one) => one.name === temporary);
  // One that somebody renamed is still the object's container.
  const current = owned.find((one) => one.name === name) ?? owned.filter((one) => one !== next).sort(newestFirst)[0];
  const strays = owned.filter((one) => one !== current && one !== next);

  if (view.occupant && current?.name !== name) return { steps: [], blocked: { by: 'name', occupant: view.occupant } };

  const steps: Step[] = [...dead, ...strays].flatMap((one) => [
    ...stopSteps(uid, one, stopTimeoutSeconds(spec)),
    remove(uid, one),
  ]);

  if (current && fits(wanted, current)) {
    // What a replacement that was called off has left.
    if (next) steps.push(...stopSteps(uid, next, stopTimeoutSeconds(spec)), remove(uid, next));
    if (current.name !== name) steps.push({ kind: 'rename', uid, id: current.id, name });
    steps.push(...updateSteps(wanted, current), ...powerSteps(wanted, current, memory));
    return { steps };
  }

  const replacement = next && fits(wanted, next) ? next : undefined;
  if (next && !replacement) steps.push(...stopSteps(uid, next, stopTimeoutSeconds(spec)), remove(uid, next));
  if (!current && !replacement) {
    if (isOver(wanted, memory))
      return { steps: power(wanted) === 'stopped' ? [...steps, { kind: 'forget-end', uid }] : steps };
    steps.push(...makeSteps(owner, wanted, name), ...freshPowerSteps(wanted));
    return { steps };
  }
  // The replacement is made first: where that fails the one before it goes on.
  if (!replacement) steps.push(...makeSteps(owner, wanted, temporary));
  if (current) steps.push(...stopSteps(uid, current, stopTimeoutSeconds(spec)), remove(uid, current));
  steps.push({ kind: 'rename', uid, id: replacement?.id ?? created, name });
  steps.push(
    ...(replacement
      ? [...updateSteps(wanted, replacement), ...powerSteps(wanted, replacement, memory)]
      : freshPowerSteps(wanted)),
  );
  return { steps };
}

const newestFirst = (a: EngineContainer, b: EngineContainer) =>
  (b.startedMs ?? 0) - (a.startedMs ?? 0) || b.createdMs - a.createdMs || (a.id < b.id ? -1 : 1);

/** Whether a container can be made what is wanted without another one. */
function fits(wanted: Present, container: EngineContainer): boolean {
  if (container.labels[label.spec] !== wanted.hash) return false;
  // An engine can change a limit in place, and cannot take one away.
  const unlimited =
    (container.nanoCpus > 0 && nanoCpusOf(wanted.spec) === 0) ||
    (container.memoryBytes > 0 && memoryOf(wanted.spec) === 0);
  return !unlimited;
}

function makeSteps(owner: Owner, wanted: Present, name: string): Step[] {
  const { uid, spec } = wanted;
  const users = Object.entries(spec.labels).filter(([key]) => !key.startsWith('io.baykeeper.'));
  const labels = {
    ...Object.fromEntries(users),
    ...ownerLabels(owner),
    [label.uid]: uid,
    [label.namespace]: wanted.namespace || 'default',
    [label.name]: wanted.name,
    [label.spec]: wanted.hash,
    [label.generation]: String(wanted.generation),
    [label.reboots]: String(spec.reboots),
  };
  return [
    { kind: 'pull', uid, image: spec.image, policy: pullOf(spec) },
    { kind: 'create', uid, name, spec, labels },
  ];
}

const remove = (uid: string, container: EngineContainer): Step => ({ kind: 'remove', uid, id: container.id });

function updateSteps({ uid, spec }: Present, container: EngineContainer): Step[] {
  const restart = restartOf(spec);
  const nanoCpus = nanoCpusOf(spec);
  const memoryBytes = memoryOf(spec);
  const sameRestart =
    container.restart.policy === restart.policy &&
    (restart.policy !== 'on-failure' || container.restart.maxRetries === restart.maxRetries);
  const change: UpdateRequest = {
    ...(!sameRestart && { restart }),
    ...(nanoCpus > 0 && nanoCpus !== container.nanoCpus && { nanoCpus }),
    ...(memoryBytes > 0 && memoryBytes !== container.memoryBytes && { memoryBytes }),
  };
  return Object.keys(change).length > 0 ? [{ kind: 'update', uid, id: container.id, change }] : [];
}
