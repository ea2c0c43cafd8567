import type { ContainerSpec } from '../../proto/gen/baykeeper/v1/container_pb.js';
import type { EngineContainer } from '../drivers/driver.ts';
import { mayEnd, type Power, powerOf, stopTimeoutSeconds } from './container_spec.ts';
import { label } from './engine_labels.ts';
import type { ObjectMemory } from './memory.ts';
import { created, type Step, stopSteps, type Target } from './step.ts';
import type { Present } from './wanted.ts';

/** Starts, stops, pauses and reboots: what is to be done so that a container has the power that is asked for, and what counts as its own end. Pure. */

export const power = (wanted: Present): Power => powerOf(wanted.spec);

/** Of a container that was just made. It counts as having done the reboots that were asked for before. */
export function freshPowerSteps(wanted: Present): Step[] {
  return power(wanted) === 'stopped' ? [] : startSteps(wanted, created);
}

/** What is to be paused is started first. */
function startSteps(wanted: Present, id: Target): Step[] {
  const { uid } = wanted;
  const start: Step = { kind: 'start', uid, id };
  return power(wanted) === 'paused' ? [start, { kind: 'pause', uid, id }] : [start];
}

export function powerSteps(wanted: Present, container: EngineContainer, memory: ObjectMemory): Step[] {
  const { uid, spec } = wanted;
  const { id, state } = container;
  const asked = power(wanted);
  const done = rebootsDone(container, memory);
  if (spec.reboots > done) return rebootSteps(wanted, container, memory);

  const start = startSteps(wanted, id);
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
  const start = startSteps(wanted, id);
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
