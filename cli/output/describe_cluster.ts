import type { Pod } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { type Mapping, mappingAt, mappingsAt, numberAt, textAt } from '../json.ts';
import type { AnyObject } from '../objects.ts';
import { duration, isoTime } from './age.ts';
import { eventTable } from './events.ts';
import { podStatus } from './pod_state.ts';
import { Table } from './table.ts';

/** A part of a description: its title, and the lines under it. */
export interface Section {
  readonly title: string;
  readonly lines: readonly string[];
}

/** What the cluster says of a Pod, Service or ReplicationController: how its containers are, its conditions, and its Events. */
export function clusterSections(object: AnyObject, nowMs: number): readonly Section[] {
  switch (object.$typeName) {
    case 'baykeeper.v1.Pod':
    case 'baykeeper.v1.Service':
    case 'baykeeper.v1.ReplicationController': {
      const own = mappingAt(object.status, 'manifest');
      const events = object.status?.events ?? [];
      return [
        ...(object.$typeName === 'baykeeper.v1.Pod' ? podSections(object, own, nowMs) : []),
        { title: 'Conditions', lines: conditionLines(own, nowMs) },
        { title: 'Events', lines: events.length > 0 ? rows(eventTable(events, nowMs)) : ['<none>'] },
      ];
    }
    default:
      return [];
  }
}

function podSections(pod: Pod, own: Mapping, nowMs: number): Section[] {
  const { manifest } = pod.spec ?? {};
  const lines = (specs: string, statuses: string): string[] => {
    const known = mappingsAt(own, statuses);
    return mappingsAt(manifest, specs).flatMap((spec) =>
      containerLines(spec, known.find((status) => status.name === spec.name) ?? {}, nowMs),
    );
  };
  return [
    { title: 'State', lines: [podStatus(pod)] },
    { title: 'Init containers', lines: lines('initContainers', 'initContainerStatuses') },
    { title: 'Containers', lines: lines('containers', 'containerStatuses') },
  ];
}

function containerLines(spec: Mapping, status: Mapping, nowMs: number): string[] {
  const last = stateText(mappingAt(status, 'lastState'), nowMs);
  const fields: [string, string][] = [
    ['Image', textAt(spec, 'image')],
    ['State', stateText(mappingAt(status, 'state'), nowMs) || 'not known yet'],
    ['Last state', last],
    ['Ready', status.ready === true ? 'True' : 'False'],
    ['Restarts', String(numberAt(status, 'restartCount'))],
    ['Container id', textAt(status, 'containerID')],
  ];
  return [
    `${textAt(spec, 'name')}:`,
    ...fields.filter(([, value]) => value !== '').map(([title, value]) => `  ${`${title}:`.padEnd(14)}${value}`),
  ];
}

/** `Waiting, CrashLoopBackOff: back-off 10s restarting …`, `Running since … (5m ago)`, `Terminated, Error, exit code 1, … (5m ago)`. */
function stateText(state: Mapping, nowMs: number): string {
  const { waiting, running, terminated } = state;
  if (waiting) return `Waiting${reasonText(waiting)}`;
  if (running) return `Running since ${momentText(textAt(running, 'startedAt'), nowMs)}`;
  if (!terminated) return '';
  const signal = numberAt(terminated, 'signal');
  const how = signal ? `signal ${signal}` : `exit code ${numberAt(terminated, 'exitCode')}`;
  const when = textAt(terminated, 'finishedAt');
  return `Terminated${reasonText(terminated)}, ${how}${when ? `, ${momentText(when, nowMs)}` : ''}`;
}

function reasonText(state: unknown): string {
  const [reason, message] = [textAt(state, 'reason'), textAt(state, 'message').trim()];
  return `${reason ? `, ${reason}` : ''}${message ? `: ${message}` : ''}`;
}

function momentText(text: string, nowMs: number): string {
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? text : `${isoTime(ms)} (${duration(nowMs - ms)} ago)`;
}

function conditionLines(own: Mapping, nowMs: number): string[] {
  const conditions = mappingsAt(own, 'conditions');
  if (conditions.length === 0) return [];
  const table = new Table(['TYPE', 'STATUS', 'REASON', 'SINCE', 'MESSAGE'].map((title) => ({ title })));
  return rows(
    table.render(
      conditions.map((condition) => [
        textAt(condition, 'type'),
        textAt(condition, 'status'),
        textAt(condition, 'reason'),
        momentText(textAt(condition, 'lastTransitionTime'), nowMs),
        textAt(condition, 'message'),
      ]),
    ),
  );
}

function rows(table: string): string[] {
  return table.trimEnd().split('\n');
}
