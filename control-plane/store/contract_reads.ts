import { CompactedError } from '../domain/errors.ts';
import { maxPageBytes } from '../domain/page.ts';
import type { ContractTest } from './contract_bed.ts';
import { inShort, makeObject, put, remove, together } from './contract_objects.ts';
import type { ListPosition, ListQuery, StoredObject } from './port.ts';

/** How objects are listed. */
export const listContract = (check: ContractTest): void => {
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
    t.deepEqual(await list({ name: 'd' }), ['d']);
    t.deepEqual(await list({ name: 'd', project: 'red' }), []);
    t.deepEqual(await list({ name: 'b', namespace: 'n', orderBy: 'createTime' }), ['b']);
    t.is((await store.list({ ...base, kind: 'None' })).revision, 6);
    t.is(await store.countInBay('bay-1'), 4);
    await store.write(put(makeObject({ name: 'node', kind: 'Node' })));
    t.is(await store.countInBay('bay-1'), 4);
    t.is(await store.countInBay('none'), 0);
  });

  check('a page of large objects has fewer, and leads on all the same', async (t, store) => {
    const body = Buffer.alloc(maxPageBytes / 4);
    const made = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'];
    await Promise.all(made.map((name) => store.write(put({ ...makeObject({ name }), body }))));
    for (const [orderBy, descending] of [
      ['name', true],
      ['createTime', false],
    ] as const) {
      const pages: string[][] = [];
      for (let after: ListPosition | undefined; ; ) {
        const page = await store.list({ ...base, orderBy, descending, after, limit: 100 });
        pages.push(names(page.objects));
        after = page.objects.at(-1);
        if (!page.more) break;
      }
      t.deepEqual(
        pages.map(({ length }) => length),
        [4, 4, 2],
      );
      t.deepEqual(pages.flat().sort(), made);
    }
    const [, second] = (await store.list({ ...base, limit: 100 })).objects;
    await store.write(put({ ...makeObject({ name: 'huge' }), body: Buffer.alloc(2 * maxPageBytes) }));
    t.is((await store.list({ ...base, limit: 100, after: second })).objects.length, 4);
    t.deepEqual(names((await store.list({ ...base, limit: 3, maxBytes: 1 })).objects), ['a']);
    const one = await store.list({ ...base, name: 'huge', limit: 100 });
    t.deepEqual([names(one.objects), one.more], [['huge'], false]);
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

/** What nodes are given, and how their chains go on. */
export const chainContract = (check: ContractTest): void => {
  check('a node has what is assigned to it, and the head of its chain', async (t, store, bed) => {
    t.deepEqual(await store.assigned('n1'), { objects: [], head: 0 });
    const a = makeObject({ name: 'a', assigneeUid: 'n1' });
    await store.write(put(a, 'n1'));
    await store.write(put(makeObject({ name: 'b', assigneeUid: 'n2' }), 'n2'));
    await store.write(put({ ...a, sequence: 1 }));
    const { objects, head } = await store.assigned('n1');
    t.deepEqual([objects.map((o) => [o.name, o.revision]), head], [[['a', 3]], 1]);
    await store.write(remove(a.uid, 'n1'));
    const again = await bed.reopen();
    t.deepEqual(await again.assigned('n1'), { objects: [], head: 4 });
    t.is((await again.assigned('')).objects.length, 0);
  });

  check('a chain gives the newest change of each object after a revision', async (t, store) => {
    const [a, b] = [makeObject({ name: 'a', assigneeUid: 'n' }), makeObject({ name: 'b', assigneeUid: 'n' })];
    await store.write(put(a, 'n'));
    await store.write(put(b, 'n'));
    await store.write(put({ ...a, generation: 2 }, 'n'));
    await store.write(put(makeObject({ name: 'other' }), 'm'));
    await store.write(put({ ...a, generation: 2, sequence: 1 }));
    await store.write(remove(b.uid, 'n'));
    const since = async (revision: number, limit = 10): Promise<unknown> => {
      const delta = await store.chainSince('n', revision, limit);
      return delta && [inShort(delta.changes), delta.head];
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
    const a = makeObject({ name: 'a', assigneeUid: 'n' });
    for (let i = 1; i <= 3; i += 1) await store.write(put({ ...a, generation: i }, 'n'));
    for (let i = 1; i <= 3; i += 1) await store.write(put(makeObject({ name: `o-${i}` })));
    await store.compact(3, 0);
    t.is(await store.chainSince('n', 1, 10), undefined);
    t.deepEqual(inShort((await store.chainSince('n', 2, 10))?.changes ?? []), [[3, 'put', 'a']]);
    await store.compact(6, 0);
    t.is(await store.chainSince('n', 2, 10), undefined);
    t.deepEqual(await store.chainSince('n', 3, 10), { changes: [], head: 3 });
    const again = await bed.reopen();
    await again.write(put({ ...a, generation: 4 }, 'n'));
    t.is((await again.changesSince(6, 1))[0]?.chainPrevious, 3);
    t.deepEqual(inShort((await again.chainSince('n', 3, 10))?.changes ?? []), [[7, 'put', 'a']]);
    t.is(await again.chainSince('n', 2, 10), undefined);
  });
};

/** The feed of changes, and who listens to it. */
export const feedContract = (check: ContractTest): void => {
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
    t.deepEqual(inShort(await store.changesSince(1, 2)), [
      [2, 'put', 'a'],
      [3, 'put', 'p'],
    ]);
    t.deepEqual(await store.changesSince(4, 2), []);
    t.deepEqual(inShort(await store.changesSince(0, 2, { kind: 'Container' })), [
      [1, 'put', 'a'],
      [2, 'put', 'a'],
    ]);
    t.deepEqual(inShort(await store.changesSince(0, 9, { kind: 'Pod', project: 'blue', bayUid: 'bay-1' })), [
      [3, 'put', 'p'],
    ]);
    t.deepEqual(inShort(await store.changesSince(0, 9, { kind: 'Pod', project: 'red' })), []);
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

  check('of large changes fewer are kept', async (t, store) => {
    const a = makeObject({ name: 'a' });
    const body = Buffer.alloc(100_000);
    for (let i = 1; i <= 10; i += 1) await store.write(put({ ...a, generation: i, body }));
    await store.compact(0, 0, 1_000_000);
    t.is((await store.changesSince(0, 100)).length, 10);
    for (const [since, found] of [
      [0, [1, 2, 3]],
      [3, [4, 5, 6]],
      [9, [10]],
      [10, []],
    ] as const) {
      const changes = await store.changesSince(since, 100, { kind: 'Container' }, 250_000);
      t.deepEqual(
        changes.map(({ revision }) => revision),
        found,
      );
    }
    await store.compact(0, 0, 350_000);
    t.deepEqual(
      (await store.changesSince(7, 100)).map(({ revision }) => revision),
      [8, 9, 10],
    );
    await t.throwsAsync(store.changesSince(6, 100), { instanceOf: CompactedError });
    await store.compact(10, 0, 350_000);
    t.deepEqual(
      (await store.changesSince(9, 100)).map(({ revision }) => revision),
      [10],
    );
    await store.compact(0, 0, 0);
    t.is((await store.get({ uid: a.uid }))?.generation, 10);
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
