import type { Readable } from 'node:stream';
import type Docker from 'dockerode';
import { toDriverError } from './docker_errors.ts';
import { type EngineEvent, type EventOptions, eventActions } from './driver.ts';
import { jsonLines } from './json_lines.ts';

/** The engine's events about containers, parsed. See Driver.events. */
export async function* readEvents(
  docker: Docker,
  { sinceMs, signal, opened }: EventOptions,
): AsyncGenerator<EngineEvent> {
  if (signal.aborted) return;
  let stream: Readable | undefined;
  const destroy = () => stream?.destroy();
  signal.addEventListener('abort', destroy, { once: true });
  try {
    stream = (await docker.getEvents({
      // The engine takes a fraction of nanoseconds; the client's types know whole seconds only.
      since: seconds(Math.floor(sinceMs)) as unknown as number,
      filters: { type: ['container'], event: [...eventActions] },
      abortSignal: signal,
    })) as Readable;
    opened();
    for await (const line of jsonLines(stream)) {
      const event = parseEvent(line);
      if (event) yield event;
    }
  } catch (cause) {
    if (!signal.aborted) throw toDriverError(cause, "read the engine's events");
  } finally {
    signal.removeEventListener('abort', destroy);
    stream?.destroy();
  }
}

/** See Driver.history. */
export async function readHistory(docker: Docker, sinceMs: number, abortSignal: AbortSignal): Promise<EngineEvent[]> {
  const untilMs = Date.now();
  // The clock was set back: there is no past to ask for, and the engine calls the question an error.
  if (sinceMs >= untilMs) return [];
  const stream = (await docker.getEvents({
    since: seconds(Math.floor(sinceMs)) as unknown as number,
    until: seconds(untilMs) as unknown as number,
    filters: { type: ['container'], event: [...eventActions] },
    abortSignal,
  })) as Readable;
  const events: EngineEvent[] = [];
  try {
    for await (const line of jsonLines(stream)) {
      const event = parseEvent(line);
      if (event) events.push(event);
    }
  } finally {
    stream.destroy();
  }
  return events;
}

/** As Docker takes it: seconds, a point, nine digits. */
export function seconds(ms: number): string {
  const whole = Math.floor(ms / 1000);
  return `${whole}.${String(Math.floor((ms - whole * 1000) * 1e6)).padStart(9, '0')}`;
}

function parseEvent(line: object): EngineEvent | undefined {
  const { Action, Actor, timeNano, time } = line as {
    Action?: unknown;
    Actor?: { ID?: unknown; Attributes?: unknown };
    timeNano?: unknown;
    time?: unknown;
  };
  // Health comes as "health_status: healthy".
  const word = typeof Action === 'string' ? Action.split(':')[0] : undefined;
  const action = eventActions.find((a) => a === word);
  const id = Actor?.ID;
  if (!action || typeof id !== 'string') return undefined;
  const labels: Record<string, string> = {};
  const given = Actor?.Attributes;
  if (typeof given === 'object' && given !== null) {
    for (const [key, value] of Object.entries(given)) if (typeof value === 'string') labels[key] = value;
  }
  const exitCode = Number(labels.exitCode);
  return {
    action,
    timeMs: typeof timeNano === 'number' ? timeNano / 1e6 : typeof time === 'number' ? time * 1000 : 0,
    id,
    name: labels.name ?? '',
    oldName: labels.oldName?.replace(/^\//, ''),
    labels,
    exitCode: action === 'die' && Number.isInteger(exitCode) ? exitCode : undefined,
  };
}
