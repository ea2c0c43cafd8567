import { AlreadyExistsError, NotFoundError } from '../domain/errors.ts';
import { checkObject, isStorable, isWithin, keyText, type NameKey, nameText, requestText } from './keys.ts';
import type { Change, ObjectKey, RememberedRequest, RequestKey, StoredObject, Write, WriteView } from './port.ts';
import { bytesKey, countKey, type UsageNumbers, usageOf } from './usage.ts';

/** What was read from disk for a batch: the objects found of its keys, and the remembered requests found. */
export interface Loaded {
  readonly objects: readonly StoredObject[];
  readonly requests: readonly (RequestKey & RememberedRequest)[];
}

/** What a batch leaves behind, to be put on disk in one transaction. */
export interface Outcome {
  readonly changes: readonly Change[];
  /** Uids whose row must go first: removed, or to be inserted anew because something changes that it is searched by. */
  readonly gone: readonly string[];
  /** Objects without a row, once those of `gone` are gone. */
  readonly inserts: readonly StoredObject[];
  /** Objects with a row, of which only generation, deleting, revision, epoch, sequence and body may differ from it. */
  readonly updates: readonly StoredObject[];
  readonly chainHeads: ReadonlyMap<string, number>;
  /** Numbers of usage that have changed. */
  readonly usage: UsageNumbers;
  readonly requests: readonly (RequestKey & RememberedRequest & { readonly timeMs: number })[];
}

export interface OverlayOptions {
  /** The newest committed revision. */
  readonly revision: number;
  /** The newest revision of each chain. */
  readonly chainHeads: ReadonlyMap<string, number>;
  readonly usage: UsageNumbers;
  readonly keys: readonly ObjectKey[];
  readonly loaded: Loaded;
  /** Time of the changes, in milliseconds since 1970. */
  readonly nowMs: number;
}

/**
 * The writes of one batch, run one after the other in memory over what was read for them. Each sees what those before it did, and one
 * that throws leaves nothing behind, not even a gap in the revisions.
 */
export class Overlay {
  readonly #options: OverlayOptions;
  /** As on disk. */
  readonly #original = new Map<string, StoredObject>();
  /** As it is now; undefined: known not to be there. */
  readonly #objects = new Map<string, StoredObject | undefined>();
  readonly #names = new Map<string, string | undefined>();
  readonly #heads = new Map<string, number>();
  readonly #usage = new Map<string, number>();
  readonly #remembered = new Map<string, RememberedRequest>();
  readonly #newRequests = new Map<string, RequestKey & RememberedRequest & { readonly timeMs: number }>();
  readonly #changes: Change[] = [];
  #bytes = 0;

  constructor(options: OverlayOptions) {
    this.#options = options;
    for (const key of options.keys) {
      if ('uid' in key) this.#objects.set(key.uid, undefined);
      else this.#names.set(nameText(key), undefined);
    }
    for (const object of options.loaded.objects) {
      this.#original.set(object.uid, object);
      this.#objects.set(object.uid, object);
      this.#names.set(nameText(object), object.uid);
    }
    for (const request of options.loaded.requests) this.#remembered.set(requestText(request), request);
  }

  /** How many changes there are so far. */
  get changeCount(): number {
    return this.#changes.length;
  }

  /** How large the bodies are that were put so far. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Whether there is anything to put on disk. */
  get isEmpty(): boolean {
    return this.#changes.length === 0 && this.#newRequests.size === 0;
  }

  /** Runs one write. Throws what it throws, and then it is undone. */
  run<T>(write: Write<T>): T {
    const undo: (() => void)[] = [];
    const changes = this.#changes.length;
    const bytes = this.#bytes;
    const allowed = new Set(write.reads.map(keyText));
    let open = true;
    const whileOpen = (): void => {
      if (!open) throw new Error('a write used its view after it ended');
    };
    const set = <V>(map: Map<string, V>, key: string, value: V): void => {
      const had = map.has(key);
      const old = map.get(key) as V;
      undo.push(() => (had ? map.set(key, old) : map.delete(key)));
      map.set(key, value);
    };
    const link = (chain: string, revision: number): number => {
      if (chain === '') return 0;
      if (!isStorable(chain)) throw new TypeError('a chain has a name that cannot be kept');
      const previous = this.#heads.get(chain) ?? this.#options.chainHeads.get(chain) ?? 0;
      set(this.#heads, chain, revision);
      return previous;
    };
    const numberAt = (key: string): number => this.#usage.get(key) ?? this.#options.usage.get(key) ?? 0;
    const add = (key: string, amount: number): void => {
      if (amount !== 0) set(this.#usage, key, numberAt(key) + amount);
    };
    const view: WriteView = {
      get: (key) => {
        whileOpen();
        if (!allowed.has(keyText(key))) throw new Error('a write looked at an object that is not among its reads');
        const uid = 'uid' in key ? key.uid : this.#names.get(nameText(key));
        const object = uid === undefined ? undefined : this.#objects.get(uid);
        // Another write of this batch may have read the same object, and may see it.
        return object && 'uid' in key && key.within && !isWithin(object, key.within) ? undefined : object;
      },
      remembered: write.request && this.#remembered.get(requestText(write.request)),
      usage: (project) => usageOf(project, numberAt),
      put: (make, chain) => {
        whileOpen();
        const revision = this.#options.revision + this.#changes.length + 1;
        const object = make(revision);
        checkObject(object, revision);
        const name = nameText(object);
        const previous = this.#objects.get(object.uid);
        if (previous === undefined) {
          if (!this.#names.has(name)) throw new Error('a write put an object under a name that is not among its reads');
          if (this.#names.get(name) !== undefined) throw nameTaken(object);
          set(this.#names, name, object.uid);
        } else if (nameText(previous) !== name) {
          throw new TypeError('a write gave an object another name');
        }
        set(this.#objects, object.uid, object);
        if (previous === undefined) add(countKey(object), 1);
        add(bytesKey(object), object.body.byteLength - (previous?.body.byteLength ?? 0));
        allowed.add(object.uid).add(name);
        this.#changes.push({
          revision,
          op: 'put',
          object,
          chain,
          chainPrevious: link(chain, revision),
          timeMs: this.#options.nowMs,
          previousRevision: previous?.revision ?? 0,
          previous,
        });
        this.#bytes += object.body.byteLength;
        return object;
      },
      remove: (uid, chain) => {
        whileOpen();
        if (!this.#objects.has(uid)) throw new Error('a write removed an object that is not among its reads');
        const object = this.#objects.get(uid);
        if (object === undefined) throw new NotFoundError(`there is no object ${uid}`);
        const revision = this.#options.revision + this.#changes.length + 1;
        set(this.#objects, uid, undefined);
        set(this.#names, nameText(object), undefined);
        add(countKey(object), -1);
        add(bytesKey(object), -object.body.byteLength);
        this.#changes.push({
          revision,
          op: 'remove',
          object,
          chain,
          chainPrevious: link(chain, revision),
          timeMs: this.#options.nowMs,
          previousRevision: object.revision,
          previous: object,
        });
        this.#bytes += object.body.byteLength;
      },
      remember: (uid, fingerprint) => {
        whileOpen();
        if (!write.request) throw new Error('a write without a request id remembered one');
        const key = requestText(write.request);
        set(this.#remembered, key, { uid, fingerprint });
        set(this.#newRequests, key, { ...write.request, uid, fingerprint, timeMs: this.#options.nowMs });
      },
    };
    try {
      return write.apply(view);
    } catch (error) {
      for (let i = undo.length - 1; i >= 0; i -= 1) undo[i]?.();
      this.#changes.length = changes;
      this.#bytes = bytes;
      throw error;
    } finally {
      open = false;
    }
  }

  /** What all the writes together leave behind. */
  outcome(): Outcome {
    const gone: string[] = [];
    const inserts: StoredObject[] = [];
    const updates: StoredObject[] = [];
    for (const uid of new Set(this.#changes.map((change) => change.object.uid))) {
      const before = this.#original.get(uid);
      const after = this.#objects.get(uid);
      if (before !== undefined && after !== undefined && foundAlike(before, after)) updates.push(after);
      else {
        if (before !== undefined) gone.push(uid);
        if (after !== undefined) inserts.push(after);
      }
    }
    return {
      changes: this.#changes,
      gone,
      inserts,
      updates,
      chainHeads: this.#heads,
      usage: this.#usage,
      requests: [...this.#newRequests.values()],
    };
  }
}

const foundAlike = (a: StoredObject, b: StoredObject): boolean =>
  nameText(a) === nameText(b) && a.assigneeUid === b.assigneeUid && a.createTimeMs === b.createTimeMs;

/** Says whose name is taken. */
export const nameTaken = (key: NameKey): AlreadyExistsError =>
  new AlreadyExistsError(`there is a ${key.kind} with the name ${JSON.stringify(key.name)} already`);
