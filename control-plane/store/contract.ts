import type { ExecutionContext, TestFn } from 'ava';
import {
  AlreadyExistsError,
  CompactedError,
  InvalidError,
  NotFoundError,
  PreconditionError,
  UnavailableError,
} from '../domain/errors.ts';
import { create, failing, makeObject, nameKey, plain, put, remove, together } from './contract_objects.ts';
import { propertyContract } from './contract_properties.ts';
import { watchContract } from './contract_watch.ts';
import type { Change, ListQuery, Store, StoredObject, Write } from './port.ts';

/** A store to test, empty at first. */
export interface StoreBed {
  readonly store: Store;
  /** The time that the store sees. */
  readonly clock: { nowMs: number };
  /** Closes the store and opens it again with what it holds. */
  reopen(): Promise<Store>;
  /** Closes the store and removes what it holds. */
  dispose(): Promise<void>;
}

export type ContractTest = (
  title: string,
  body: (t: ExecutionContext, store: Store, bed: StoreBed) => Promise<void>,
) => void;

/** What every store must do. Declares its tests with `test`; each opens a store of its own. */
export const storeContract = (test: TestFn, open: () => Promise<StoreBed>): void => {
  const check: ContractTest = (title, body) =>
    test(title, async (t) => {
      const bed = await open();
      try {
        await body(t, bed.store, bed);
      } finally {
        await bed.dispose();
      }
    });
  writes(check);
  requests(check);
  lists(check);
  chains(check);
  feed(check);
  watchContract(check);
  propertyContract(test, open);
};

const anyOf = (changes: readonly Change[]): unknown[] => changes.map((c) => [c.revision, c.op, c.object.name]);

const writes = (check: ContractTest): void => {
  check('an object is read back as it was put, by uid and by name', async (t, store) => {
    const object = makeObject({
      name: 'wéb-\u{1F6A2}-"\'\\',
      namespace: '',
      nodeUid: 'node-1',
      generation: 7,
      deleting: true,
      epoch: 2 ** 40,
      sequence: 2 ** 50,
      createTimeMs: 1_770_000_000_000,
      body: new Uint8Array([0, 255, 1, 0]),
    });
    const written = await store.write(put(object));
    t.is(written.revision, 1);
    t.deepEqual(plain(await store.get({ uid: object.uid })), plain({ ...object, revision: 1 }));
    t.deepEqual(plain(await store.get(nameKey(object.name, object))), plain({ ...object, revision: 1 }));
    t.is(await store.get({ uid: 'none' }), undefined);
    t.is(await store.get(nameKey(object.name, { ...object, project: 'blue' })), undefined);
    t.is(await store.get(nameKey('a\0b')), undefined);
  });

  check('an empty body and a large one are read back', async (t, store) => {
    const empty = makeObject({ name: 'empty', body: new Uint8Array() });
    const large = makeObject({ name: 'large', body: Buffer.alloc(3_000_000, 'x') });
    await store.write(put(empty));
    await Promise.all([store.write(put(large)), store.write(put({ ...empty, generation: 2 }))]);
    t.is((await store.get({ uid: empty.uid }))?.body.byteLength, 0);
    t.true(Buffer.from((await store.get({ uid: large.uid }))?.body ?? []).equals(large.body));
  });

  check('revisions have no gap, over concurrency, failures and restarts', async (t, store, bed) => {
    const error = new PreconditionError('no');
    const all = Array.from({ length: 100 }, (_, i) =>
      i % 3 === 0
        ? store.write(failing(error, put(makeObject({ name: `f-${i}` }), 'node-1')))
        : store.write(put(makeObject({ name: `o-${i}` }), 'node-1')),
    );
    const results = await Promise.allSettled(all);
    t.true(
      results.every((r, i) => (i % 3 === 0 ? r.status === 'rejected' && r.reason === error : r.status === 'fulfilled')),
    );
    t.is(store.revision, 66);
    const again = await bed.reopen();
    t.is(again.revision, 66);
    t.is((await again.write(put(makeObject({ name: 'last' }), 'node-1'))).revision, 67);
    const changes = await again.changesSince(0, 1000);
    t.deepEqual(
      changes.map((c) => [c.revision, c.chainPrevious]),
      Array.from({ length: 67 }, (_, i) => [i + 1, i]),
    );
  });

  check('a write that throws leaves nothing, and its neighbours see nothing of it', async (t, store) => {
    const kept = makeObject({ name: 'kept' });
    const gone = makeObject({ name: 'gone' });
    const old = await store.write(put(kept));
    const failed = store.write(
      failing(new PreconditionError('no'), put({ ...kept, generation: 2 }, 'n'), put(gone), remove(kept.uid)),
    );
    const after = store.write({
      reads: [{ uid: kept.uid }, nameKey('gone')],
      apply: (view) => [view.get({ uid: kept.uid }), view.get(nameKey('gone'))],
    });
    await t.throwsAsync(failed, { instanceOf: PreconditionError });
    t.deepEqual((await after).map(plain), [plain(old), undefined]);
    t.is((await store.assigned('n')).head, 0);
    t.is(store.revision, 1);
  });

  check('of two objects with one name the second is refused, and can have it once it is free', async (t, store) => {
    const [a, b] = [makeObject({ name: 'web' }), makeObject({ name: 'web' })];
    const first = store.write(create(a));
    await t.throwsAsync(store.write(create(b)), { instanceOf: AlreadyExistsError });
    await first;
    await t.throwsAsync(store.write(create(b)), { instanceOf: AlreadyExistsError });
    await Promise.all([store.write(remove(a.uid)), store.write(create(b))]);
    t.is((await store.get(nameKey('web')))?.uid, b.uid);
    // In the other bay, namespace, project and kind it is another name.
    for (const rest of [{ bayUid: 'bay-2' }, { namespace: 'n' }, { project: 'blue' }, { kind: 'Pod' }]) {
      await store.write(create(makeObject({ name: 'web', ...rest })));
    }
    t.is(store.revision, 7);
  });

  check('a name is free again within the batch, and within the write, that removes its holder', async (t, store) => {
    const [a, b, c] = [
      makeObject({ name: 'web', nodeUid: 'n1' }),
      makeObject({ name: 'web' }),
      makeObject({ name: 'web' }),
    ];
    await store.write(put(a));
    await Promise.all([
      store.write(together(remove(a.uid), create(b))),
      store.write(together(remove(b.uid), create(c), remove(c.uid), put(a))),
      store.write(put({ ...a, nodeUid: 'n2', createTimeMs: 5 })),
    ]);
    t.deepEqual(plain(await store.get(nameKey('web'))), plain({ ...a, nodeUid: 'n2', createTimeMs: 5, revision: 8 }));
    t.is((await store.assigned('n1')).objects.length, 0);
    t.is((await store.assigned('n2')).objects.length, 1);
  });

  check('a uid that is taken is refused although nobody looked, and hurts no neighbour', async (t, store) => {
    const a = makeObject({ name: 'a' });
    await store.write(create(a));
    const results = await Promise.allSettled([
      store.write(create(makeObject({ name: 'b' }))),
      store.write(create(makeObject({ name: 'c', uid: a.uid }))),
      store.write(create(makeObject({ name: 'd' }))),
    ]);
    t.deepEqual(
      results.map((r) => (r.status === 'fulfilled' ? r.value.revision : r.reason.constructor)),
      [2, AlreadyExistsError, 3],
    );
    t.is((await store.get({ uid: a.uid }))?.name, 'a');
  });

  check('what a write has not announced it cannot read, put or remove', async (t, store) => {
    const a = makeObject({ name: 'a' });
    await store.write(put(a));
    const wrong: Write<unknown>[] = [
      { reads: [], apply: (view) => view.get({ uid: a.uid }) },
      { reads: [{ uid: a.uid }], apply: (view) => view.get(nameKey('a')) },
      { reads: [], apply: (view) => view.put((revision) => ({ ...a, revision }), '') },
      { reads: [], apply: (view) => view.remove(a.uid, '') },
      { reads: [{ uid: a.uid }], apply: (view) => view.put((revision) => ({ ...a, revision: revision + 1 }), '') },
      { reads: [{ uid: a.uid }], apply: (view) => view.put((revision) => ({ ...a, epoch: 0.5, revision }), '') },
      { reads: [{ uid: a.uid }], apply: (view) => view.remember('u', 'f') },
      put({ ...a, name: 'b' }),
    ];
    for (const write of wrong) await t.throwsAsync(store.write(write), undefined, String(write.apply));
    await t.throwsAsync(store.write(put(makeObject({ name: 'a\0b' }))), { instanceOf: InvalidError });
    await t.throwsAsync(store.write(put(makeObject({ name: '\ud800' }))), { instanceOf: InvalidError });
    await t.throwsAsync(store.write({ reads: [{ uid: 'x' }], apply: (view) => view.remove('x', '') }), {
      instanceOf: NotFoundError,
    });
    let kept: (() => unknown) | undefined;
    await store.write({
      reads: [{ uid: a.uid }],
      apply: (view) => {
        kept = () => view.get({ uid: a.uid });
      },
    });
    t.throws(() => kept?.());
    t.is(store.revision, 1);
  });

  check('an object that a write has put is there for the rest of it', async (t, store) => {
    const a = makeObject({ name: 'a' });
    const seen = await store.write({
      reads: [nameKey('a')],
      apply: (view) => {
        const before = view.get(nameKey('a'));
        view.put((revision) => ({ ...a, revision }), '');
        const after = [view.get(nameKey('a')), view.get({ uid: a.uid })];
        view.remove(a.uid, '');
        return [before, ...after, view.get({ uid: a.uid })].map((o) => o?.revision);
      },
    });
    t.deepEqual(seen, [undefined, 1, 1, undefined]);
    t.is(await store.get({ uid: a.uid }), undefined);
    t.deepEqual(anyOf(await store.changesSince(0, 10)), [
      [1, 'put', 'a'],
      [2, 'remove', 'a'],
    ]);
  });

  check('a closed store has done what was asked before, and refuses the rest', async (t, store, bed) => {
    const before = Array.from({ length: 20 }, (_, i) => store.write(put(makeObject({ name: `o-${i}` }))));
    const closing = store.close();
    await t.throwsAsync(store.write(put(makeObject({ name: 'late' }))), { instanceOf: UnavailableError });
    await closing;
    t.is((await Promise.all(before)).length, 20);
    await t.throwsAsync(store.get({ uid: 'x' }), { instanceOf: UnavailableError });
    await t.throwsAsync(store.compact(1, 1), { instanceOf: UnavailableError });
    t.is((await bed.reopen()).revision, 20);
  });
};

const requests = (check: ContractTest): void => {
  const once = (requestId: string, uid: string): Write<string> => ({
    reads: [],
    request: { project: 'red', requestId },
    apply: (view) => {
      if (view.remembered) return `${view.remembered.uid} ${view.remembered.fingerprint}`;
      view.remember(uid, `print of ${uid}`);
      return 'new';
    },
  });

  check('a request id means what it meant first, until it is forgotten', async (t, store, bed) => {
    bed.clock.nowMs = 5000;
    const asked = [store.write(once('r1', 'u1')), store.write(once('r1', 'u2'))];
    t.deepEqual(await Promise.all(asked), ['new', 'u1 print of u1']);
    bed.clock.nowMs = 9000;
    t.is(await store.write(once('r2', 'u2')), 'new');
    const again = await bed.reopen();
    t.is(await again.write(once('r1', 'u3')), 'u1 print of u1');
    t.is(await again.write({ ...once('r1', 'u4'), request: { project: 'blue', requestId: 'r1' } }), 'new');
    await again.compact(0, 6000);
    t.is(await again.write(once('r2', 'u5')), 'u2 print of u2');
    t.is(await again.write(once('r1', 'u6')), 'new');
  });

  check('what a failed write remembered is forgotten', async (t, store) => {
    const write = once('r', 'u');
    const failed = store.write({
      ...write,
      apply: (view) => {
        view.remember('u', 'f');
        throw new PreconditionError('no');
      },
    });
    const next = store.write(write);
    await t.throwsAsync(failed, { instanceOf: PreconditionError });
    t.is(await next, 'new');
  });
};

const lists = (check: ContractTest): void => {
  const base: ListQuery = { kind: 'Container', orderBy: 'name', descending: false, limit: 100 };
  const names = (objects: readonly StoredObject[]): string[] => objects.map((o) => o.name);

  check('a list has what matches, and the revision that it shows', async (t, store) => {
    t.deepEqual(await store.list(base), { objects: [], revision: 0, more: false });
    const all = [
      makeObject({ name: 'a' }),
      makeObject({ name: 'b', namespace: 'n' }),
      makeObject({ name: 'c', bayUid: 'bay-2' }),
      makeObject({ name: 'd', project: 'blue' }),
      makeObject({ name: 'e', kind: 'Pod' }),
      makeObject({ name: 'f', kind: 'Bay', bayUid: '', namespace: '' }),
    ];
    await Promise.all(all.map((object) => store.write(put(object))));
    const list = async (query: Partial<ListQuery>): Promise<string[]> =>
      names((await store.list({ ...base, ...query })).objects);
    t.deepEqual(await list({}), ['a', 'c', 'd', 'b']);
    t.deepEqual(await list({ project: 'red' }), ['a', 'c', 'b']);
    t.deepEqual(await list({ project: 'red', bayUid: 'bay-1' }), ['a', 'b']);
    t.deepEqual(await list({ project: 'red', bayUid: 'bay-1', namespace: 'n' }), ['b']);
    t.deepEqual(await list({ bayUid: 'bay-1' }), ['a', 'd', 'b']);
    t.deepEqual(await list({ kind: 'Bay', project: 'red' }), ['f']);
    t.deepEqual(await list({ kind: 'Bay', bayUid: 'bay-1' }), []);
    t.is((await store.list({ ...base, kind: 'None' })).revision, 6);
    t.is(await store.countInBay('bay-1'), 4);
    await store.write(put(makeObject({ name: 'node', kind: 'Node' })));
    t.is(await store.countInBay('bay-1'), 4);
    t.is(await store.countInBay('none'), 0);
  });

  check('pages join without a gap in every order', async (t, store) => {
    const odd = ['z', 'A', 'é', '\uff5a', '\u{1F6A2}', 'a', 'a-', 'a0', ''];
    const all = odd.flatMap((name, i) => [
      makeObject({ name, createTimeMs: 1000 + (i % 3) }),
      makeObject({ name, namespace: 'n2', createTimeMs: 1000 }),
      makeObject({ name, bayUid: 'bay-2', createTimeMs: 999 }),
    ]);
    await store.write(together(...all.map((object) => put(object))));
    const bytes = (...parts: readonly (string | number)[]): Buffer =>
      Buffer.concat(parts.map((p) => Buffer.from(typeof p === 'number' ? String(p).padStart(20, '0') : `${p}\0`)));
    const orders = {
      name: (o: StoredObject) => bytes(o.namespace, o.name, o.uid),
      createTime: (o: StoredObject) => bytes(o.createTimeMs, o.uid),
    };
    for (const orderBy of ['name', 'createTime'] as const) {
      for (const descending of [false, true]) {
        for (const query of [
          {},
          { project: 'red' },
          { project: 'red', bayUid: 'bay-1' },
          { project: 'red', bayUid: 'bay-1', namespace: 'n2' },
        ]) {
          const expected = all
            .filter((o) => Object.entries(query).every(([field, value]) => o[field as 'project'] === value))
            .sort((a, b) => Buffer.compare(orders[orderBy](a), orders[orderBy](b)) * (descending ? -1 : 1));
          for (const limit of [1, 4, 100]) {
            const seen: string[] = [];
            let after: StoredObject | undefined;
            for (let more = true; more; ) {
              const page = await store.list({ ...base, ...query, orderBy, descending, after, limit });
              seen.push(...page.objects.map((o) => o.uid));
              t.true(page.objects.length <= limit);
              after = page.objects.at(-1);
              more = page.more;
            }
            t.deepEqual(
              seen,
              expected.map((o) => o.uid),
              `${orderBy} ${descending} ${JSON.stringify(query)} ${limit}`,
            );
          }
        }
      }
    }
  });
};

const chains = (check: ContractTest): void => {
  check('a node has what is assigned to it, and the head of its chain', async (t, store, bed) => {
    t.deepEqual(await store.assigned('n1'), { objects: [], head: 0 });
    const a = makeObject({ name: 'a', nodeUid: 'n1' });
    await store.write(put(a, 'n1'));
    await store.write(put(makeObject({ name: 'b', nodeUid: 'n2' }), 'n2'));
    await store.write(put({ ...a, sequence: 1 }));
    const { objects, head } = await store.assigned('n1');
    t.deepEqual([objects.map((o) => [o.name, o.revision]), head], [[['a', 3]], 1]);
    await store.write(remove(a.uid, 'n1'));
    const again = await bed.reopen();
    t.deepEqual(await again.assigned('n1'), { objects: [], head: 4 });
    t.is((await again.assigned('')).objects.length, 0);
  });

  check('a chain gives the newest change of each object after a revision', async (t, store) => {
    const [a, b] = [makeObject({ name: 'a', nodeUid: 'n' }), makeObject({ name: 'b', nodeUid: 'n' })];
    await store.write(put(a, 'n'));
    await store.write(put(b, 'n'));
    await store.write(put({ ...a, generation: 2 }, 'n'));
    await store.write(put(makeObject({ name: 'other' }), 'm'));
    await store.write(put({ ...a, generation: 2, sequence: 1 }));
    await store.write(remove(b.uid, 'n'));
    const since = async (revision: number, limit = 10): Promise<unknown> => {
      const delta = await store.chainSince('n', revision, limit);
      return delta && [anyOf(delta.changes), delta.head];
    };
    const both = [
      [3, 'put', 'a'],
      [6, 'remove', 'b'],
    ];
    t.deepEqual(await since(0), [both, 6]);
    t.deepEqual(await since(0, 2), [both, 6]);
    t.is(await since(0, 1), undefined);
    t.deepEqual(await since(3), [[[6, 'remove', 'b']], 6]);
    t.deepEqual(await since(6), [[], 6]);
    t.deepEqual(await store.chainSince('none', 0, 1), { changes: [], head: 0 });
    const links = (await store.changesSince(0, 10)).map((c) => [c.chain, c.chainPrevious]);
    t.deepEqual(links, [
      ['n', 0],
      ['n', 1],
      ['n', 2],
      ['m', 0],
      ['', 0],
      ['n', 3],
    ]);
  });

  check('a chain that is forgotten in part says so, and goes on from its head', async (t, store, bed) => {
    const a = makeObject({ name: 'a', nodeUid: 'n' });
    for (let i = 1; i <= 3; i += 1) await store.write(put({ ...a, generation: i }, 'n'));
    for (let i = 1; i <= 3; i += 1) await store.write(put(makeObject({ name: `o-${i}` })));
    await store.compact(3, 0);
    t.is(await store.chainSince('n', 1, 10), undefined);
    t.deepEqual(anyOf((await store.chainSince('n', 2, 10))?.changes ?? []), [[3, 'put', 'a']]);
    await store.compact(6, 0);
    t.is(await store.chainSince('n', 2, 10), undefined);
    t.deepEqual(await store.chainSince('n', 3, 10), { changes: [], head: 3 });
    const again = await bed.reopen();
    await again.write(put({ ...a, generation: 4 }, 'n'));
    t.is((await again.changesSince(6, 1))[0]?.chainPrevious, 3);
    t.deepEqual(anyOf((await again.chainSince('n', 3, 10))?.changes ?? []), [[7, 'put', 'a']]);
    t.is(await again.chainSince('n', 2, 10), undefined);
  });
};

const feed = (check: ContractTest): void => {
  check('changes are read in pages, with what was before', async (t, store, bed) => {
    bed.clock.nowMs = 77_000;
    const a = makeObject({ name: 'a' });
    await store.write(put(a));
    await store.write(put({ ...a, generation: 2 }));
    await store.write(put(makeObject({ name: 'p', kind: 'Pod', project: 'blue' })));
    await store.write(remove(a.uid));
    const all = await store.changesSince(0, 10);
    t.deepEqual(
      all.map((c) => [c.revision, c.op, c.object.generation, c.previousRevision, c.previous?.generation, c.timeMs]),
      [
        [1, 'put', 1, 0, undefined, 77_000],
        [2, 'put', 2, 1, 1, 77_000],
        [3, 'put', 1, 0, undefined, 77_000],
        [4, 'remove', 2, 2, 2, 77_000],
      ],
    );
    t.deepEqual(anyOf(await store.changesSince(1, 2)), [
      [2, 'put', 'a'],
      [3, 'put', 'p'],
    ]);
    t.deepEqual(await store.changesSince(4, 2), []);
    t.deepEqual(anyOf(await store.changesSince(0, 2, { kind: 'Container' })), [
      [1, 'put', 'a'],
      [2, 'put', 'a'],
    ]);
    t.deepEqual(anyOf(await store.changesSince(0, 9, { kind: 'Pod', project: 'blue', bayUid: 'bay-1' })), [
      [3, 'put', 'p'],
    ]);
    t.deepEqual(anyOf(await store.changesSince(0, 9, { kind: 'Pod', project: 'red' })), []);
  });

  check('what is forgotten is said so, with where to go on', async (t, store, bed) => {
    const a = makeObject({ name: 'a' });
    for (let i = 1; i <= 5; i += 1) await store.write(put({ ...a, generation: i }));
    await store.compact(3, 0);
    const error = await t.throwsAsync(store.changesSince(1, 10), { instanceOf: CompactedError });
    t.is((error as CompactedError).oldestRevision, 2);
    const kept = await store.changesSince(2, 10);
    t.deepEqual(
      kept.map((c) => [c.revision, c.previousRevision, c.previous?.revision]),
      [
        [3, 2, undefined],
        [4, 3, 3],
        [5, 4, 4],
      ],
    );
    // However much is asked to be forgotten, the newest stays, and the counter goes on.
    await store.compact(1000, 0);
    const again = await bed.reopen();
    t.is(again.revision, 5);
    t.deepEqual(await again.changesSince(5, 10), []);
    await t.throwsAsync(again.changesSince(3, 10), { instanceOf: CompactedError });
    t.is((await again.write(put({ ...a, generation: 6 }))).revision, 6);
    t.is((await again.get({ uid: a.uid }))?.generation, 6);
  });

  check('a compaction of many changes lets writes pass', async (t, store) => {
    const many = Array.from({ length: 3500 }, (_, i) => put(makeObject({ name: `o-${i}` })));
    await Promise.all(many.map((write) => store.write(write)));
    let done = false;
    const compacting = store.compact(3400, 0).then(() => {
      done = true;
    });
    await store.write(put(makeObject({ name: 'meanwhile' })));
    t.false(done);
    await compacting;
    t.is((await store.changesSince(3399, 1000)).length, 102);
    await t.throwsAsync(store.changesSince(3398, 1000), { instanceOf: CompactedError });
  });

  check(
    'listeners hear of each change once, in order, when it can be read and before its writer does',
    async (t, store) => {
      const heard: number[] = [];
      const pods: number[] = [];
      const heads: boolean[] = [];
      const end = store.subscribe((changes) => {
        for (const change of changes) heard.push(change.revision);
        heads.push(store.revision === changes.at(-1)?.revision);
      });
      store.subscribe(
        (changes) => {
          for (const change of changes) pods.push(change.revision);
        },
        { kind: 'Pod', project: 'red' },
      );
      store.subscribe(() => t.fail(), { kind: 'Pod', project: 'red', bayUid: '' });
      await Promise.all(
        Array.from({ length: 50 }, async (_, i) => {
          const object = await store.write(
            put(makeObject({ name: `o-${i}`, kind: i % 10 === 0 ? 'Pod' : 'Container' })),
          );
          t.true(heard.includes(object.revision));
        }),
      );
      t.deepEqual(
        heard,
        Array.from({ length: 50 }, (_, i) => i + 1),
      );
      t.deepEqual(pods, [1, 11, 21, 31, 41]);
      t.true(heads.every(Boolean));
      end();
      await store.write(put(makeObject({ name: 'more' })));
      t.is(heard.length, 50);
    },
  );

  check('a listener knows what was before', async (t, store) => {
    const seen: unknown[] = [];
    const a = makeObject({ name: 'a' });
    await store.write(put(a));
    await store.compact(100, 0);
    store.subscribe((changes) => seen.push(...changes.map((c) => [c.previousRevision, c.previous?.generation])));
    await store.write(put({ ...a, generation: 2 }));
    await store.write(remove(a.uid));
    await store.write(put(a));
    t.deepEqual(seen, [
      [1, 1],
      [2, 2],
      [0, undefined],
    ]);
  });
};
