import test from 'ava';
import { TokenBuckets } from './token_bucket.ts';

test('a caller may call in bursts, and steadily after that; another has a bucket of its own', (t) => {
  const clock = { nowMs: 0, now: () => clock.nowMs };
  const buckets = new TokenBuckets({ perSecond: 2, burst: 3 }, clock);
  const take = (caller: string) => buckets.take(caller);
  t.deepEqual([take('a'), take('a'), take('a'), take('a')], [true, true, true, false]);
  t.true(take('b'));
  clock.nowMs = 500;
  t.deepEqual([take('a'), take('a')], [true, false]);
  clock.nowMs = 60_000;
  t.deepEqual([take('a'), take('a'), take('a'), take('a')], [true, true, true, false]);
  // A clock that goes back gives nothing away.
  clock.nowMs = 0;
  t.false(take('a'));
});

test('whoever goes on calling is not forgotten for others that come', (t) => {
  const buckets = new TokenBuckets({ perSecond: 0.001, burst: 2 }, { now: () => 0 });
  t.true(buckets.take('a') && buckets.take('a'));
  for (let i = 0; i < 30_000; i += 1) {
    buckets.take(`other-${i}`);
    if (i % 5_000 === 0) t.false(buckets.take('a'), `after ${i} others`);
  }
});
