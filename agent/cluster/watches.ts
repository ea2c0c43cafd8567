import {
  type ClusterDriver,
  type ClusterObject,
  type ResourceType,
  resourceTypes,
  type WatchEvent,
  type WatchOptions,
} from '../drivers/cluster_driver.ts';
import type { ClusterError } from '../drivers/cluster_error.ts';
import type { Log } from '../log.ts';
import { type EventNote, noteOf, placeOfEvent } from './events.ts';
import { listOf, number, text } from './json_fields.ts';
import { baySelector } from './labels.ts';
import { type Live, liveOf } from './live.ts';
import { type ClusterKind, clusterKinds, type Manifest } from './manifest.ts';
import { objectUidOf } from './ownership.ts';
import type { Place } from './plan.ts';
import { isAway } from './reasons.ts';
import type { EndpointAddresses } from './status.ts';

export interface WatchesOptions {
  readonly driver: ClusterDriver;
  readonly bayUid: string;
  readonly log: Log;
  /** Ends everything. */
  readonly signal: AbortSignal;
  /** What should be there of an object. */
  readonly manifestOf: (objectUid: string) => Manifest | undefined;
  /** What is known of an object already. */
  readonly known: (place: Place) => Live | undefined;
  /** Whether a version is that of our own last write, of which a watch tells hereby. */
  readonly confirm: (kind: ClusterKind, resourceVersion: string) => boolean;
  /** Whether events about an object are of interest. */
  readonly isOurs: (place: Place) => boolean;
  readonly onSnapshot: (kind: ClusterKind, all: readonly Live[]) => void;
  readonly onPut: (live: Live) => void;
  readonly onDelete: (live: Live) => void;
  /** Undefined: there are none. */
  readonly onEndpoints: (objectUid: string, endpoints: EndpointAddresses | undefined) => void;
  readonly onEvent: (place: Place, note: EventNote) => void;
  /** Whether the cluster can be watched is otherwise than before. */
  readonly onState: (kind: ClusterKind | undefined) => void;
}

/** Keeps an eye on what the cluster has of ours. */
export class Watches {
  readonly #options: WatchesOptions;
  readonly #synced = new Set<ClusterKind>();
  readonly #problems = new Map<string, ClusterError>();
  readonly #withEndpoints = new Set<string>();

  constructor(options: WatchesOptions) {
    this.#options = options;
  }

  start(): void {
    const { bayUid, confirm } = this.#options;
    const selection = { labelSelector: baySelector(bayUid) };
    for (const kind of clusterKinds) {
      const isKnown = (resourceVersion: string) => confirm(kind, resourceVersion);
      const transform = this.#transformer(kind);
      void this.#watch(resourceTypes[kind], { ...selection, isKnown }, transform, (event) => this.#take(kind, event));
    }
    void this.#watch(resourceTypes.Endpoints, selection, this.#endpointsOf, (event) => this.#takeEndpoints(event));
    void this.#watch(resourceTypes.Event, {}, this.#noteOf, (event) => this.#takeEvents(event));
  }

  /** Why a kind cannot be watched now. */
  problemOf(kind: ClusterKind): ClusterError | undefined {
    return this.#problems.get(resourceTypes[kind].plural);
  }

  /** Whether objects of a kind can be worked on: what there is of it is known, and the cluster answers. */
  isReady(kind: ClusterKind): boolean {
    return this.#synced.has(kind) && !isAway(this.problemOf(kind));
  }

  /** What cannot be watched now, as in paths, and why. */
  get problems(): ReadonlyMap<string, ClusterError> {
    return this.#problems;
  }

  #transformer(kind: ClusterKind): (object: ClusterObject) => Live {
    const { bayUid, driver, manifestOf, known } = this.#options;
    return (object) => {
      const { namespace = '', name, uid: clusterUid, resourceVersion } = object.metadata;
      const uid = objectUidOf(object.metadata, bayUid);
      const manifest = uid === undefined ? undefined : manifestOf(uid);
      // As our own write came back, mostly.
      const before = known({ kind, namespace, name });
      const isSame = before?.clusterUid === clusterUid && before.resourceVersion === resourceVersion;
      if (before && isSame && (before.applied !== manifest?.hash || before.checked === manifest.hash)) return before;
      return liveOf(object, { kind, bayUid, fieldManager: driver.fieldManager, manifest, before });
    };
  }

  #take(kind: ClusterKind, event: WatchEvent<Live>): void {
    const { onSnapshot, onPut, onDelete } = this.#options;
    switch (event.type) {
      case 'snapshot':
        this.#synced.add(kind);
        onSnapshot(kind, event.items);
        break;
      case 'put':
        onPut(event.item);
        break;
      case 'delete':
        onDelete(event.item);
        break;
    }
  }

  /** Labels of a service are those of its endpoints, too. */
  readonly #endpointsOf = (object: ClusterObject): Endpoints => ({
    objectUid: objectUidOf(object.metadata, this.#options.bayUid) ?? '',
    addresses: addressesOf(object),
  });

  #takeEndpoints(event: WatchEvent<Endpoints>): void {
    if (event.type === 'snapshot') {
      const found = new Set(event.items.map(({ objectUid }) => objectUid));
      for (const uid of this.#withEndpoints) if (!found.has(uid)) this.#setEndpoints(uid, undefined);
      for (const { objectUid, addresses } of event.items) this.#setEndpoints(objectUid, addresses);
    }
    if (event.type === 'put') this.#setEndpoints(event.item.objectUid, event.item.addresses);
    if (event.type === 'delete') this.#setEndpoints(event.item.objectUid, undefined);
  }

  #setEndpoints(uid: string, addresses: EndpointAddresses | undefined): void {
    if (addresses) this.#withEndpoints.add(uid);
    else this.#withEndpoints.delete(uid);
    this.#options.onEndpoints(uid, addresses);
  }

  readonly #noteOf = (object: ClusterObject): Note | undefined => {
    const place = placeOfEvent(object);
    return place && this.#options.isOurs(place) ? { place, note: noteOf(object) } : undefined;
  };

  #takeEvents(event: WatchEvent<Note | undefined>): void {
    const notes = event.type === 'snapshot' ? event.items : event.type === 'put' ? [event.item] : [];
    for (const one of notes) if (one) this.#options.onEvent(one.place, one.note);
  }

  async #watch<T>(
    type: ResourceType,
    selection: Pick<WatchOptions<T>, 'labelSelector' | 'isKnown'>,
    transform: (object: ClusterObject) => T,
    take: (event: WatchEvent<T>) => void,
  ): Promise<void> {
    const { driver, signal, log } = this.#options;
    for await (const event of driver.watch(type, { ...selection, signal, transform })) {
      try {
        if (event.type === 'down')
          log.warn({ kind: type.kind, error: event.error.message }, 'the cluster cannot be watched');
        // Before it is acted on: what acts looks whether the cluster can be asked.
        const isState = this.#note(type.plural, event);
        if (event.type !== 'up' && event.type !== 'down') take(event);
        if (isState) this.#options.onState(clusterKinds.find((kind) => kind === type.kind));
      } catch (error) {
        log.error({ kind: type.kind, error: (error as Error).stack }, 'a change in the cluster could not be taken in');
      }
    }
  }

  /** Returns whether that is news of the watch itself. */
  #note(plural: string, event: WatchEvent<unknown>): boolean {
    const wasWrong = this.#problems.has(plural);
    if (event.type === 'down') this.#problems.set(plural, event.error);
    else this.#problems.delete(plural);
    return event.type === 'down' || event.type === 'up' || event.type === 'snapshot' || wasWrong;
  }
}

interface Endpoints {
  readonly objectUid: string;
  readonly addresses: EndpointAddresses;
}

interface Note {
  readonly place: Place;
  readonly note: EventNote;
}

const maxAddresses = 100;

function addressesOf({ subsets }: ClusterObject): EndpointAddresses {
  const ready: string[] = [];
  const notReady: string[] = [];
  for (const subset of listOf(subsets)) {
    for (const port of listOf(subset.ports)) {
      const at = ({ ip }: Readonly<Record<string, unknown>>) => endpoint(text(ip), number(port.port));
      ready.push(...listOf(subset.addresses).map(at));
      notReady.push(...listOf(subset.notReadyAddresses).map(at));
    }
  }
  return { ready: ready.sort().slice(0, maxAddresses), notReady: notReady.sort().slice(0, maxAddresses) };
}

const endpoint = (ip: string, port: number): string => (ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`);
