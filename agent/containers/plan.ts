import { type Assignment, AssignmentOp } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { ContainerSpec } from '../../proto/gen/baykeeper/v1/container_pb.js';
import type { EngineContainer, UpdateRequest } from '../drivers/driver.ts';
import type { DesiredState } from '../ports.ts';
import {
  mayEnd,
  memoryOf,
  nanoCpusOf,
  type Power,
  type Pull,
  powerOf,
  pullOf,
  restartOf,
  specHash,
  stopTimeoutSeconds,
} from './container_spec.ts';
import { engineName, label, type Owner, ownedUid, ownerLabels, temporaryName } from './engine_labels.ts';
import type { Memory, ObjectMemory } from './memory.ts';

/**
 * What is to be done, and nothing done: from what should be and what is to the steps between them.
 *
 * The steps of one object are to be run in their order, those of different objects in any. Whatever happens between two steps, planning
 * anew from what is then there leads to the same end. Once everything is as asked there are no steps.
 *
 * Only containers that bear the owner's labels are ever named in a step, and one is removed only for an object that is to be deleted,
 * is in a grave, or is missing from a state that is known to be complete; or because another container takes its place.
 */
export type Step = { readonly uid: string } & (
  | { readonly kind: 'pull'; readonly image: string; readonly policy: Pull }
  | {
      readonly kind: 'create';
      readonly name: string;
      readonly spec: ContainerSpec;
      readonly labels: Readonly<Record<string, string>>;
    }
  | { readonly kind: 'update'; readonly id: string; readonly change: UpdateRequest }
  | { readonly kind: 'rename'; readonly id: Target; readonly name: string }
  | { readonly kind: 'start'; readonly id: Target }
  | { readonly kind: 'stop'; readonly id: string; readonly timeoutSeconds: number | undefined }
  | { readonly kind: 'pause'; readonly id: Target }
  | { readonly kind: 'unpause'; readonly id: string }
  | { readonly kind: 'remove'; readonly id: string }
  /** Before a reboot ends this run. */
  | { readonly kind: 'begin-reboot'; readonly reboots: bigint; readonly startedMs: number }
  | { readonly kind: 'end-reboot'; readonly reboots: bigint }
  /** It ended by itself, and is to be stopped: from here on it may be started again. */
  | { readonly kind: 'forget-end' }
);
export type StepKind = Step['kind'];

/** The engine's id; or the container that the `create` before it made. */
export type Target = string | typeof created;
export const created: unique symbol = Symbol('created');

/** What should become of one object. */
export type Wanted = { readonly uid: string } & (
  | {
      readonly kind: 'present';
      readonly namespace: string;
      readonly name: string;
      readonly generation: bigint;
      readonly spec: ContainerSpec;
      readonly hash: string;
    }
  /** `stopTimeoutSeconds` unset: as its container was made with. */
  | { readonly kind: 'absent'; readonly stopTimeoutSeconds: number | undefined }
  /** Nothing is known of it: hands off. */
  | { readonly kind: 'untouched' }
  /** It is to be there, and this agent cannot read how. */
  | { readonly kind: 'unusable'; readonly message: string }
);

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

export function wantedOf(desired: DesiredState, uid: string): Wanted {
  const assignment = desired.objects.get(uid)?.assignment;
  if (assignment?.op === AssignmentOp.DELETE)
    return { kind: 'absent', uid, stopTimeoutSeconds: stopTimeoutOf(assignment) };
  if (assignment?.op === AssignmentOp.PUT) {
    if (assignment.spec.case !== 'container') {
      return {
        kind: 'unusable',
        uid,
        message: 'this agent knows no such kind of object: it is older than the control plane',
      };
    }
    const spec = assignment.spec.value;
    try {
      const { namespace, name, generation } = assignment;
      return { kind: 'present', uid, namespace, name, generation, spec, hash: specHash(spec) };
    } catch (error) {
      return {
        kind: 'unusable',
        uid,
        message: `the spec cannot be read: ${error instanceof Error ? error.message : error}`,
      };
    }
  }
  // A uid both in the set and in a grave was handled above: the set says more.
  if (desired.graves.has(uid)) return { kind: 'absent', uid, stopTimeoutSeconds: undefined };
  if (assignment === undefined && desired.complete) return { kind: 'absent', uid, stopTimeoutSeconds: undefined };
  return { kind: 'untouched', uid };
}

const stopTimeoutOf = (assignment: Assignment): number | undefined =>
  assignment.spec.case === 'container' && assignment.spec.value.stopTimeout
    ? stopTimeoutSeconds(assignment.spec.value)
    : undefined;

/** The steps for one object. What is forbidden is stopped before anything else, and stays on the engine: it may be allowed again. */
export function planObject(
  owner: Owner,
  wanted: Wanted,
  view: ObjectView,
  memory: ObjectMemory,
  verdict: Verdict = nothingForbidden,
): ObjectPlan {
  if (wanted.kind === 'absent') return planAbsent(wanted.uid, wanted.stopTimeoutSeconds, view);
  const timeoutSeconds = wanted.kind === 'present' ? stopTimeoutSeconds(wanted.spec) : undefined;
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

function planAbsent(uid: string, timeoutSeconds: number | undefined, { owned }: ObjectView): ObjectPlan {
  const steps = owned
    .filter((one) => one.state !== 'removing')
    .flatMap((one) => [...stopSteps(uid, one, timeoutSeconds), remove(uid, one)]);
  return owned.length > 0 && steps.length === 0 ? { steps, blocked: { by: 'removal' } } : { steps };
}

type Present = Extract<Wanted, { kind: 'present' }>;

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

const power = (wanted: Present): Power => powerOf(wanted.spec);

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

function stopSteps(uid: string, container: EngineContainer, timeoutSeconds: number | undefined): Step[] {
  const steps: Step[] = [];
  // What is frozen cannot hear that it is asked to stop.
  if (container.state === 'paused') steps.push({ kind: 'unpause', uid, id: container.id });
  if (container.state === 'running' || container.state === 'paused' || container.state === 'restarting') {
    steps.push({ kind: 'stop', uid, id: container.id, timeoutSeconds });
  }
  return steps;
}

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

/** Of a container that was just made. It counts as having done the reboots that were asked for before. */
function freshPowerSteps(wanted: Present): Step[] {
  const { uid } = wanted;
  const id: Target = created;
  if (power(wanted) === 'stopped') return [];
  return power(wanted) === 'paused'
    ? [
        { kind: 'start', uid, id },
        { kind: 'pause', uid, id },
      ]
    : [{ kind: 'start', uid, id }];
}

function powerSteps(wanted: Present, container: EngineContainer, memory: ObjectMemory): Step[] {
  const { uid, spec } = wanted;
  const { id, state } = container;
  const asked = power(wanted);
  const done = rebootsDone(container, memory);
  if (spec.reboots > done) return rebootSteps(wanted, container, memory);

  const start: Step[] =
    asked === 'paused'
      ? [
          { kind: 'start', uid, id },
          { kind: 'pause', uid, id },
        ]
      : [{ kind: 'start', uid, id }];
  switch (state) {
    case 'running':
      if (asked === 'stopped') return stopSteps(uid, container, stopTimeoutSeconds(spec));
      return asked === 'paused' ? [{ kind: 'pause', uid, id }] : [];
    case 'paused':
      if (asked === 'stopped') return stopSteps(uid, container, stopTimeoutSeconds(spec));
      return asked === 'running' ? [{ kind: 'unpause', uid, id }] : [];
    case 'restarting':
      // The engine waits before it starts it again; what is to be paused is paused then.
      return asked === 'stopped' ? stopSteps(uid, container, stopTimeoutSeconds(spec)) : [];
    case 'created':
      return asked === 'stopped' ? [] : start;
    default: {
      const record = endingOf(container, memory);
      if (asked === 'stopped') return record?.by === 'itself' ? [{ kind: 'forget-end', uid }] : [];
      return hasFinished(spec, container, memory) ? [] : start;
    }
  }
}

function rebootSteps(wanted: Present, container: EngineContainer, memory: ObjectMemory): Step[] {
  const { uid, spec } = wanted;
  const { id, state, startedMs } = container;
  const end: Step = { kind: 'end-reboot', uid, reboots: spec.reboots };
  const asked = power(wanted);
  if (asked === 'stopped') return [...stopSteps(uid, container, stopTimeoutSeconds(spec)), end];
  const start: Step[] =
    asked === 'paused'
      ? [
          { kind: 'start', uid, id },
          { kind: 'pause', uid, id },
        ]
      : [{ kind: 'start', uid, id }];
  if (startedMs === undefined || state === 'created') return [...start, end];

  const begun = memory.rebooting?.reboots === spec.reboots ? memory.rebooting : undefined;
  // Begun before a crash, and this is already the run after it.
  if (begun && startedMs > begun.startedMs) return [end];
  return [
    ...(begun ? [] : [{ kind: 'begin-reboot', uid, reboots: spec.reboots, startedMs } satisfies Step]),
    ...stopSteps(uid, container, stopTimeoutSeconds(spec)),
    ...start,
    end,
  ];
}

function rebootsDone(container: EngineContainer, memory: ObjectMemory): bigint {
  const text = container.labels[label.reboots] ?? '';
  const before = /^\d{1,19}$/.test(text) ? BigInt(text) : 0n;
  return before > memory.reboots ? before : memory.reboots;
}

/** How the container's last run ended, where that was seen. */
function endingOf(container: EngineContainer, { ended }: ObjectMemory) {
  return ended?.containerId === container.id && ended.dieMs >= (container.startedMs ?? 0) ? ended : undefined;
}

/** Exit codes of a process that was killed (SIGKILL, SIGTERM), and of one that an engine found gone when it came up. */
const endedFromOutside: ReadonlySet<number> = new Set([137, 143, 255]);

/** Whether a container has ended by itself, and is not to be started again. */
export function hasFinished(spec: ContainerSpec, container: EngineContainer, memory: ObjectMemory): boolean {
  if (container.state !== 'exited' || container.startedMs === undefined || !mayEnd(spec)) return false;
  const record = endingOf(container, memory);
  if (record) return record.by === 'itself';
  // Nobody saw it end, as when the engine went down with it: its exit code has to do.
  return container.oomKilled || !endedFromOutside.has(container.exitCode);
}

/** Whether an object's container had ended by itself, as asked, before somebody removed it: it is not run a second time. */
export function isOver(wanted: Present, memory: ObjectMemory): boolean {
  const { ended } = memory;
  return (
    mayEnd(wanted.spec) && ended?.by === 'itself' && ended.spec === wanted.hash && wanted.spec.reboots <= memory.reboots
  );
}
