import type { JsonObject } from '@bufbuild/protobuf';
import { fieldsOf, listOf, number, text } from './json_fields.ts';

/** What the `status` of a cluster's Pod says beside its phase. Pure. */

export interface PodNote {
  /** One word in CamelCase; empty: nothing out of the ordinary. */
  readonly reason: string;
  readonly message: string;
}

export interface PodState {
  readonly podIp: string;
  /** Containers that are ready. */
  readonly ready: number;
  /** Of all containers. */
  readonly restarts: number;
}

export function readPodStatus(status: JsonObject): PodState {
  const containers = listOf(status.containerStatuses);
  const all = [...listOf(status.initContainerStatuses), ...containers];
  return {
    podIp: text(status.podIP),
    ready: containers.filter(({ ready }) => ready === true).length,
    restarts: all.reduce((sum, one) => sum + number(one.restartCount), 0),
  };
}

/** Why a pod does not run as it should, as far as the cluster knows. */
export function podNote(status: JsonObject): PodNote {
  const own = { reason: text(status.reason), message: text(status.message) };
  if (own.reason || own.message) return own;
  const init = listOf(status.initContainerStatuses);
  const containers = listOf(status.containerStatuses);
  return (
    waitingNote([...init, ...containers]) ??
    conditionNote(status) ??
    endedNote([...init, ...containers], text(status.phase)) ??
    readyNote(containers, text(status.phase)) ?? { reason: '', message: '' }
  );
}

type Fields = Readonly<Record<string, unknown>>;

/** Waiting that is over by itself in a moment. */
const ordinary: ReadonlySet<string> = new Set(['', 'ContainerCreating', 'PodInitializing']);

function waitingNote(containers: readonly Fields[]): PodNote | undefined {
  let first: PodNote | undefined;
  for (const container of containers) {
    const waiting = fieldsOf(container.state).waiting;
    if (waiting === undefined) continue;
    const reason = text(fieldsOf(waiting).reason);
    const said = text(fieldsOf(waiting).message);
    const note = { reason, message: `container ${text(container.name)}${said ? `: ${said}` : ' does not run yet'}` };
    if (!ordinary.has(reason)) return note;
    first ??= note;
  }
  return first;
}

function conditionNote(status: JsonObject): PodNote | undefined {
  if (status.phase !== 'Pending') return undefined;
  const scheduled = listOf(status.conditions).find(({ type }) => type === 'PodScheduled');
  if (scheduled === undefined) return { reason: 'NotScheduled', message: 'the cluster has not chosen a node yet' };
  if (scheduled.status !== 'False') return undefined;
  return { reason: text(scheduled.reason), message: text(scheduled.message) };
}

function endedNote(containers: readonly Fields[], phase: string): PodNote | undefined {
  if (phase !== 'Failed' && phase !== 'Succeeded') return undefined;
  const ended = containers.flatMap((one) => {
    const terminated = fieldsOf(one.state).terminated;
    return terminated === undefined ? [] : [{ name: text(one.name), ...endOf(fieldsOf(terminated)) }];
  });
  const worst = ended.find(({ exitCode }) => exitCode !== 0) ?? ended[0];
  if (!worst) return undefined;
  const said = worst.message ? `: ${worst.message}` : '';
  return {
    reason: worst.reason,
    message: `container ${worst.name} ended with exit code ${worst.exitCode}${said}`,
  };
}

const endOf = (terminated: Fields) => ({
  reason: text(terminated.reason),
  message: text(terminated.message),
  exitCode: number(terminated.exitCode),
});

function readyNote(containers: readonly Fields[], phase: string): PodNote | undefined {
  const ready = containers.filter((one) => one.ready === true).length;
  if (phase !== 'Running' || ready === containers.length) return undefined;
  return { reason: 'ContainersNotReady', message: `${ready} of ${containers.length} containers are ready` };
}
