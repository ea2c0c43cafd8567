import { WatchEventType } from '../../proto/gen/baykeeper/v1/watch_pb.js';
import { compileFilter, type Filter } from '../domain/filter.ts';
import { type KindName, type Kinds, kinds } from '../domain/kinds.ts';
import { present, type Surroundings } from '../domain/present.ts';
import { type Principal, projectOf } from '../domain/principal.ts';
import type { Liveness } from '../reconcile/port.ts';
import type { Store, StoredObject, WatchItem } from '../store/port.ts';
import type { BayRef } from './bay_directory.ts';
import { budgeted, Slices } from './filter_budget.ts';
import type { NodeDirectory } from './node_directory.ts';
import { visibleItems } from './public_models.ts';

/** The store's side of a watch: `openWatch` of store/watch.ts. */
export type OpenWatch = (options: {
  readonly store: Store;
  readonly kind: string;
  readonly project?: string;
  readonly bayUid?: string;
  readonly namespace?: string;
  readonly name?: string;
  readonly sinceRevision?: number;
  readonly signal: AbortSignal;
}) => AsyncIterable<WatchItem>;

/** What watching needs. */
export interface WatchOptions {
  readonly openWatch: OpenWatch;
  readonly store: Store;
  readonly liveness: Liveness;
  readonly nodes: NodeDirectory;
  readonly around: Surroundings;
}

/** A watch, as requests ask for one. */
export interface WatchRequest {
  /** Empty: every namespace. */
  readonly namespace: string;
  /** Empty: every name. */
  readonly name: string;
  readonly filter: string;
  /** 0: begin with a snapshot. */
  readonly sinceRevision: bigint;
}

export interface WatchEvent<T> {
  readonly type: WatchEventType;
  readonly object?: T;
  readonly revision: bigint;
}

/** How much of the time a watch may spend on its filter. */
const filterShare = 0.05;

/**
 * A snapshot and exactly the changes after it, or the changes after a revision, as the caller may see them. Between them come objects whose status
 * has become stale, or fresh again: those have not changed, so they carry the revision to resume from, which is that of the event before. Throws
 * ExhaustedError when the filter takes too long.
 */
export async function* watchObjects<K extends KindName>(
  options: WatchOptions,
  principal: Principal,
  kind: K,
  bay: BayRef | undefined,
  request: WatchRequest,
  signal: AbortSignal,
): AsyncGenerator<WatchEvent<Kinds[K]>> {
  const { store } = options;
  const namespace = kinds[kind].scope === 'namespace' ? request.namespace : '';
  const scope = { kind, project: projectOf(principal), bayUid: bay?.uid, namespace, name: request.name };
  const filter = compileFilter(kind, request.filter);
  const view = new View(kind, options.around, filter && budgeted(filter, filterShare), Number(request.sinceRevision));
  const slices = new Slices();
  const ended = new AbortController();
  const touches = new Touches(scope, options);
  // Of every project, but for what is private there.
  const shared = kind === 'BayModel' && !principal.everyProject;
  const items = options.openWatch({
    store,
    kind,
    project: shared ? undefined : scope.project,
    bayUid: bay?.uid,
    namespace: namespace || undefined,
    name: request.name || undefined,
    sinceRevision: request.sinceRevision > 0n ? Number(request.sinceRevision) : undefined,
    signal: AbortSignal.any([signal, ended.signal]),
  });
  const source = (shared ? visibleItems(items, principal) : items)[Symbol.asyncIterator]();
  try {
    let next: Promise<IteratorResult<WatchItem>> | undefined;
    for (;;) {
      next ??= source.next();
      // Before the snapshot is complete, what it still brings is presented afresh anyway.
      if (view.synced) {
        if (touches.empty) await Promise.race([next, touches.wait()]);
        if (!touches.empty) {
          for (const stored of await touches.take()) {
            if (slices.isOver) await slices.next();
            const event = inScope(stored, scope) ? view.touched(stored) : undefined;
            if (event) yield event;
          }
          continue;
        }
      }
      const result = await next;
      next = undefined;
      if (result.done) return;
      if (slices.isOver) await slices.next();
      const event = view.take(result.value);
      if (event) yield event;
    }
  } finally {
    touches.close();
    ended.abort();
    // It may still be waiting for a change; being aborted, it ends by itself, and nobody wants to know how.
    source.return?.().catch(() => undefined);
  }
}

interface Scope {
  readonly kind: KindName;
  /** Undefined: every project. */
  readonly project: string | undefined;
  readonly bayUid: string | undefined;
  readonly namespace: string;
  readonly name: string;
}

function inScope(stored: StoredObject, scope: Scope): boolean {
  return (
    stored.kind === scope.kind &&
    (scope.project === undefined || stored.project === scope.project) &&
    (scope.bayUid === undefined || stored.bayUid === scope.bayUid) &&
    (scope.namespace === '' || stored.namespace === scope.namespace) &&
    (scope.name === '' || stored.name === scope.name)
  );
}

/** What the watcher has been shown so far. */
class View<K extends KindName> {
  readonly #kind: K;
  readonly #around: Surroundings;
  readonly #filter: Filter | undefined;
  /** By uid: whether the watcher has it now. */
  readonly #shown = new Map<string, boolean>();
  readonly #resumed: boolean;
  #cursor: number;
  synced: boolean;

  constructor(kind: K, around: Surroundings, filter: Filter | undefined, sinceRevision: number) {
    this.#kind = kind;
    this.#around = around;
    this.#filter = filter;
    this.#resumed = sinceRevision > 0;
    this.#cursor = sinceRevision;
    this.synced = this.#resumed;
  }

  take(item: WatchItem): WatchEvent<Kinds[K]> | undefined {
    switch (item.type) {
      case 'snapshot':
        return this.#put(item.object, false);
      case 'synced': {
        this.#cursor = item.revision;
        this.synced = true;
        const type = this.#resumed ? WatchEventType.BOOKMARK : WatchEventType.SYNCED;
        return { type, revision: BigInt(item.revision) };
      }
      case 'bookmark':
        this.#cursor = item.revision;
        return { type: WatchEventType.BOOKMARK, revision: BigInt(item.revision) };
      case 'change': {
        const { op, object, revision, previousRevision } = item.change;
        // Before the snapshot is complete there is no place to resume from.
        if (this.synced) this.#cursor = revision;
        return op === 'put' ? this.#put(object, previousRevision === 0) : this.#remove(object);
      }
    }
  }

  /** An object whose status reads otherwise now. One with a change on its way is presented when that comes. */
  touched(stored: StoredObject): WatchEvent<Kinds[K]> | undefined {
    return stored.revision > this.#cursor ? undefined : this.#put(stored, false);
  }

  #put(stored: StoredObject, isNew: boolean): WatchEvent<Kinds[K]> | undefined {
    const object = present(this.#kind, stored, this.#around);
    const matches = !this.#filter || this.#filter(object);
    // A watcher that has resumed may have been shown it before.
    const mayHave = this.#shown.get(stored.uid) ?? (this.#resumed && !isNew);
    this.#shown.set(stored.uid, matches);
    if (!matches && !mayHave) return undefined;
    const type = !matches ? WatchEventType.DELETED : mayHave ? WatchEventType.MODIFIED : WatchEventType.ADDED;
    return { type, object, revision: BigInt(this.#cursor) };
  }

  #remove(stored: StoredObject): WatchEvent<Kinds[K]> | undefined {
    const shown = this.#shown.get(stored.uid) ?? this.#resumed;
    this.#shown.delete(stored.uid);
    if (!shown) return undefined;
    const object = present(this.#kind, stored, this.#around);
    return { type: WatchEventType.DELETED, object, revision: BigInt(this.#cursor) };
  }
}

/** Collects the objects whose status reads otherwise because of what is known of a node. */
class Touches {
  readonly #scope: Scope;
  readonly #options: WatchOptions;
  /** Uids of nodes, or of bays when it is bays that are watched. */
  readonly #uids = new Set<string>();
  readonly #ends: (() => void)[] = [];
  #wake: () => void = () => undefined;

  constructor(scope: Scope, options: WatchOptions) {
    this.#scope = scope;
    this.#options = options;
    const { kind } = scope;
    if (kind === 'BayModel') return;
    this.#ends.push(
      options.liveness.subscribe((nodeUid) => {
        this.#add(kind === 'Bay' ? options.nodes.bayOf(nodeUid) : nodeUid);
        // With the uid of a Kubernetes bay it is its leader that speaks again or not, for nodes that have no agent, too.
        if (kind !== 'Node') return;
        for (const { uid, reported } of options.nodes.nodesOf(nodeUid)) if (reported) this.#add(uid);
      }),
    );
    if (kind !== 'Bay') return;
    this.#ends.push(
      options.store.subscribe(
        (changes) => {
          for (const { object } of changes) this.#add(object.bayUid);
        },
        { kind: 'Node' },
      ),
    );
  }

  get empty(): boolean {
    return this.#uids.size === 0;
  }

  /** Resolves when there is something to take. */
  wait(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  async take(): Promise<readonly StoredObject[]> {
    const uids = [...this.#uids];
    this.#uids.clear();
    const { store } = this.#options;
    const { kind, project, bayUid } = this.#scope;
    const found = await Promise.all(
      uids.map(async (uid) => {
        if (kinds[kind].assigned) return (await store.assigned(uid)).objects;
        const stored = await store.get({ uid, within: { kind, project, bayUid } });
        return stored ? [stored] : [];
      }),
    );
    return found.flat();
  }

  close(): void {
    for (const end of this.#ends) end();
  }

  #add(uid: string | undefined): void {
    if (uid === undefined) return;
    // Of what goes on in other bays nothing is read.
    const { bayUid } = this.#scope;
    if (bayUid !== undefined && uid !== bayUid && this.#options.nodes.bayOf(uid) !== bayUid) return;
    this.#uids.add(uid);
    this.#wake();
  }
}
