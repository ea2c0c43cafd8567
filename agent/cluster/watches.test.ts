import test from 'ava';
import type { ClusterDriver, ResourceType, WatchEvent } from '../drivers/cluster_driver.ts';
import { ClusterError } from '../drivers/cluster_error.ts';
import { silentLog } from '../log.ts';
import { Watches } from './watches.ts';

test('the list that ends an outage finds the cluster ready to be asked', async (t) => {
  const snapshot: WatchEvent<never> = { type: 'snapshot', items: [], resourceVersion: '1' };
  const down: WatchEvent<never> = { type: 'down', error: new ClusterError('unavailable', 'away') };
  const ended = Promise.withResolvers<void>();
  const driver = {
    async *watch({ kind }: ResourceType) {
      if (kind !== 'Pod') return;
      yield* [snapshot, down, snapshot];
      ended.resolve();
    },
  } as unknown as ClusterDriver;
  const seen: string[] = [];
  const see = (what: string) => seen.push(`${what} ${watches.isReady('Pod') ? 'ready' : 'away'}`);
  const watches: Watches = new Watches({
    driver,
    bayUid: 'b',
    log: silentLog,
    signal: new AbortController().signal,
    manifestOf: () => undefined,
    known: () => undefined,
    confirm: () => false,
    isOurs: () => false,
    onSnapshot: () => see('list'),
    onPut: () => undefined,
    onDelete: () => undefined,
    onEndpoints: () => undefined,
    onEvent: () => undefined,
    onState: () => see('state'),
  });
  watches.start();
  await ended.promise;
  t.deepEqual(seen, ['list ready', 'state ready', 'state away', 'list ready', 'state ready']);
});
