import type { StoredRecord } from '../domain/record.ts';

/**
 * The store: the only truth. Objects by uid and by name, and a feed of every change with gap-free revisions.
 *
 * What it promises (and `contract.ts` proves of each implementation):
 * - `write` resolves when the change is on disk, and not before; if it rejects with anything but a lost store, nothing of it is kept.
 * - Writes are serial: each sees what those before it did. Many share one commit, and one that fails does not touch its neighbours.
 * - Revisions are 1, 2, 3 … in the order of the changes, without a gap, also over restarts.
 * - Reads never wait for writes, and each sees one committed state.
 * - Listeners get every committed change once, in order, after it is on disk.
 */
export interface Store {
  /** Runs one write. Rejects with what `apply` threw, with UnavailableError when the disk is full or the store is closed. */
  write<T>(write: Write<T>): Promise<T>;

  get(key: ObjectKey): Promise<StoredObject | undefined>;

  /** One page, in the order asked for, with the revision that it shows. Of large objects it has fewer than `limit`, and one at least. */
  list(query: ListQuery): Promise<ListPage>;

  /** How many objects there are in a bay, Nodes left out. */
  countInBay(bayUid: string): Promise<number>;

  /** Everything assigned to a node, and the revision of the newest link of its chain (0: none yet). */
  assigned(assigneeUid: string): Promise<AssignedSet>;

  /**
   * The newest change of each object in a node's chain after `revision`, oldest first, and the chain's head. Undefined when the feed
   * has been compacted past it, or when there are more than `limit`: take `assigned` then.
   */
  chainSince(assigneeUid: string, revision: number, limit: number): Promise<ChainDelta | undefined>;

  /**
   * The changes after `revision`, at most `limit`, oldest first; with `only`, those that match: fewer than `limit` means that there is
   * no further one. With `maxBytes` there are no more than are so large together, but for the last one: only none means that there is no further one.
   * Rejects with CompactedError.
   */
  changesSince(revision: number, limit: number, only?: ChangeFilter, maxBytes?: number): Promise<readonly Change[]>;

  /** What a project has, as of the newest commit. */
  usage(project: string): Usage;

  /** The projects that have anything. */
  projects(): readonly string[];

  /** The newest committed revision. */
  readonly revision: number;

  /**
   * Calls back after each commit with its changes, or with those that match `only` when there are any (the cost of a change does not
   * grow with the listeners that it does not concern). Must not throw. Returns what ends it.
   */
  subscribe(listener: (changes: readonly Change[]) => void, only?: ChangeFilter): () => void;

  /**
   * Forgets changes before `revision`, and as many more as it takes for what is in the others to be no larger than `keepBytes`; and remembered requests
   * before `requestsBeforeMs`.
   */
  compact(revision: number, requestsBeforeMs: number, keepBytes?: number): Promise<void>;

  /** Finishes what is under way, and closes. */
  close(): Promise<void>;
}

/** An object as it lies in the store. The rules know it too, so it is theirs to say what it is. */
export type StoredObject = StoredRecord;

export type ObjectKey =
  | {
      readonly uid: string;
      /**
       * Where it has to be. One that is elsewhere is not found, as if it did not exist, and is not read: what a tenant asks for takes the
       * same path whether it is another's or nobody's. Left out by the control plane itself.
       */
      readonly within?: ObjectScope;
    }
  | {
      readonly kind: string;
      readonly project: string;
      readonly bayUid: string;
      readonly namespace: string;
      readonly name: string;
    };

/** Objects of a kind: of one project and one bay (empty: in none) where given. */
export interface ObjectScope {
  readonly kind: string;
  readonly project?: string;
  readonly bayUid?: string;
}

/** A remembered request: the same id of the same project always means what it meant first. */
export interface RequestKey {
  readonly project: string;
  readonly requestId: string;
}
export interface RememberedRequest {
  readonly uid: string;
  /** Digest of what was asked for: the same id with another content is an error of the caller. */
  readonly fingerprint: string;
}

/** One write: what it needs to read, and what it does. */
export interface Write<T> {
  /** Only these may be read in `apply`. */
  readonly reads: readonly ObjectKey[];
  readonly request?: RequestKey;
  /** Pure: no waiting, no effects but on the view. May run more than once. What it throws undoes this write alone. */
  apply(view: WriteView): T;
}

export interface WriteView {
  /** As of just before this write. Throws when the key was not among `reads`; an object that this write has put is there too. */
  get(key: ObjectKey): StoredObject | undefined;
  readonly remembered: RememberedRequest | undefined;
  /** What a project has, with all that this write has done so far. Counted along: it costs nothing to ask. */
  usage(project: string): Usage;
  /**
   * Creates or replaces. `make` gets the revision that this change will have and returns the object with it. Each put of a write
   * takes one revision. Throws AlreadyExistsError when another object has its name. What an object is named by (kind, project, bay,
   * namespace, name) never changes.
   *
   * `chain`: the node in whose delta chain this change is a link; empty: in none (a change of status, say).
   */
  put(make: (revision: number) => StoredObject, chain: string): StoredObject;
  /** Removes an object for good. Takes one revision, and is a link in the chain of `chain`. */
  remove(uid: string, chain: string): void;
  remember(uid: string, fingerprint: string): void;
}

/** How much of a project's is in the store. */
export interface Usage {
  /** Objects of this kind. */
  count(kind: string): number;
  /** Size of all objects, serialized. */
  readonly bytes: number;
}

export interface Change {
  readonly revision: number;
  readonly op: 'put' | 'remove';
  /** As it is after a put; as it last was before a remove. */
  readonly object: StoredObject;
  readonly chain: string;
  /** The newest revision of that chain before this one; 0 for its first link, and when `chain` is empty. */
  readonly chainPrevious: number;
  readonly timeMs: number;
  /** The object's revision before this change. 0: this change made it. */
  readonly previousRevision?: number;
  /** The object before this change, where it is still known: to listeners always, in `changesSince` while the feed keeps it. */
  readonly previous?: StoredObject;
}

/** What a watch says, in this order: snapshot*, change*, synced, and then changes and bookmarks without end. */
export type WatchItem =
  /** An object as it is at the start. */
  | { readonly type: 'snapshot'; readonly object: StoredObject }
  /** What was said so far is, all together, the state at this revision. */
  | { readonly type: 'synced'; readonly revision: number }
  /**
   * A change after that. `previous`: the object before it, where it is still known. `change.previousRevision` is 0 when the change
   * made the object. All watchers get the same objects, so what is decoded of one may be kept by its identity.
   */
  | { readonly type: 'change'; readonly change: Change; readonly previous?: StoredObject }
  /** Nothing up to this revision, but for what was said, concerns this watch. */
  | { readonly type: 'bookmark'; readonly revision: number };

/** Which changes: those of one kind, and of one project and one bay where given. */
export interface ChangeFilter {
  readonly kind: string;
  readonly project?: string;
  readonly bayUid?: string;
}

export interface ListQuery {
  readonly kind: string;
  /** Undefined: every project (the control plane itself only). */
  readonly project?: string;
  readonly bayUid?: string;
  readonly namespace?: string;
  readonly name?: string;
  readonly orderBy: 'name' | 'createTime';
  readonly descending: boolean;
  /** Where the page before ended. */
  readonly after?: ListPosition;
  readonly limit: number;
  /** How large all of them are together at the most, but for the last one. Default: maxPageBytes of domain/page.ts. */
  readonly maxBytes?: number;
}
/** Orders by (namespace, name, uid) or (createTimeMs, uid). */
export interface ListPosition {
  readonly namespace: string;
  readonly name: string;
  readonly createTimeMs: number;
  readonly uid: string;
}
export interface ListPage {
  readonly objects: readonly StoredObject[];
  readonly revision: number;
  /** Whether there is more after the last one. */
  readonly more: boolean;
}

export interface AssignedSet {
  readonly objects: readonly StoredObject[];
  readonly head: number;
}
export interface ChainDelta {
  readonly changes: readonly Change[];
  readonly head: number;
}
