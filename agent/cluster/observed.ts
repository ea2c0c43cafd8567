import type { Live } from './live.ts';
import type { ClusterKind } from './manifest.ts';
import type { Place } from './plan.ts';

/** Of ends that were accepted, and of which the watch has not told yet. */
const endedKept = 4096;

/**
 * What the cluster has of ours, as far as is known: by the watches, and by the answers to our own writes, which are newer than what a watch
 * tells for a moment.
 */
export class Observed {
  readonly #byPlace = new Map<string, Live>();
  readonly #byUid = new Map<string, Live[]>();
  /** Versions that we wrote and no watch has told of yet. */
  readonly #written = new Map<string, string>();
  /** Where these are, by kind and version: no two objects of a kind have the same one. */
  readonly #placeOfWritten = new Map<string, string>();
  /** Of places of which a watch says something older than our own write: which of the two holds, only a look can tell. */
  readonly #unsure = new Set<string>();
  /**
   * Uids in the cluster of what has ended, until the watch tells of it, too: one that is behind does not bring them back. No longer than that: an etcd
   * that is put back to an older state does bring them back.
   */
  readonly #ended = new Set<string>();

  /** What bears an object's uid. */
  of(uid: string): readonly Live[] {
    return this.#byUid.get(uid) ?? [];
  }

  at(place: Place): Live | undefined {
    return this.#byPlace.get(placeKey(place));
  }

  /** Whether something of an object has to be read before anything is made of it. */
  isUnsure(uid: string): boolean {
    return this.#unsure.size > 0 && this.of(uid).some((live) => this.#unsure.has(placeKey(live)));
  }

  /** Uids of all objects of which there is something. */
  uids(): IterableIterator<string> {
    return this.#byUid.keys();
  }

  /** A watch tells of a change. Returns the uid of the object that it is of; undefined: nothing has changed. */
  put(live: Live): string | undefined {
    if (this.#ended.has(live.clusterUid)) return undefined;
    const key = placeKey(live);
    const written = this.#written.get(key);
    if (written !== undefined && isOlder(live.resourceVersion, written)) return undefined;
    const before = this.#byPlace.get(key);
    this.#forgetWrite(key);
    if (before === live) return undefined;
    this.#set(key, live);
    return live.objectUid || before?.objectUid;
  }

  /** A watch tells of a version. True: it is what a write of ours was answered with, and nothing newer is known. */
  confirm(kind: ClusterKind, resourceVersion: string): boolean {
    const key = this.#placeOfWritten.get(versionKey(kind, resourceVersion));
    if (key === undefined) return false;
    this.#forgetWrite(key);
    return true;
  }

  /** A watch tells of an end. */
  remove(live: Live): string | undefined {
    this.#ended.delete(live.clusterUid);
    const key = placeKey(live);
    const known = this.#byPlace.get(key);
    if (known?.clusterUid !== live.clusterUid) return undefined;
    this.#forgetWrite(key);
    this.#set(key, undefined);
    return known.objectUid;
  }

  /** All that there is of a kind. Returns the uids of what has changed. */
  snapshot(kind: ClusterKind, all: readonly Live[]): Set<string> {
    for (const [version, key] of this.#placeOfWritten) if (kindOf(key) === kind) this.#placeOfWritten.delete(version);
    const changed = new Set<string>();
    const found = new Set<string>();
    for (const live of all) {
      // Read while it was ending, or after it has come back: to try to end it again does no harm.
      this.#ended.delete(live.clusterUid);
      const key = placeKey(live);
      found.add(key);
      const known = this.#byPlace.get(key);
      if (known?.clusterUid === live.clusterUid && known.resourceVersion === live.resourceVersion) {
        this.#forgetWrite(key);
        continue;
      }
      const written = this.#written.get(key);
      changed.add(live.objectUid);
      if (written !== undefined && isOlder(live.resourceVersion, written)) {
        this.#unsure.add(key);
        continue;
      }
      this.#forgetWrite(key);
      this.#set(key, live);
    }
    for (const [key, live] of this.#byPlace) {
      if (live.kind !== kind || found.has(key)) continue;
      changed.add(live.objectUid);
      if (this.#written.has(key)) this.#unsure.add(key);
      else this.#set(key, undefined);
    }
    return changed;
  }

  /** The answer to a write of ours. */
  wrote(live: Live): void {
    const key = placeKey(live);
    const known = this.#byPlace.get(key);
    const isNews = known?.clusterUid !== live.clusterUid || known.resourceVersion !== live.resourceVersion;
    if (isNews) this.#rememberWrite(key, live);
    this.#unsure.delete(key);
    this.#set(key, live);
  }

  /** What was read just now; undefined: there is none of ours. */
  looked(place: Place, live: Live | undefined): void {
    const key = placeKey(place);
    this.#forgetWrite(key);
    this.#set(key, live);
  }

  /** The cluster has said that nothing is left of this one. */
  ended(clusterUid: string): void {
    for (const [key, live] of this.#byPlace) {
      if (live.clusterUid !== clusterUid) continue;
      this.#forgetWrite(key);
      this.#set(key, undefined);
      // Otherwise the watch was faster than the answer, and has nothing more to tell.
      this.#ended.add(clusterUid);
      break;
    }
    for (const oldest of this.#ended) {
      if (this.#ended.size <= endedKept) break;
      this.#ended.delete(oldest);
    }
  }

  #rememberWrite(key: string, { kind, resourceVersion }: Live): void {
    this.#forgetWrite(key);
    this.#written.set(key, resourceVersion);
    this.#placeOfWritten.set(versionKey(kind, resourceVersion), key);
  }

  #forgetWrite(key: string): void {
    this.#unsure.delete(key);
    const version = this.#written.get(key);
    if (version === undefined) return;
    this.#written.delete(key);
    this.#placeOfWritten.delete(versionKey(kindOf(key), version));
  }

  #set(key: string, live: Live | undefined): void {
    const before = this.#byPlace.get(key);
    if (before) {
      const others = this.of(before.objectUid).filter((one) => one !== before);
      if (others.length > 0) this.#byUid.set(before.objectUid, others);
      else this.#byUid.delete(before.objectUid);
    }
    // Without our labels it is no longer ours.
    if (!live || live.objectUid === '') {
      this.#byPlace.delete(key);
      return;
    }
    this.#byPlace.set(key, live);
    this.#byUid.set(live.objectUid, [...this.of(live.objectUid), live]);
  }
}

/** No name has a `/` in it. */
export const placeKey = ({ kind, namespace, name }: Place): string => `${kind}/${namespace}/${name}`;
const kindOf = (key: string): string => key.slice(0, key.indexOf('/'));

const versionKey = (kind: string, resourceVersion: string): string => `${kind} ${resourceVersion}`;

/** Versions are numbers, as etcd counts; where they are not, nothing is older. */
const isOlder = (a: string, b: string): boolean => Number(a) < Number(b);
