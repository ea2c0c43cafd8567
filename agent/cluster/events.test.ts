import test from 'ava';
import type { ClusterObject } from '../drivers/cluster_driver.ts';
import { EventLog, noteOf, placeOfEvent } from './events.ts';

const event = (name: string, change: Record<string, unknown> = {}): ClusterObject => ({
  metadata: { name, uid: name, resourceVersion: '1', creationTimestamp: '2026-01-01T00:00:00Z' },
  involvedObject: { kind: 'Pod', namespace: 'default', name: 'web', uid: 'c1' },
  type: 'Normal',
  reason: 'Started',
  message: 'Started container web',
  source: { component: 'kubelet' },
  count: 1,
  firstTimestamp: '2026-01-01T00:00:01Z',
  lastTimestamp: '2026-01-01T00:00:02Z',
  ...change,
});

test('an event is about an object of a kind that we have to do with, or of no interest', (t) => {
  t.deepEqual(placeOfEvent(event('a')), { kind: 'Pod', namespace: 'default', name: 'web' });
  t.is(placeOfEvent(event('a', { involvedObject: { kind: 'Node', name: 'n1' } })), undefined);
  t.is(placeOfEvent(event('a', { involvedObject: undefined })), undefined);
});

test('events are read in both ways that clusters write them', (t) => {
  const old = noteOf(event('a', { count: 3 }));
  t.like(old, {
    source: 'kubelet',
    count: 3,
    firstMs: Date.parse('2026-01-01T00:00:01Z'),
    lastMs: Date.parse('2026-01-01T00:00:02Z'),
  });
  const series = noteOf(
    event('b', {
      source: {},
      reportingComponent: 'default-scheduler',
      count: undefined,
      firstTimestamp: null,
      lastTimestamp: null,
      eventTime: '2026-01-01T00:00:05.123456Z',
      series: { count: 7, lastObservedTime: '2026-01-01T00:00:09.5Z' },
    }),
  );
  t.like(series, { source: 'default-scheduler', count: 7, lastMs: Date.parse('2026-01-01T00:00:09.5Z') });
  t.is(noteOf(event('c', { firstTimestamp: null, lastTimestamp: null })).lastMs, Date.parse('2026-01-01T00:00:00Z'));
});

test('the newest sixteen are kept, oldest first, and one that comes again counts on', (t) => {
  const log = new EventLog();
  const at = (second: number) => ({ lastTimestamp: new Date(Date.UTC(2026, 0, 1, 0, 1, second)).toISOString() });
  for (let i = 0; i < 20; i += 1) t.true(log.add(noteOf(event(`e${i}`, at(i)))));
  const before = log.version;
  t.false(log.add(noteOf(event('stale', at(0)))));
  t.is(log.events('c1').length, 16);
  t.true(log.add(noteOf(event('e19', { ...at(30), count: 9 }))));
  t.is(log.events('c1').at(-1)?.count, 9);
  t.false(log.add(noteOf(event('e19', { ...at(30), count: 9 }))));
  t.true(log.version > before);
  t.is(log.events('another').length, 0);
  t.is(log.events(undefined).length, 16);
});
