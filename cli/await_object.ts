import { Code } from '@connectrpc/connect';
import { WatchEventType } from '../proto/gen/baykeeper/v1/watch_pb.js';
import { hasCode } from './client.ts';
import { CliError, exitStatus } from './errors.ts';
import { type AnyObject, metadataOf } from './objects.ts';
import { duration } from './output/age.ts';
import { replicasWanted } from './output/cluster_columns.ts';
import { podReady, podStatus } from './output/pod_state.ts';
import type { Progress } from './output/progress.ts';
import { phaseOf, reasonOf, statusOf } from './output/state.ts';
import type { Session } from './session.ts';
import type { PlacedTarget } from './targets.ts';
import { resumingWatch } from './watch.ts';

/** What is waited for. */
export interface Wanted {
  /** For messages: `deleted`, `phase RUNNING`. */
  readonly text: string;
  /** Whether it is so. Gets undefined when the object is not there (any more). May throw to give up. */
  reached(object: AnyObject | undefined): boolean;
}

/**
 * Watches an object until it is as wanted, and resolves with it as it then is. `deadlineMs` is a time on the session's clock. Throws
 * NOT_FOUND when there is none and its absence is not what is wanted, and CliError with the status for time-outs, saying how it last was.
 */
export async function awaitObject(
  session: Session,
  target: PlacedTarget,
  wanted: Wanted,
  options: { readonly deadlineMs: number; readonly progress: Progress },
): Promise<AnyObject | undefined> {
  const { kind, place } = target;
  const what = `${kind.singular}/${target.name}`;
  const late = new AbortController();
  const timer = setTimeout(
    () => late.abort(),
    Math.min(2 ** 31 - 1, Math.max(0, options.deadlineMs - session.io.nowMs())),
  );
  const startMs = session.io.nowMs();
  let current: AnyObject | undefined;
  try {
    try {
      current = await session.objects.get(kind, place, target.uid || target.name);
    } catch (error) {
      if (!hasCode(error, Code.NotFound) || !wanted.reached(undefined)) throw error;
      return undefined;
    }
    if (wanted.reached(current)) return current;
    options.progress.show(waitingText(what, wanted, current));
    const { uid, name } = metadataOf(current);
    const signal = AbortSignal.any([late.signal, session.io.signal]);
    const seen = new Set<string>();
    for await (const event of resumingWatch(session.objects, {
      kind,
      place: { ...place, namespace: metadataOf(current).namespace },
      name,
      signal,
    })) {
      const eventUid = event.object ? metadataOf(event.object).uid : '';
      if (
        event.type === WatchEventType.SYNCED
          ? !seen.has(uid)
          : event.type === WatchEventType.DELETED && eventUid === uid
      ) {
        if (wanted.reached(undefined)) return undefined;
        throw new CliError(`${what} was deleted meanwhile`, exitStatus.notFound);
      }
      if (!event.object || eventUid !== uid) continue;
      seen.add(uid);
      current = event.object;
      if (wanted.reached(current)) return current;
      options.progress.show(waitingText(what, wanted, current));
    }
    const waited = duration(session.io.nowMs() - startMs);
    throw new CliError(`${what} is not ${wanted.text} after ${waited}: ${stateText(current)}`, exitStatus.deadline);
  } finally {
    clearTimeout(timer);
    late.abort();
  }
}

/** How an object is, in a few words: `PULLING`, `FAILED, ImageNotFound: no such image`, `RUNNING, CrashLoopBackOff, 0/1 ready`. */
export function stateText(object: AnyObject | undefined): string {
  if (!object) return 'not there';
  const deleting = metadataOf(object).deleteTime ? ['its deletion is asked for'] : [];
  const message = statusOf(object)?.message;
  return (
    [phaseOf(object) || 'PENDING', reasonOf(object), ...readiness(object), ...deleting].filter(Boolean).join(', ') +
    (message ? `: ${message}` : '')
  );
}

/** How far what it is made of is ready. */
function readiness(object: AnyObject): string[] {
  switch (object.$typeName) {
    case 'baykeeper.v1.Pod': {
      const word = podStatus(object);
      const known = [phaseOf(object), reasonOf(object)].some((text) => text.toLowerCase() === word.toLowerCase());
      return [known ? '' : word, `${podReady(object)} ready`];
    }
    case 'baykeeper.v1.ReplicationController':
      return [`${object.status?.replicasReady ?? 0}/${replicasWanted(object)} ready`];
    case 'baykeeper.v1.Service':
      return [`${object.status?.endpointsReady.length ?? 0} endpoints ready`];
    default:
      return [];
  }
}

function waitingText(what: string, wanted: Wanted, object: AnyObject): string {
  return `${what}: waiting to be ${wanted.text}; now ${stateText(object)}`;
}
