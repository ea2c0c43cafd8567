import test from 'ava';
import { pino } from 'pino';
import { type LaneLimits, SubjectLanes } from './subject_lanes.ts';

interface Message {
  readonly subject: string;
  readonly data: Uint8Array;
}

interface Line {
  readonly level: number;
  readonly subject?: string;
  readonly dropped?: number;
}

const message = (subject: string, sizeBytes = 1): Message => ({ subject, data: new Uint8Array(sizeBytes) });
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Lanes whose listener waits until it is released. */
function slowLanes(limits: LaneLimits) {
  const lines: Line[] = [];
  const handled: string[] = [];
  const clock = { time: 0, now: () => clock.time };
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  const lanes = new SubjectLanes<Message>({
    listener: async ({ subject }) => {
      await gate;
      handled.push(subject);
    },
    limits,
    log: pino({ level: 'trace' }, { write: (line: string) => void lines.push(JSON.parse(line)) }),
    clock,
  });
  return { lanes, lines, handled, clock, release };
}

test('what waits is bounded for each subject, in number and in bytes, and what is dropped is said once a second', async (t) => {
  const { lanes, lines, handled, clock, release } = slowLanes({
    messagesPerSubject: 3,
    bytesPerSubject: 100,
    messages: 5,
    bytes: 100,
  });
  for (let i = 0; i < 10; i += 1) lanes.push(message('a'));
  t.deepEqual(
    lines.map(({ level, subject, dropped }) => ({ level, subject, dropped })),
    [{ level: 40, subject: 'a', dropped: 1 }],
  );
  clock.time = 1000;
  lanes.push(message('a'));
  t.is(lines.length, 2);
  t.is(lines[1]?.dropped, 7);
  for (let i = 0; i < 10; i += 1) lanes.push(message('b'));
  lanes.push(message('c', 1000));
  lanes.push(message('c', 1000));
  release();
  await turn();
  const count = (subject: string) => handled.filter((each) => each === subject).length;
  t.deepEqual([count('a'), count('b'), count('c')], [4, 3, 1]);
  lanes.push(message('a'));
  await turn();
  t.is(count('a'), 5, 'it goes on afterwards');
});

test('large messages of one subject leave room for those of others', async (t) => {
  const limits = { messagesPerSubject: 100, bytesPerSubject: 30, messages: 100, bytes: 60 };
  const { lanes, handled, release } = slowLanes(limits);
  for (let i = 0; i < 20; i += 1) lanes.push(message('evil', 10));
  for (let i = 0; i < 3; i += 1) lanes.push(message('good', 10));
  release();
  await turn();
  const count = (subject: string) => handled.filter((each) => each === subject).length;
  t.deepEqual([count('evil'), count('good')], [4, 3]);
  for (let i = 0; i < 3; i += 1) lanes.push(message('evil', 10));
  await turn();
  t.is(count('evil'), 7, 'there is room again');
});

test('order is kept through thousands that wait, and none is lost', async (t) => {
  const seen: number[] = [];
  const lanes = new SubjectLanes<Message & { readonly index: number }>({
    listener: async ({ index }) => {
      if (index % 100 === 0) await turn();
      seen.push(index);
    },
    limits: { messagesPerSubject: 10_000, bytesPerSubject: 1e9, messages: 10_000, bytes: 1e9 },
    log: pino({ level: 'silent' }),
    clock: Date,
  });
  for (let index = 0; index < 5000; index += 1) lanes.push({ ...message('a'), index });
  while (seen.length < 5000) await turn();
  t.deepEqual(seen, [...Array(5000).keys()]);
});

test('a listener that throws or rejects ends nothing', async (t) => {
  const lines: Line[] = [];
  const seen: string[] = [];
  const lanes = new SubjectLanes<Message>({
    listener: ({ subject }) => {
      seen.push(subject);
      if (subject === 'throws') throw new Error('on purpose');
      return subject === 'rejects' ? Promise.reject(new Error('on purpose')) : undefined;
    },
    limits: { messagesPerSubject: 10, bytesPerSubject: 10, messages: 10, bytes: 10 },
    log: pino({ level: 'trace' }, { write: (line: string) => void lines.push(JSON.parse(line)) }),
    clock: Date,
  });
  for (const subject of ['throws', 'throws', 'rejects', 'rejects', 'fine']) lanes.push(message(subject));
  await turn();
  t.is(seen.length, 5);
  t.deepEqual(
    lines.map((line) => line.level),
    [50, 50, 50, 50],
  );
});

test('once closed, what waits is forgotten', async (t) => {
  const { lanes, handled, release } = slowLanes({
    messagesPerSubject: 10,
    bytesPerSubject: 100,
    messages: 10,
    bytes: 100,
  });
  for (let i = 0; i < 3; i += 1) lanes.push(message('a'));
  lanes.close();
  lanes.push(message('b'));
  release();
  await turn();
  t.deepEqual(handled, ['a']);
});
