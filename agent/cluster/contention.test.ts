import test from 'ava';
import { Contention } from './contention.ts';

test('a few changes are mended at once, many only now and then, and after a while all is forgotten', (t) => {
  const contention = new Contention(() => 0.5);
  const strayed = [{ path: 'spec.replicas', managers: ['autoscaler'] }];
  let nowMs = 1_000_000;
  for (let i = 0; i < 3; i += 1) {
    t.is(contention.heldUntilMs(nowMs), 0);
    t.is(contention.message(nowMs), '');
    contention.mended(strayed, nowMs);
    nowMs += 10;
  }
  const waits: number[] = [];
  for (let i = 0; i < 10; i += 1) {
    const untilMs = contention.heldUntilMs(nowMs);
    waits.push(untilMs - nowMs);
    nowMs = untilMs;
    t.is(contention.heldUntilMs(nowMs), 0);
    contention.mended(strayed, nowMs);
  }
  t.true((waits[0] ?? 0) > 1_000 && (waits[0] ?? 0) < 5_000);
  t.true(
    waits.every((ms, i) => i === 0 || ms >= (waits[i - 1] ?? 0)),
    waits.join(),
  );
  t.true(waits.every((ms) => ms <= 300_000));
  t.regex(contention.message(nowMs), /spec\.replicas \(set by autoscaler\)/);
  nowMs += 600_000;
  t.is(contention.heldUntilMs(nowMs), 0);
  t.is(contention.message(nowMs), '');
});
