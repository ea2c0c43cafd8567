import test from 'ava';
import { KeystoneError } from '../../../proto/openstack/errors.ts';
import { Gate } from './gate.ts';

const away = () => Promise.reject(new KeystoneError('unavailable', 'away'));
const no = () => Promise.reject(new KeystoneError('forbidden', 'no'));

function setUp(options: { mostRunning?: number; mostWaiting?: number } = {}) {
  const state = { nowMs: 0 };
  return { state, gate: new Gate({ clock: { now: () => state.nowMs }, random: () => 1, ...options }) };
}

test('so many run at once, the others wait for their turn, and too many are turned away', async (t) => {
  const { gate } = setUp({ mostRunning: 2, mostWaiting: 3 });
  let [running, most] = [0, 0];
  const ends: (() => void)[] = [];
  const call = async () => {
    running += 1;
    most = Math.max(most, running);
    await new Promise<void>((resolve) => ends.push(resolve));
    running -= 1;
  };
  const calls = Array.from({ length: 5 }, () => gate.run(call));
  await t.throwsAsync(gate.run(call), { message: /too many callers/ });
  for (let done = 0; done < 5; done += 1) {
    while (ends.length === 0) await new Promise(setImmediate);
    ends.shift()?.();
  }
  await Promise.all(calls);
  t.is(most, 2);
});

test('after three failures in a row it is away: one at a time asks, with longer and longer pauses', async (t) => {
  const { state, gate } = setUp();
  let asked = 0;
  const fails = () => {
    asked += 1;
    return away();
  };
  const failing = (n: number) => Promise.allSettled(Array.from({ length: n }, () => gate.run(fails)));
  await failing(1);
  t.is(await gate.run(async () => 'there'), 'there');
  for (let i = 0; i < 3; i += 1) await failing(1);
  t.is(asked, 4);
  await failing(10);
  t.is(asked, 4);
  let pauseMs = 100;
  for (let round = 0; round < 10; round += 1) {
    state.nowMs += pauseMs - 1;
    await failing(10);
    t.is(asked, 4 + round, `before ${pauseMs}`);
    state.nowMs += 1;
    await failing(10);
    t.is(asked, 5 + round, `after ${pauseMs}`);
    pauseMs = Math.min(5_000, pauseMs * 2);
  }
  state.nowMs += 5_000;
  t.is(await gate.run(async () => 'there'), 'there');
  t.is(await gate.run(async () => 'there'), 'there');
});

test('who waits is told when it turns out to be away, and a refusal is no failure', async (t) => {
  const { gate } = setUp({ mostRunning: 1 });
  for (let i = 0; i < 5; i += 1) await t.throwsAsync(gate.run(no), { message: 'no' });
  for (let i = 0; i < 2; i += 1) await t.throwsAsync(gate.run(away));
  let asked = 0;
  const outcomes = await Promise.allSettled([
    gate.run(away),
    ...Array.from({ length: 5 }, () =>
      gate.run(async () => {
        asked += 1;
      }),
    ),
  ]);
  t.true(outcomes.every(({ status }) => status === 'rejected'));
  t.is(asked, 0);
});
