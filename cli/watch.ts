import { Code } from '@connectrpc/connect';
import { WatchEventType } from '../proto/gen/baykeeper/v1/watch_pb.js';
import { ApiError, hasCode, pause } from './client.ts';
import type { KindRow } from './kinds.ts';
import { type AnyObject, metadataOf, type Objects, type Place, type WatchEvent } from './objects.ts';

/** What is watched, and from where. */
export interface WatchOptions {
  readonly kind: KindRow;
  readonly place: Place;
  readonly filter?: string;
  readonly name?: string;
  /** Only what comes after this revision. Unset: a snapshot, and SYNCED, first. */
  readonly sinceRevision?: bigint;
  readonly signal: AbortSignal;
  /** Told when the connection is lost. */
  readonly onDrop?: (error: ApiError) => void;
}

const firstBackoffMs = 100;
const maxBackoffMs = 5_000;

/**
 * Watches for ever: a connection that drops is taken up again after the last event, and where the server no longer has what came after it,
 * from a new snapshot, of which only the differences are given. So the caller sees one snapshot, SYNCED once, and each later change. BOOKMARKs are kept
 * back. Throws what cannot get better by waiting, and a failure of the very first connection.
 */
export async function* resumingWatch(objects: Objects, options: WatchOptions): AsyncIterable<WatchEvent> {
  const { kind, place, filter, name, signal } = options;
  const known = new Map<string, AnyObject>();
  /** What the snapshot under way has shown so far; unset when there is none under way. */
  let seen: Set<string> | undefined;
  let since = options.sinceRevision ?? 0n;
  let synced = since > 0n;
  let failures = 0;
  let connected = false;
  while (!signal.aborted) {
    seen = since === 0n ? new Set() : undefined;
    try {
      for await (const event of objects.watch(kind, place, { filter, name, sinceRevision: since, signal })) {
        failures = 0;
        connected = true;
        if (event.type === WatchEventType.SYNCED) {
          for (const [uid, object] of known) {
            if (!seen || seen.has(uid)) continue;
            known.delete(uid);
            yield { type: WatchEventType.DELETED, object, revision: event.revision };
          }
          seen = undefined;
          since = event.revision;
          if (!synced) yield event;
          synced = true;
          continue;
        }
        // A revision inside a snapshot is no place to resume from: what comes later in it would be missed.
        if (!seen && event.revision > 0n) since = event.revision;
        if (!event.object) continue;
        const { uid } = metadataOf(event.object);
        const before = known.get(uid);
        seen?.add(uid);
        if (event.type === WatchEventType.DELETED) {
          known.delete(uid);
          yield event;
          continue;
        }
        known.set(uid, event.object);
        if (!before) yield event;
        else if (!seen) yield { ...event, type: WatchEventType.MODIFIED };
        else if (metadataOf(before).revision !== metadataOf(event.object).revision) {
          yield { ...event, type: WatchEventType.MODIFIED };
        }
      }
      if (signal.aborted) return;
      failures++;
    } catch (error) {
      if (signal.aborted) return;
      if (hasCode(error, Code.OutOfRange) && since > 0n) {
        since = 0n;
      } else if (connected && error instanceof ApiError && mayRecover(error.code)) {
        if (failures === 0) options.onDrop?.(error);
      } else {
        throw error;
      }
      failures++;
    }
    await pause(Math.random() * Math.min(maxBackoffMs, firstBackoffMs * 2 ** failures), signal);
  }
}

function mayRecover(code: Code): boolean {
  switch (code) {
    case Code.Unavailable:
    case Code.ResourceExhausted:
    case Code.Internal:
    case Code.Unknown:
    case Code.DeadlineExceeded:
    case Code.Aborted:
      return true;
    default:
      return false;
  }
}
