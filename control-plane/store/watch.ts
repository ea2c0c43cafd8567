import { CompactedError } from '../domain/errors.ts';
import type { Change, ListPosition, Store, StoredObject, WatchItem } from './port.ts';
import { WatchInbox } from './watch_inbox.ts';

export interface WatchOptions {
  readonly store: Store;
  readonly kind: string;
  /** Undefined: every project (the control plane itself only). */
  readonly project?: string;
  readonly bayUid?: string;
  readonly namespace?: string;
  readonly name?: string;
  /** Go on after this revision, without a snapshot. Undefined: begin with a snapshot. */
  readonly sinceRevision?: number;
  /** A watcher that lets more changes pile up is cut off. Default 4096, and 16 MiB of objects. */
  readonly maxBuffered?: number;
  readonly maxBufferedBytes?: number;
  /** Ends the watch, and frees what it holds at once. */
  readonly signal: AbortSignal;
  /** How often to send a bookmark when other changes have gone by. Default 10 s. */
  readonly bookmarkMs?: number;
  /** How many objects or old changes to read at a time. Default 500. */
  readonly pageSize?: number;
}

/** What is read of a snapshot, or of old changes, and not taken yet is held for each watcher by itself, for as long as it likes. */
const maxPageBytes = 256 * 1024;

/**
 * Watches objects: a snapshot and then exactly the changes after it, or exactly the changes after a revision. Nothing is missing and
 * nothing comes twice, whatever is written meanwhile. It begins when it is first asked for an item, and ends with its signal.
 *
 * Snapshots are read in pages, each as fast as the watcher takes it; what changed in the pages before the last one comes as changes
 * ahead of `synced`.
 *
 * Throws CompactedError when the revision to go on from is not kept (or has never been), ExhaustedError when the watcher is too slow.
 */
export const openWatch = (options: WatchOptions): AsyncIterable<WatchItem> => ({
  [Symbol.asyncIterator]: () => watch(options),
});

async function* watch(options: WatchOptions): AsyncGenerator<WatchItem, void, undefined> {
  const { store, kind, project, bayUid, signal, sinceRevision } = options;
  if (signal.aborted) return;
  const inbox = new WatchInbox({
    maxBuffered: options.maxBuffered ?? 4096,
    maxBufferedBytes: options.maxBufferedBytes ?? 16 * 1024 * 1024,
  });
  // What is said before the inbox has its turn; here, so that it goes when the watch is cut off.
  let page: WatchItem[] = [];
  let bookmarkDue = false;
  const stop = (): void => {
    unsubscribe();
    clearInterval(timer);
    signal.removeEventListener('abort', stop);
    page = [];
    inbox.end();
  };
  const unsubscribe = store.subscribe(
    (changes) => {
      const ours =
        options.name === undefined && options.namespace === undefined ? changes : changes.filter(concerns(options));
      if (ours.length > 0 && !inbox.add(ours)) stop();
    },
    { kind, project, bayUid },
  );
  const timer = setInterval(() => {
    bookmarkDue = true;
    inbox.wake();
  }, options.bookmarkMs ?? 10_000);
  timer.unref();
  signal.addEventListener('abort', stop, { once: true });
  const subscribedAt = store.revision;
  try {
    let revision = subscribedAt;
    const nextPage =
      sinceRevision === undefined
        ? snapshot(options, inbox)
        : history(options, inbox, sinceRevision, Math.max(subscribedAt, sinceRevision));
    for (let end: number | undefined; end === undefined; ) {
      const next = await nextPage();
      if (inbox.ended) return;
      page = next.items;
      end = next.end;
      for (let i = 0; i < page.length; i += 1) {
        const item = page[i];
        if (item) yield item;
        if (inbox.ended) return;
      }
      page = [];
      if (end !== undefined) revision = end;
    }
    for (let change = inbox.shift(revision); change; change = inbox.shift(revision)) {
      yield toItem(change);
      if (inbox.ended) return;
    }
    yield { type: 'synced', revision };
    while (!inbox.ended) {
      const change = inbox.shift();
      if (change) {
        revision = change.revision;
        yield toItem(change);
      } else if (bookmarkDue && store.revision > revision) {
        bookmarkDue = false;
        revision = store.revision;
        yield { type: 'bookmark', revision };
      } else {
        bookmarkDue = false;
        await inbox.sleep();
      }
    }
  } finally {
    stop();
  }
}

const toItem = (change: Change): WatchItem => ({ type: 'change', change, previous: change.previous });

const concerns =
  ({ namespace, name }: WatchOptions) =>
  ({ object }: Change): boolean =>
    (namespace === undefined || object.namespace === namespace) && (name === undefined || object.name === name);

/**
 * Reads the next page; with the last one comes the revision that is reached then. A function, not a generator: it must not keep a page
 * alive while nobody asks for the next.
 */
type Pager = () => Promise<{ readonly items: WatchItem[]; readonly end?: number }>;

/**
 * The objects, page by page. What the inbox holds up to the revision of the last page is then what happened to pages that had been
 * read before, and everything else up to it has been dropped.
 */
const snapshot = (options: WatchOptions, inbox: WatchInbox): Pager => {
  const { store, kind, project, bayUid, namespace, name, signal } = options;
  const wanted = (object: StoredObject): boolean => name === undefined || object.name === name;
  // One name in one namespace: its place in the order is known, and it is one object when project and bay are given.
  const only =
    name !== undefined && namespace !== undefined ? { namespace, name, uid: '', createTimeMs: 0 } : undefined;
  const single = only !== undefined && project !== undefined && bayUid !== undefined;
  const limit = single ? 1 : (options.pageSize ?? 500);
  let after: ListPosition | undefined = only;
  return async () => {
    const page = await store.list({
      kind,
      project,
      bayUid,
      namespace,
      orderBy: 'name',
      descending: false,
      after,
      limit,
      maxBytes: single ? undefined : maxPageBytes,
    });
    // The read may know of a commit that the listeners have yet to hear of.
    await untilRevision(store, page.revision, signal);
    const from = after;
    inbox.drop((change) => change.revision <= page.revision && (!from || comparePosition(change.object, from) > 0));
    const last = page.objects.at(-1);
    after = last && positionOf(last);
    const isEnd = !page.more || !last || single || (only && last.name !== only.name);
    return {
      items: page.objects.filter(wanted).map((object) => ({ type: 'snapshot', object })),
      end: isEnd ? page.revision : undefined,
    };
  };
};

/** The changes after `since`, page by page, up to `until`: what comes after is in the inbox. */
const history = (options: WatchOptions, inbox: WatchInbox, since: number, until: number): Pager => {
  const { store, kind, project, bayUid, signal } = options;
  const pageSize = options.pageSize ?? 500;
  let revision = since;
  return async () => {
    if (revision > store.revision) {
      const { revision: head } = await store.list({
        kind,
        project,
        bayUid,
        orderBy: 'name',
        descending: false,
        limit: 1,
      });
      // From another life of this store: a backup was put back.
      if (revision > head) throw new CompactedError(revision, head);
      await untilRevision(store, revision, signal);
    }
    inbox.drop((change) => change.revision <= until);
    const changes = await store.changesSince(revision, pageSize, { kind, project, bayUid }, maxPageBytes);
    const last = changes.at(-1);
    const isEnd = !last || last.revision >= until;
    revision = last?.revision ?? revision;
    return {
      items: changes.filter((change) => change.revision <= until && concerns(options)(change)).map(toItem),
      end: isEnd ? until : undefined,
    };
  };
};

const positionOf = ({ namespace, name, createTimeMs, uid }: StoredObject): ListPosition => ({
  namespace,
  name,
  createTimeMs,
  uid,
});

/** Resolves when the listeners have heard of this revision, or the signal says that nobody wants to know. */
const untilRevision = async (store: Store, revision: number, signal: AbortSignal): Promise<void> => {
  if (store.revision >= revision || signal.aborted) return;
  await new Promise<void>((resolve) => {
    const done = (): void => {
      unsubscribe();
      signal.removeEventListener('abort', done);
      resolve();
    };
    const unsubscribe = store.subscribe(() => {
      if (store.revision >= revision) done();
    });
    signal.addEventListener('abort', done, { once: true });
  });
};

/** The order of `list` by name: that of the bytes of UTF-8, which is not that of JavaScript's strings. */
const comparePosition = (a: ListPosition, b: ListPosition): number =>
  compareText(a.namespace, b.namespace) || compareText(a.name, b.name) || compareText(a.uid, b.uid);

const compareText = (a: string, b: string): number => (a === b ? 0 : Buffer.compare(Buffer.from(a), Buffer.from(b)));
