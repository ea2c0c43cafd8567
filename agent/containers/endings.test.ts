import test from 'ava';
import type { EngineEvent, EventAction } from '../drivers/driver.ts';
import { Endings } from './endings.ts';
import { label } from './engine_labels.ts';
import { VolatileMemory } from './memory.ts';

const labels = { [label.namespace]: 'default', [label.name]: 'web', [label.spec]: 'hash', [label.reboots]: '2' };
const event = (action: EventAction, timeMs: number, exitCode?: number, id = 'c1', name = 'web'): EngineEvent => ({
  action,
  timeMs,
  id,
  name,
  oldName: undefined,
  labels,
  exitCode,
});

const cases: readonly (readonly [
  string,
  readonly EngineEvent[],
  { readonly by: string; readonly oomKilled?: boolean },
])[] = [
  ['by itself', [event('die', 10, 0)], { by: 'itself' }],
  ['killed', [event('kill', 9), event('die', 10, 137)], { by: 'somebody' }],
  [
    'stopped, and slow to hear it',
    [event('kill', 10), event('die', 600_000, 0), event('stop', 600_001)],
    { by: 'somebody' },
  ],
  ['sent a signal that it lived on with', [event('kill', 10), event('die', 600_000, 0)], { by: 'itself' }],
  ['out of memory', [event('oom', 9), event('die', 10, 137)], { by: 'itself', oomKilled: true }],
  ['out of memory, heard of late', [event('die', 10, 137), event('oom', 11)], { by: 'itself', oomKilled: true }],
  [
    'one process out of memory, long before',
    [event('oom', 9), event('die', 600_000, 137)],
    { by: 'itself', oomKilled: false },
  ],
  [
    'by itself after a run that was killed',
    [event('kill', 9), event('die', 10, 137), event('die', 20, 1)],
    { by: 'itself' },
  ],
  [
    'a copy of it was removed since',
    [event('die', 10, 0), event('kill', 11, undefined, 'c2', 'copy'), event('die', 12, 137, 'c2', 'copy')],
    { by: 'itself' },
  ],
];

for (const [what, events, expected] of cases) {
  test(`ended: ${what}`, (t) => {
    const memory = new VolatileMemory();
    const endings = new Endings(memory);
    for (const one of events) endings.observe('u', one);
    t.like(memory.get('u').ended, { containerId: 'c1', spec: 'hash', ...expected });
    t.is(memory.get('u').reboots, 2n);
    // All over again, as after a restart of the agent.
    const again = new Endings(memory);
    for (const one of events) again.observe('u', one);
    t.like(memory.get('u').ended, { containerId: 'c1', spec: 'hash', ...expected });
  });
}
