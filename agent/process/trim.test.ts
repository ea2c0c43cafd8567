import { setTimeout as delay, setImmediate } from 'node:timers/promises';
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import test from 'ava';
import { until } from '../../test/harness/until.ts';
import { trimWhenQuiet } from './trim.ts';

const heapMb = () => getHeapStatistics().total_heap_size / 2 ** 20;

test('what the heap has grown by is given back once there is nothing to do, and not before', async (t) => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as (options: object) => void;
  const calls: number[] = [];
  Object.assign(globalThis, {
    gc(options: object) {
      calls.push(heapMb());
      collect(options);
    },
  });
  const end = trimWhenQuiet(100);
  t.teardown(end);
  let held: object[] | undefined = Array.from({ length: 400_000 }, (_, number) => ({ number }));
  const grown = heapMb();
  held = undefined;
  const busyUntil = performance.now() + 500;
  while (performance.now() < busyUntil) await setImmediate();
  t.deepEqual(calls, [], 'while it works');
  await until('it is given back', () => heapMb() < grown - 10);
  await delay(500);
  t.is(calls.length, 1, 'a heap that has not grown is left alone');
  t.is(held, undefined);
});
