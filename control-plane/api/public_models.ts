import { create } from '@bufbuild/protobuf';
import { BayModelSchema } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import { DeniedError } from '../domain/errors.ts';
import type { KindName, Kinds } from '../domain/kinds.ts';
import type { ObjectMessage } from '../domain/object.ts';
import { mayUse, type Principal } from '../domain/principal.ts';
import { decode, encode, type StoredRecord } from '../domain/record.ts';
import type { ListPage, ListPosition, ListQuery, Store, StoredObject, WatchItem } from '../store/port.ts';

const pageSize = 500;

/** What was found of bodies: each change goes to the watchers of all projects, and all are given the same. */
const found = new WeakMap<Uint8Array, boolean>();

/** Whether every project may see a stored BayModel. */
export function isPublic(stored: Pick<StoredRecord, 'kind' | 'body' | 'revision'>): boolean {
  if (stored.kind !== 'BayModel') return false;
  const known = found.get(stored.body);
  if (known !== undefined) return known;
  const shown = decode('BayModel', stored).spec?.public === true;
  found.set(stored.body, shown);
  return shown;
}

/** Throws DeniedError when somebody else than an admin makes a BayModel public, or takes that back. */
export function checkPublic({ subject, role }: Principal, kind: KindName, was: boolean, after: ObjectMessage): void {
  if (kind !== 'BayModel' || role === 'admin') return;
  const is = (after as Kinds['BayModel']).spec?.public ?? false;
  if (was === is) return;
  throw new DeniedError(
    `${subject} has role ${role}, and only an admin says whether a baymodel is public: bay_model.spec.public has to stay ${was}`,
  );
}

/** The BayModels that every project sees, kept from the change feed: there are few, and every project's lists have them. */
export class PublicModels {
  readonly #store: Store;
  readonly #byUid = new Map<string, StoredObject>();
  #end: () => void = () => undefined;

  private constructor(store: Store) {
    this.#store = store;
  }

  /** Reads what is there, and follows the feed from then on. */
  static async open(store: Store): Promise<PublicModels> {
    const models = new PublicModels(store);
    const heard = new Map<string, number>();
    models.#end = store.subscribe(
      (changes) => {
        for (const { op, object, revision } of changes) {
          heard.set(object.uid, revision);
          models.#put(object, op === 'put' && isPublic(object));
        }
      },
      { kind: 'BayModel' },
    );
    let after: StoredObject | undefined;
    for (;;) {
      const page = await store.list({ kind: 'BayModel', orderBy: 'name', descending: false, after, limit: pageSize });
      // The feed may have said something newer meanwhile.
      for (const stored of page.objects) if (!heard.has(stored.uid)) models.#put(stored, isPublic(stored));
      after = page.objects.at(-1);
      if (!page.more || !after) break;
    }
    heard.clear();
    return models;
  }

  close(): void {
    this.#end();
  }

  /** That of another project, by name or uid; of several with a name, the oldest. */
  find({ name, uid }: { readonly name?: string; readonly uid?: string }): StoredObject | undefined {
    if (uid) return this.#byUid.get(uid);
    const named = [...this.#byUid.values()].filter((stored) => stored.name === name);
    return named.sort((a, b) => a.createTimeMs - b.createTimeMs || compareText(a.uid, b.uid))[0];
  }

  /** A page of the caller's own BayModels and those that are public, in the order that is asked for. */
  async list(query: ListQuery): Promise<ListPage> {
    const own = await this.#store.list(query);
    const order = (a: ListPosition, b: ListPosition): number =>
      (query.descending ? -1 : 1) * compare(query.orderBy, a, b);
    const last = own.objects.at(-1);
    const { after } = query;
    const others = [...this.#byUid.values()]
      .filter((stored) => stored.project !== query.project && (!after || order(stored, after) > 0))
      .sort(order);
    // Those that come after the last of this page are for a later one: more of the own may come before them.
    const due = own.more && last ? others.filter((stored) => order(stored, last) < 0) : others;
    const all = [...own.objects, ...due].sort(order);
    return {
      objects: all.slice(0, query.limit),
      revision: own.revision,
      more: own.more || all.length > query.limit || due.length < others.length,
    };
  }

  #put(stored: StoredObject, shown: boolean): void {
    if (shown) this.#byUid.set(stored.uid, stored);
    else this.#byUid.delete(stored.uid);
  }
}

/**
 * Of the changes of all BayModels, those of the caller's own and of public ones, as the caller has to see them: one that becomes public has been made,
 * and one that is not any more is gone, as it was last.
 */
export async function* visibleItems(items: AsyncIterable<WatchItem>, principal: Principal): AsyncGenerator<WatchItem> {
  const visible = (stored: StoredObject): boolean => mayUse(principal, stored.project) || isPublic(stored);
  for await (const item of items) {
    if (item.type === 'snapshot') {
      if (visible(item.object)) yield item;
    } else if (item.type !== 'change') {
      yield item;
    } else {
      const { change } = item;
      const { object, previous } = change;
      const is = visible(object);
      // What was before may be forgotten by now. Of another project's, nothing is told that is not known to have been public.
      const was = mayUse(principal, object.project) || (previous ? visible(previous) : object.epoch === 1);
      if (is && (was || change.op === 'remove')) yield item;
      else if (is) yield { type: 'change', change: { ...change, previousRevision: 0 } };
      else if (was) yield { type: 'change', change: { ...change, op: 'remove', object: previous ?? nameOnly(object) } };
    }
  }
}

/** A BayModel without what it says now, which is not for the others any more. */
const nameOnly = (stored: StoredObject): StoredObject => {
  const { uid, project, name } = stored;
  return encode('BayModel', create(BayModelSchema, { metadata: { uid, project, name } }), stored)(stored.revision);
};

const compare = (orderBy: ListQuery['orderBy'], a: ListPosition, b: ListPosition): number =>
  (orderBy === 'name' ? compareText(a.name, b.name) : a.createTimeMs - b.createTimeMs) || compareText(a.uid, b.uid);

/** The store's order: that of the bytes of UTF-8. */
const compareText = (a: string, b: string): number => (a === b ? 0 : Buffer.compare(Buffer.from(a), Buffer.from(b)));
