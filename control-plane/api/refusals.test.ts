import test from 'ava';
import { type AuditEntry, nobody } from '../audit/port.ts';
import { Refusals } from './refusals.ts';

const refusal = (over: Partial<AuditEntry> = {}): AuditEntry => ({
  ...nobody,
  kind: 'refused',
  method: 'baykeeper.v1.BayService/ListBays',
  code: 'unauthenticated',
  peer: '192.0.2.1',
  ...over,
});

function bed() {
  const noted: AuditEntry[] = [];
  const clock = { nowMs: 0, now: () => clock.nowMs };
  return { noted, clock, refusals: new Refusals({ audit: { note: (entry) => noted.push(entry) }, clock }) };
}

test('a few are recorded each, a flood is counted', (t) => {
  const { noted, refusals } = bed();
  for (let i = 0; i < 10_000; i += 1) refusals.refused(refusal({ requestId: String(i) }));
  t.is(noted.length, 30);
  refusals.refused(refusal({ peer: '192.0.2.2' }));
  t.is(noted.length, 31);
  refusals.flush();
  t.is(noted.length, 32);
  t.like(noted.at(-1), { peer: '192.0.2.1', code: 'unauthenticated', count: 9_970, requestId: '' });
  t.is(
    noted.reduce((sum, { count }) => sum + count, 0),
    10_001,
  );
  refusals.flush();
  t.is(noted.length, 32);
});

test('a flood from everywhere is no more on the disk than one from somewhere', (t) => {
  const { noted, clock, refusals } = bed();
  const hours = 2;
  for (let minute = 0; minute < hours * 60; minute += 1) {
    clock.nowMs = minute * 60_000;
    for (let i = 0; i < 300; i += 1)
      refusals.refused(refusal({ peer: `2001:db8::${(minute * 300 + i).toString(16)}` }));
    refusals.flush();
  }
  t.is(
    noted.reduce((sum, { count }) => sum + count, 0),
    hours * 60 * 300,
  );
  t.true(noted.length < 300 + hours * 60 * (120 + 51), String(noted.length));
});

test('strangers hide nothing of what a known caller was refused', (t) => {
  const { noted, refusals } = bed();
  for (let i = 0; i < 5_000; i += 1) refusals.refused(refusal({ peer: `2001:db8::${i.toString(16)}` }));
  // Somebody who has no rights here at all has a name, and is a stranger.
  const oscar = { subject: 'oscar@Default', code: 'permission_denied' };
  for (let i = 0; i < 5_000; i += 1) refusals.refused(refusal({ ...oscar, peer: `2001:db8::${i.toString(16)}` }));
  const mallory = { subject: 'mallory', project: 'red', code: 'permission_denied', requestId: 'r', peer: '192.0.2.9' };
  refusals.refused(refusal(mallory));
  t.like(noted.at(-1), mallory);
  for (let i = 0; i < 100; i += 1) refusals.refused(refusal(mallory));
  refusals.flush();
  const [sum] = noted.filter(({ subject, count }) => subject === 'mallory' && count > 1);
  t.like(sum, { code: 'permission_denied', count: 71 });
});
