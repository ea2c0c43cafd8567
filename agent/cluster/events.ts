import { create } from '@bufbuild/protobuf';
import { type ClusterEvent, ClusterEventSchema } from '../../proto/gen/baykeeper/v1/cluster_pb.js';
import { timestampAt } from '../delivery.ts';
import type { ClusterObject } from '../drivers/cluster_driver.ts';
import { fieldsOf, number, text } from './json_fields.ts';
import { type ClusterKind, clusterKinds } from './manifest.ts';
import type { Place } from './plan.ts';

/** What the cluster says happened to an object. */
export interface EventNote {
  /** Name of the Event: one that comes again counts on. */
  readonly id: string;
  /** Of the object in the cluster that it is about; may be empty. */
  readonly clusterUid: string;
  readonly type: string;
  readonly reason: string;
  readonly message: string;
  readonly source: string;
  readonly count: number;
  readonly firstMs: number;
  readonly lastMs: number;
}

/** What an Event is about, when that is of a kind that we have to do with. */
export function placeOfEvent({ involvedObject }: ClusterObject): Place | undefined {
  const about = fieldsOf(involvedObject);
  const kind = clusterKinds.find((one) => one === about.kind);
  return kind && { kind: kind satisfies ClusterKind, namespace: text(about.namespace), name: text(about.name) };
}

const maxMessageChars = 1024;

export function noteOf(event: ClusterObject): EventNote {
  const { metadata, involvedObject, source, series } = event;
  const lastMs = [fieldsOf(series).lastObservedTime, event.lastTimestamp, event.eventTime, metadata.creationTimestamp]
    .map(timeMs)
    .find((ms) => ms > 0);
  const firstMs = [event.firstTimestamp, event.eventTime, metadata.creationTimestamp].map(timeMs).find((ms) => ms > 0);
  return {
    id: metadata.name,
    clusterUid: text(fieldsOf(involvedObject).uid),
    type: text(event.type),
    reason: text(event.reason),
    message: text(event.message).slice(0, maxMessageChars),
    source: text(fieldsOf(source).component) || text(event.reportingComponent),
    count: number(fieldsOf(series).count) || number(event.count) || 1,
    firstMs: firstMs ?? 0,
    lastMs: lastMs ?? 0,
  };
}

const timeMs = (time: unknown): number => (typeof time === 'string' ? Date.parse(time) || 0 : 0);

const eventsKept = 16;

/** The newest events about one object. */
export class EventLog {
  #notes: readonly EventNote[] = [];
  /** Another one whenever there is news. */
  version = 0;

  /** Returns whether that is news. */
  add(note: EventNote): boolean {
    const known = this.#notes.find(({ id }) => id === note.id);
    if (known && known.count === note.count && known.lastMs === note.lastMs) return false;
    const others = this.#notes.filter((one) => one !== known);
    this.#notes = [...others, note].sort((a, b) => a.lastMs - b.lastMs || (a.id < b.id ? -1 : 1)).slice(-eventsKept);
    const isNews = this.#notes.includes(note);
    if (isNews) this.version += 1;
    return isNews;
  }

  /** Oldest first. @param clusterUid Only about this one in the cluster; undefined: about any that had the name. */
  events(clusterUid: string | undefined): ClusterEvent[] {
    return this.#notes
      .filter((note) => clusterUid === undefined || note.clusterUid === '' || note.clusterUid === clusterUid)
      .map(({ type, reason, message, source, count, firstMs, lastMs }) =>
        create(ClusterEventSchema, {
          type,
          reason,
          message,
          source,
          count,
          firstTime: timestampAt(firstMs),
          lastTime: timestampAt(lastMs),
        }),
      );
  }
}
