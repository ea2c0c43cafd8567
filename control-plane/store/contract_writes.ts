import {
  AlreadyExistsError,
  InvalidError,
  NotFoundError,
  PreconditionError,
  UnavailableError,
} from '../domain/errors.ts';
import type { ContractTest } from './contract_bed.ts';
import { create, failing, inShort, makeObject, nameKey, plain, put, remove, together } from './contract_objects.ts';
import type { ObjectScope, Write } from './port.ts';

/** What writes do, and what they leave. */
export const writeContract = (check: ContractTest): void => {
  check('an object is read back as it was put, by uid and by name', async (t, store) => {
    const object = makeObject({
      name: 'wéb-\u{1F6A2}-"\'\\',
      namespace: '',
      assigneeUid: 'node-1',
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

  check('what a project has is counted with each write, over failures and restarts', async (t, store, bed) => {
    const seen = (project: string, from = store) => {
      const usage = from.usage(project);
      return [usage.count('Container'), usage.count('Pod'), usage.bytes];
    };
    const red = (name: string, bytes: number, kind = 'Container') =>
      makeObject({ kind, name, project: 'red', body: new Uint8Array(bytes) });
    const first = red('a', 10);
    let within: number[] = [];
    await Promise.all([
      store.write(put(first)),
      store.write(put(red('b', 5, 'Pod'))),
      store.write(put(makeObject({ name: 'c', project: 'blue', body: new Uint8Array(7) }))),
      t.throwsAsync(store.write(failing(new PreconditionError('no'), put(red('d', 1000))))),
    ]);
    t.deepEqual(seen('red'), [1, 1, 15]);
    t.deepEqual(seen('blue'), [1, 0, 7]);
    t.deepEqual(seen('nobody'), [0, 0, 0]);
    await store.write({
      reads: [{ uid: first.uid }],
      apply(view) {
        view.put((revision) => ({ ...first, body: new Uint8Array(4), revision }), '');
        within = [view.usage('red').count('Container'), view.usage('red').bytes];
        t.deepEqual(seen('red'), [1, 1, 15], 'nothing is there before it is on disk');
      },
    });
    t.deepEqual(within, [1, 9]);
    t.deepEqual(seen('red'), [1, 1, 9]);
    t.deepEqual(store.projects(), ['blue', 'red']);
    const again = await bed.reopen();
    t.deepEqual(seen('red', again), [1, 1, 9]);
    await again.write(remove(first.uid));
    t.deepEqual(seen('red', again), [0, 1, 5]);
    t.deepEqual(again.projects(), ['blue', 'red']);
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
      makeObject({ name: 'web', assigneeUid: 'n1' }),
      makeObject({ name: 'web' }),
      makeObject({ name: 'web' }),
    ];
    await store.write(put(a));
    await Promise.all([
      store.write(together(remove(a.uid), create(b))),
      store.write(together(remove(b.uid), create(c), remove(c.uid), put(a))),
      store.write(put({ ...a, assigneeUid: 'n2', createTimeMs: 5 })),
    ]);
    t.deepEqual(
      plain(await store.get(nameKey('web'))),
      plain({ ...a, assigneeUid: 'n2', createTimeMs: 5, revision: 8 }),
    );
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

  check('a uid that has to be somewhere is found nowhere else, by reads and writes', async (t, store) => {
    const object = makeObject({ name: 'a', project: 'red', bayUid: 'bay-1' });
    const loose = makeObject({ name: 'b', project: 'red', bayUid: '' });
    await store.write(together(put(object), put(loose)));
    const { uid } = object;
    const here = [
      { kind: 'Container' },
      { kind: 'Container', project: 'red' },
      { kind: 'Container', bayUid: 'bay-1' },
      { kind: 'Container', project: 'red', bayUid: 'bay-1' },
    ];
    const elsewhere = [
      { kind: 'Pod' },
      { kind: 'Container', project: 'blue' },
      { kind: 'Container', project: '' },
      { kind: 'Container', project: 'red', bayUid: 'bay-2' },
      { kind: 'Container', project: 'red', bayUid: '' },
      { kind: 'Container', project: 'red\0' },
    ];
    const get = (within: ObjectScope) => store.get({ uid, within });
    const read = ({ within }: { readonly within?: ObjectScope }) =>
      store.write({ reads: [{ uid, within }], apply: (view) => view.get({ uid, within }) });
    // All at once, so that those who may see it share their batch with those who may not.
    const [, ...found] = await Promise.all([store.get({ uid }), ...here.map(get), ...elsewhere.map(get)]);
    t.deepEqual(
      found.map((one) => one?.uid),
      [...here.map(() => uid), ...elsewhere.map(() => undefined)],
    );
    const storable = elsewhere.slice(0, -1);
    const [, ...seen] = await Promise.all([read({}), ...[...here, ...storable].map((within) => read({ within }))]);
    t.deepEqual(
      seen.map((one) => one?.uid),
      [...here.map(() => uid), ...storable.map(() => undefined)],
    );
    t.is((await store.get({ uid: loose.uid, within: { kind: 'Container', bayUid: '' } }))?.uid, loose.uid);
    const foreign = { uid, within: { kind: 'Container', project: 'blue' } };
    await t.throwsAsync(store.write({ reads: [foreign], apply: (view) => view.get({ uid }) }), {
      message: /not among its reads/,
    });
    await t.throwsAsync(store.write({ reads: [foreign], apply: (view) => view.remove(uid, '') }));
    await t.throwsAsync(store.write({ reads: [{ uid, within: { kind: 'a\0' } }], apply: () => undefined }), {
      instanceOf: InvalidError,
    });
    t.is((await store.get({ uid }))?.uid, uid);
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
    t.deepEqual(inShort(await store.changesSince(0, 10)), [
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

/** How requests are remembered. */
export const requestContract = (check: ContractTest): void => {
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
