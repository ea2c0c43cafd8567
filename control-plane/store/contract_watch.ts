import type { ExecutionContext } from 'ava';
import { CompactedError, ExhaustedError } from '../domain/errors.ts';
import type { ContractTest } from './contract_bed.ts';
import { lateStore } from './contract_late_store.ts';
import { makeObject, put, remove, together } from './contract_objects.ts';
import type { Store, WatchItem } from './port.ts';
import { openWatch, type WatchOptions } from './watch.ts';

/** A watch with its iterator, read item by item. */
export interface Watcher {
  next(): Promise<WatchItem | undefined>;
  /** The next so many items, in short. */
  take(count: number): Promise<string[]>;
  abort(): void;
}

export const startWatch = (store: Store, options: Partial<WatchOptions> = {}): Watcher => {
  const controller = new AbortController();
  const watch = openWatch({
    store,
    kind: 'Container',
    project: 'red',
    bayUid: 'bay-1',
    signal: controller.signal,
    ...options,
  });
  const iterator = watch[Symbol.asyncIterator]();
  const next = async (): Promise<WatchItem | undefined> => (await iterator.next()).value;
  return {
    next,
    take: async (count) => {
      const items: string[] = [];
      while (items.length < count) items.push(short(await next()));
      return items;
    },
    abort: () => controller.abort(),
  };
};

const short = (item: WatchItem | undefined): string => {
  switch (item?.type) {
    case undefined:
      return 'end';
    case 'snapshot':
      return `snapshot ${item.object.name}@${item.object.revision}`;
    case 'change':
      return `${item.change.op} ${item.change.object.name}@${item.change.revision}`;
    case 'synced':
    case 'bookmark':
      return `${item.type} @${item.revision}`;
  }
};

/** What a watch on any store must do. */
export const watchContract = (check: ContractTest): void => {
  check('a watch is a snapshot and then the changes', async (t, store) => {
    const [a, b] = [makeObject({ name: 'a' }), makeObject({ name: 'b' })];
    await store.write(put(b));
    await store.write(put(a));
    await store.write(put(makeObject({ name: 'c', bayUid: 'bay-2' })));
    const watch = startWatch(store);
    t.deepEqual(await watch.take(3), ['snapshot a@2', 'snapshot b@1', 'synced @3']);
    const next = watch.next();
    await store.write(put(makeObject({ name: 'd', bayUid: 'bay-2' })));
    await store.write(put({ ...a, generation: 2 }));
    const item = await next;
    t.is(item?.type === 'change' && item.previous?.generation, 1);
    await store.write(remove(b.uid));
    t.deepEqual(await watch.take(1), ['remove b@6']);
    watch.abort();
    t.is(await watch.next(), undefined);
  });

  check('a watch of nothing is in step at once', async (t, store) => {
    const watch = startWatch(store);
    t.deepEqual(await watch.take(1), ['synced @0']);
    watch.abort();
    t.deepEqual(await startWatch(store, { signal: AbortSignal.abort() }).take(1), ['end']);
  });

  check('a watch of one name, and of one namespace, sees no other', async (t, store) => {
    const objects = ['a', 'b', 'c'].map((name) => makeObject({ name }));
    for (const object of objects) await store.write(put(object));
    await store.write(put(makeObject({ name: 'b', namespace: 'other' })));
    const watches: [Partial<WatchOptions>, string[]][] = [
      [{ name: 'b', namespace: 'default' }, ['snapshot b@2']],
      [{ name: 'b', namespace: 'default', bayUid: undefined }, ['snapshot b@2']],
      [{ name: 'b' }, ['snapshot b@2', 'snapshot b@4']],
      [{ namespace: 'other' }, ['snapshot b@4']],
      [{ name: 'bb', namespace: 'default' }, []],
      [{ name: 'z', namespace: 'default' }, []],
    ];
    for (const [options, expected] of watches) {
      for (const pageSize of [1, 2, 100]) {
        const watch = startWatch(store, { ...options, pageSize });
        t.deepEqual(await watch.take(expected.length + 1), [...expected, 'synced @4'], JSON.stringify(options));
        watch.abort();
      }
    }
    const watch = startWatch(store, { name: 'z', namespace: 'default' });
    await watch.take(1);
    await store.write(put(makeObject({ name: 'y' })));
    await store.write(put(makeObject({ name: 'z' })));
    t.deepEqual(await watch.take(1), ['put z@6']);
    watch.abort();
  });

  check('what changes in pages that were read comes before the watch is in step', async (t, store) => {
    const objects = ['a', 'b', 'c', 'd'].map((name) => makeObject({ name }));
    for (const object of objects) await store.write(put(object));
    const watch = startWatch(store, { pageSize: 2 });
    t.deepEqual(await watch.take(2), ['snapshot a@1', 'snapshot b@2']);
    for (const object of objects) await store.write(put({ ...object, generation: 2 }));
    await store.write(remove(objects[1]?.uid ?? ''));
    await store.write(remove(objects[3]?.uid ?? ''));
    await store.write(put(makeObject({ name: 'aa' })));
    const expected = ['snapshot c@7', 'put a@5', 'put b@6', 'remove b@9', 'put aa@11', 'synced @11'];
    t.deepEqual(await watch.take(6), expected);
    watch.abort();
  });

  check('a watch goes on from a revision', async (t, store) => {
    const a = makeObject({ name: 'a' });
    for (const pageSize of [1, 2, 100]) {
      const start = store.revision;
      for (let i = 1; i <= 9; i += 1) {
        await store.write(put({ ...a, generation: i }));
        await store.write(put(makeObject({ name: `o-${start + i}`, kind: 'Pod' })));
      }
      const watch = startWatch(store, { sinceRevision: start + 12, pageSize });
      const first = await watch.next();
      t.is(first?.type === 'change' && first.previous?.generation, 6);
      t.deepEqual(await watch.take(3), [`put a@${start + 15}`, `put a@${start + 17}`, `synced @${start + 18}`]);
      await store.write(remove(a.uid));
      t.deepEqual(await watch.take(1), [`remove a@${start + 19}`]);
      watch.abort();
      const late = startWatch(store, { sinceRevision: start + 19, pageSize });
      t.deepEqual(await late.take(1), [`synced @${start + 19}`]);
      late.abort();
    }
  });

  check('a watch goes on from a revision that its listeners have yet to hear of', async (t, store) => {
    const a = makeObject({ name: 'a' });
    const late = lateStore(store, 300);
    await store.write(together(put(a), put({ ...a, generation: 2 })));
    const watch = startWatch(late, { sinceRevision: 2 });
    const first = watch.take(1);
    t.true(late.revision < 2);
    t.deepEqual(await first, ['synced @2']);
    await store.write(put({ ...a, generation: 3 }));
    t.deepEqual(await watch.take(1), ['put a@3']);
    watch.abort();
  });

  check('a watch cannot go on from what is forgotten, or has never been', async (t, store) => {
    const a = makeObject({ name: 'a' });
    for (let i = 1; i <= 5; i += 1) await store.write(put({ ...a, generation: i }));
    await store.compact(4, 0);
    await t.throwsAsync(startWatch(store, { sinceRevision: 2 }).next(), { instanceOf: CompactedError });
    await t.throwsAsync(startWatch(store, { sinceRevision: 6 }).next(), { instanceOf: CompactedError });
    t.deepEqual(await startWatch(store, { sinceRevision: 3 }).take(3), ['put a@4', 'put a@5', 'synced @5']);
  });

  check('bookmarks tell of changes that do not concern the watch, and only then', async (t, store) => {
    const watch = startWatch(store, { bookmarkMs: 5 });
    await watch.take(1);
    const next = watch.take(1);
    await settle(20);
    await store.write(put(makeObject({ name: 'p', kind: 'Pod' })));
    t.deepEqual(await next, ['bookmark @1']);
    const more = watch.take(1);
    await settle(20);
    await store.write(put(makeObject({ name: 'a' })));
    t.deepEqual(await more, ['put a@2']);
    watch.abort();
  });

  check('a watcher that is too slow is cut off, and holds nothing', async (t, store) => {
    const a = makeObject({ name: 'a' });
    for (const bounds of [{ maxBuffered: 10 }, { maxBufferedBytes: 100 }]) {
      const watch = startWatch(counted(t, store), bounds);
      const quick = startWatch(store, bounds);
      await Promise.all([watch.next(), quick.next()]);
      let read = 0;
      for (let i = 0; i < 30; i += 1) {
        await store.write(put({ ...a, generation: i }));
        await quick.next();
        read += 1;
      }
      t.is(read, 30);
      t.is(listeners.get(t), 0);
      await t.throwsAsync(watch.next(), { instanceOf: ExhaustedError });
      t.is(await watch.next(), undefined);
      quick.abort();
      await store.write(remove(a.uid));
    }
  });

  check('the end of a watch frees it, whatever it is doing', async (t, store) => {
    for (let i = 0; i < 10; i += 1) await store.write(put(makeObject({ name: `o-${i}` })));
    const seen = counted(t, store);
    // In a page of the snapshot, with changes waiting, and waiting for one.
    for (const items of [0, 1, 11]) {
      const watch = startWatch(seen, { pageSize: 5 });
      await watch.take(items);
      await store.write(put(makeObject({ name: `x-${items}` })));
      const pending = items === 0 ? watch.next() : undefined;
      watch.abort();
      t.is(listeners.get(t), 0);
      t.is((await pending) ?? (await watch.next()), undefined);
    }
    const controller = new AbortController();
    for await (const item of openWatch({ store: seen, kind: 'Container', signal: controller.signal })) {
      t.truthy(item);
      break;
    }
    t.is(listeners.get(t), 0);
  });
};

const listeners = new WeakMap<ExecutionContext, number>();

/** The same store, counting who listens. */
const counted = (t: ExecutionContext, store: Store): Store => {
  listeners.set(t, 0);
  return new Proxy(store, {
    get: (target, property) => {
      if (property === 'subscribe') {
        return (...args: Parameters<Store['subscribe']>) => {
          listeners.set(t, (listeners.get(t) ?? 0) + 1);
          const end = target.subscribe(...args);
          let ended = false;
          return () => {
            if (!ended) listeners.set(t, (listeners.get(t) ?? 0) - 1);
            ended = true;
            end();
          };
        };
      }
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
};

/** Time in which nothing is to happen. */
const settle = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
