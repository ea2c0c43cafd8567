import test from 'ava';
import type { Live } from './live.ts';
import { Observed } from './observed.ts';

const live = (name: string, resourceVersion: string, clusterUid = `c-${name}`): Live => ({
  kind: 'Pod',
  namespace: 'default',
  name,
  objectUid: `u-${name}`,
  clusterUid,
  resourceVersion,
  applied: '',
  appliedMs: undefined,
  wrote: true,
  shared: false,
  strayed: [],
  checked: '',
  owned: '',
  ending: undefined,
  finalizers: [],
  asks: [],
  facts: { kind: 'Pod', node: '', containers: 1, graceSeconds: 30 },
  status: '{}',
});
const version = (observed: Observed, name: string) => observed.of(`u-${name}`)[0]?.resourceVersion;

test('what a watch tells is what there is', (t) => {
  const observed = new Observed();
  t.deepEqual([...observed.snapshot('Pod', [live('a', '1'), live('b', '2')])].sort(), ['u-a', 'u-b']);
  t.is(observed.put(live('a', '3')), 'u-a');
  t.is(version(observed, 'a'), '3');
  t.is(observed.remove(live('b', '4')), 'u-b');
  t.deepEqual([...observed.uids()], ['u-a']);
  t.deepEqual([...observed.snapshot('Pod', [live('a', '3')])], []);
  t.deepEqual([...observed.snapshot('Service', [])], []);
  t.deepEqual([...observed.snapshot('Pod', [])], ['u-a']);
  t.deepEqual([...observed.uids()], []);
});

test('a watch that is behind our own write does not undo it', (t) => {
  const observed = new Observed();
  observed.snapshot('Pod', [live('a', '5')]);
  observed.wrote(live('a', '9'));
  t.is(observed.put(live('a', '7')), undefined);
  t.is(version(observed, 'a'), '9');
  t.is(observed.put(live('a', '9')), 'u-a');
  t.is(observed.put(live('a', '10')), 'u-a');
  t.is(version(observed, 'a'), '10');
});

test('a watch that tells of the version of our own write brings nothing new, once, and for that kind alone', (t) => {
  const observed = new Observed();
  observed.wrote(live('a', '9'));
  t.false(observed.confirm('Service', '9'));
  t.true(observed.confirm('Pod', '9'));
  t.false(observed.confirm('Pod', '9'));
  t.is(observed.put(live('a', '10')), 'u-a');
  t.is(version(observed, 'a'), '10');
});

test('the version of a write after which something newer was heard is not known any more', (t) => {
  for (const newer of ['put', 'remove', 'write', 'look'] as const) {
    const observed = new Observed();
    observed.wrote(live('a', '9'));
    if (newer === 'put') observed.put(live('a', '10'));
    if (newer === 'remove') observed.remove(live('a', '10'));
    if (newer === 'write') observed.wrote(live('a', '10'));
    if (newer === 'look') observed.looked(live('a', '0'), live('a', '10'));
    t.false(observed.confirm('Pod', '9'), newer);
    t.is(observed.confirm('Pod', '10'), newer === 'write', newer);
  }
});

test('after a list no version is known any more: the cluster may have gone back, and give it to another', (t) => {
  const observed = new Observed();
  observed.wrote(live('a', '9'));
  observed.snapshot('Service', []);
  t.true(observed.confirm('Pod', '9'));
  observed.wrote(live('a', '10'));
  observed.snapshot('Pod', [live('a', '3')]);
  t.true(observed.isUnsure('u-a'));
  t.false(observed.confirm('Pod', '10'));
});

test('a list that is behind our own write leaves a doubt, which a look or the watch ends', (t) => {
  for (const end of ['look', 'put'] as const) {
    const observed = new Observed();
    observed.wrote(live('a', '9'));
    observed.wrote(live('b', '10'));
    t.deepEqual([...observed.snapshot('Pod', [live('b', '8')])].sort(), ['u-a', 'u-b']);
    t.true(observed.isUnsure('u-a'));
    t.true(observed.isUnsure('u-b'));
    if (end === 'look') observed.looked(live('a', '0'), undefined);
    else observed.put(live('a', '9'));
    t.false(observed.isUnsure('u-a'));
    t.is(version(observed, 'a'), end === 'look' ? undefined : '9');
    observed.looked(live('b', '0'), live('b', '8'));
    t.is(version(observed, 'b'), '8');
    t.false(observed.isUnsure('u-b'));
  }
});

test('a cluster whose versions have gone back is believed', (t) => {
  const observed = new Observed();
  observed.snapshot('Pod', [live('a', '100'), live('b', '101')]);
  t.deepEqual([...observed.snapshot('Pod', [live('a', '50')])].sort(), ['u-a', 'u-b']);
  t.is(version(observed, 'a'), '50');
  t.is(version(observed, 'b'), undefined);
});

test('the end of one is none of the one in its place', (t) => {
  const observed = new Observed();
  observed.snapshot('Pod', [live('a', '5', 'old')]);
  observed.ended('old');
  t.is(observed.put(live('a', '6', 'old')), undefined);
  observed.wrote(live('a', '8', 'new'));
  t.is(observed.remove(live('a', '7', 'old')), undefined);
  t.is(version(observed, 'a'), '8');
});

test('what lost our labels is ours no longer', (t) => {
  const observed = new Observed();
  observed.snapshot('Pod', [live('a', '5')]);
  t.is(observed.put({ ...live('a', '6'), objectUid: '' }), 'u-a');
  t.deepEqual(observed.of('u-a'), []);
});

test('copies of an object are kept apart', (t) => {
  const observed = new Observed();
  observed.snapshot('Pod', [live('a', '5'), { ...live('copy', '6'), objectUid: 'u-a' }]);
  t.is(observed.of('u-a').length, 2);
  observed.remove({ ...live('copy', '7'), objectUid: 'u-a' });
  t.deepEqual(
    observed.of('u-a').map(({ name }) => name),
    ['a'],
  );
});

test('a watch that is behind does not bring back what has ended', (t) => {
  const observed = new Observed();
  observed.snapshot('Pod', [live('a', '5')]);
  observed.ended('c-a');
  t.is(observed.put(live('a', '6')), undefined);
  t.deepEqual([...observed.uids()], []);
});

test('what an older state of etcd brings back is there again, whoever told of its end first', (t) => {
  const ends: ((observed: Observed) => void)[] = [
    (observed) => observed.ended('c-a'),
    (observed) => observed.remove(live('a', '5')),
  ];
  for (const order of [ends, ends.toReversed(), ends.slice(0, 1)]) {
    const observed = new Observed();
    observed.snapshot('Pod', [live('a', '5')]);
    for (const end of order) end(observed);
    t.deepEqual([...observed.uids()], []);
    t.deepEqual([...observed.snapshot('Pod', [live('a', '4')])], ['u-a']);
    t.is(version(observed, 'a'), '4');
  }
});
