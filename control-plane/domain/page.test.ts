import test from 'ava';
import fc from 'fast-check';
import { InvalidError } from './errors.ts';
import { decodePageToken, encodePageToken, pageSizeOf, parseOrderBy } from './page.ts';

const query = { kind: 'Container', project: 'p', bayUid: 'b', namespace: '', filter: '', orderBy: '' };

test('a token says what it was made of, for its own list only', (t) => {
  const cursors = fc.record({
    after: fc.record({ namespace: fc.string(), name: fc.string(), createTimeMs: fc.nat(), uid: fc.string() }),
    revision: fc.nat(),
  });
  fc.assert(
    fc.property(cursors, (cursor) => {
      const token = encodePageToken(query, cursor);
      t.deepEqual(decodePageToken(query, token), cursor);
      for (const other of [
        { project: 'q' },
        { filter: 'true' },
        { kind: 'Pod' },
        { bayUid: 'c' },
        { namespace: 'n' },
        { orderBy: 'name desc' },
      ]) {
        t.throws(() => decodePageToken({ ...query, ...other }, token), {
          instanceOf: InvalidError,
          message: /page_token/,
        });
      }
    }),
  );
});

test('whatever else is sent as a token is refused, and nothing worse', (t) => {
  const garbage = fc.oneof(
    fc.string({ minLength: 1 }),
    fc.json().map((value) => Buffer.from(value).toString('base64url')),
    fc.uint8Array({ minLength: 1 }).map((value) => Buffer.from(value).toString('base64url')),
  );
  fc.assert(
    fc.property(garbage, (token) => {
      t.throws(() => decodePageToken(query, token), { instanceOf: InvalidError, message: /^page_token: / });
    }),
  );
  t.is(decodePageToken(query, ''), undefined);
});

test('orders and sizes', (t) => {
  t.deepEqual(parseOrderBy(''), { orderBy: 'name', descending: false });
  t.deepEqual(parseOrderBy('name desc'), { orderBy: 'name', descending: true });
  t.deepEqual(parseOrderBy(' create_time  desc '), { orderBy: 'createTime', descending: true });
  t.deepEqual(parseOrderBy('createTime asc'), { orderBy: 'createTime', descending: false });
  for (const wrong of ['desc', 'name, uid', 'name descending', 'status.phase'])
    t.throws(() => parseOrderBy(wrong), { instanceOf: InvalidError });
  t.deepEqual([0, 1, 1000, 5000].map(pageSizeOf), [100, 1, 1000, 1000]);
});
