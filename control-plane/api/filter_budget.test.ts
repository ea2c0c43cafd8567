import { create } from '@bufbuild/protobuf';
import test from 'ava';
import { ContainerSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ExhaustedError } from '../domain/errors.ts';
import { budgeted } from './filter_budget.ts';

const object = create(ContainerSchema);

/** A filter that takes as long as is said, on a clock of its own. */
function bed(share?: number) {
  const clock = { nowMs: 0, takesMs: 100 };
  const slow = () => {
    clock.nowMs += clock.takesMs;
    return true;
  };
  return { clock, filter: budgeted(slow, share, () => clock.nowMs) };
}

test('a list ends when its filter has taken two seconds, however long it takes itself', (t) => {
  const { clock, filter } = bed();
  for (let i = 0; i < 20; i += 1) {
    t.true(filter(object));
    clock.nowMs += 60_000;
  }
  t.throws(() => filter(object), { instanceOf: ExhaustedError, message: /takes too long/ });
});

test('a watch may go on with a filter that takes its share of the time, and no more', (t) => {
  const { clock, filter } = bed(0.05);
  for (let i = 0; i < 100; i += 1) {
    t.true(filter(object));
    clock.nowMs += 2_000;
  }
  const events = () => {
    for (let i = 0; i < 100; i += 1) {
      filter(object);
      clock.nowMs += 1_000;
    }
  };
  t.throws(events, { instanceOf: ExhaustedError });
});
