import test from 'ava';
import { type Aside, KeyedQueue } from './queue.ts';

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

function queueOf(concurrency: number, work: (key: string, aside: Aside) => Promise<void>) {
  const errors: [string, unknown][] = [];
  const queue = new KeyedQueue({ concurrency, work, onError: (key, error) => errors.push([key, error]) });
  return { queue, errors };
}

test('one piece of work a key at a time, and no more than so many in all', async (t) => {
  const running = new Set<string>();
  let most = 0;
  let done = 0;
  const { queue } = queueOf(3, async (key) => {
    t.false(running.has(key));
    running.add(key);
    most = Math.max(most, running.size);
    await turn();
    running.delete(key);
    done += 1;
  });
  for (let i = 0; i < 100; i += 1) {
    queue.add(`k${i % 10}`);
    if (i % 7 === 0) await turn();
  }
  await queue.idle();
  t.is(most, 3);
  t.true(done >= 10 && done <= 100);
});

test('what is added while it is worked on is worked on once more', async (t) => {
  let runs = 0;
  const gate = Promise.withResolvers<void>();
  const { queue } = queueOf(1, async () => {
    runs += 1;
    if (runs === 1) await gate.promise;
  });
  queue.add('a');
  queue.add('a');
  queue.add('a');
  gate.resolve();
  await queue.idle();
  t.is(runs, 2);
});

test('who waits aside holds up nobody, and gets its place back', async (t) => {
  const gate = Promise.withResolvers<void>();
  const order: string[] = [];
  const { queue } = queueOf(1, async (key, aside) => {
    if (key === 'slow') await aside(() => gate.promise);
    order.push(key);
  });
  queue.add('slow');
  queue.add('quick');
  await turn();
  t.deepEqual(order, ['quick']);
  gate.resolve();
  await queue.idle();
  t.deepEqual(order, ['quick', 'slow']);
});

test('an error is handed on, and the work goes on', async (t) => {
  const { queue, errors } = queueOf(1, async (key, aside) => {
    if (key === 'bad') await aside(() => Promise.reject(new Error('no')));
  });
  queue.add('bad');
  queue.add('good');
  await queue.idle();
  t.deepEqual(
    errors.map(([key]) => key),
    ['bad'],
  );
  queue.add('good');
  await queue.stop();
  queue.add('late');
  await queue.idle();
  t.pass();
});
