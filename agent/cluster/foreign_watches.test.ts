import test from 'ava';
import type { ClusterDriver, WatchEvent, WatchOptions } from '../drivers/cluster_driver.ts';
import { silentLog } from '../log.ts';
import { ForeignWatches } from './foreign_watches.ts';

/** Watches whose events the test gives. */
class ScriptedWatches implements Pick<ClusterDriver, 'watch'> {
  readonly opened: { readonly selector: string; readonly signal: AbortSignal }[] = [];
  #give: (event: WatchEvent<unknown>) => void = () => undefined;

  async *watch<T>(_: unknown, { fieldSelector = '', namespace, signal }: WatchOptions<T>) {
    this.opened.push({ selector: `${namespace} ${fieldSelector}`, signal });
    while (!signal.aborted) {
      yield await new Promise<WatchEvent<T>>((resolve) => {
        this.#give = resolve as (event: WatchEvent<unknown>) => void;
      });
    }
  }

  async say(event: WatchEvent<unknown>): Promise<void> {
    this.#give(event);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

function bed(limit?: number) {
  const driver = new ScriptedWatches();
  const free: string[] = [];
  const term = new AbortController();
  const watches = new ForeignWatches({
    driver,
    signal: term.signal,
    onFree: (uid) => free.push(uid),
    log: silentLog,
    limit,
  });
  return { driver, free, term, watches };
}

const place = (name: string) => ({ kind: 'Pod' as const, namespace: 'default', name });
const item = undefined;

test('a name is free when what has it is deleted, and not when it changes', async (t) => {
  const { driver, free, watches } = bed();
  watches.await('a', place('web'));
  watches.await('a', place('web'));
  t.deepEqual(
    driver.opened.map(({ selector }) => selector),
    ['default metadata.name=web'],
  );
  await driver.say({ type: 'snapshot', items: [item], resourceVersion: '1' });
  await driver.say({ type: 'put', item });
  t.deepEqual(free, []);
  await driver.say({ type: 'delete', item });
  t.deepEqual(free, ['a']);
  t.true(driver.opened[0]?.signal.aborted);
  // Somebody else may take it again.
  watches.await('a', place('web'));
  await driver.say({ type: 'snapshot', items: [], resourceVersion: '2' });
  t.deepEqual(free, ['a', 'a']);
});

test('who does not wait any more is not called, nor anybody after the end of the term', async (t) => {
  const { driver, free, term, watches } = bed();
  watches.await('a', place('web'));
  watches.forget('a');
  await driver.say({ type: 'delete', item });
  t.deepEqual(free, []);
  watches.await('b', place('db'));
  term.abort();
  await driver.say({ type: 'delete', item });
  watches.await('c', place('other'));
  t.deepEqual(free, []);
  t.is(driver.opened.length, 2);
});

test('there are no more at a time than is allowed', (t) => {
  const { driver, watches } = bed(2);
  for (const name of ['a', 'b', 'c']) watches.await(name, place(name));
  t.is(driver.opened.length, 2);
  watches.forget('a');
  watches.await('c', place('c'));
  t.is(driver.opened.length, 3);
});
