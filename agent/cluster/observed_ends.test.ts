import test from 'ava';
import type { Live } from './live.ts';
import { Observed } from './observed.ts';

const live = (clusterUid: string, resourceVersion = '5'): Live => ({
  kind: 'Pod',
  namespace: 'default',
  name: 'web',
  objectUid: 'object',
  clusterUid,
  resourceVersion,
  applied: '',
  appliedMs: undefined,
  wrote: true,
  strayed: [],
  checked: '',
  owned: '',
  ending: undefined,
  finalizers: [],
  facts: { kind: 'Pod', node: '', containers: 1 },
  status: '{}',
});
const uidsOf = (observed: Observed) => observed.of('object').map(({ clusterUid }) => clusterUid);

test('a watch that is behind does not bring back what has ended', (t) => {
  const observed = new Observed();
  observed.snapshot('Pod', [live('a')]);
  observed.ended('a');
  t.is(observed.put(live('a', '6')), undefined);
  t.deepEqual(uidsOf(observed), []);
});

test('what an older state of etcd brings back is there again, whoever was told of its end first', (t) => {
  const ends: ((observed: Observed) => void)[] = [
    (observed) => observed.ended('a'),
    (observed) => observed.remove(live('a')),
  ];
  for (const order of [ends, ends.toReversed(), ends.slice(0, 1)]) {
    const observed = new Observed();
    observed.snapshot('Pod', [live('a')]);
    for (const end of order) end(observed);
    t.deepEqual(uidsOf(observed), []);
    t.deepEqual([...observed.snapshot('Pod', [live('a', '4')])], ['object']);
    t.deepEqual(uidsOf(observed), ['a']);
  }
});
