import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import { type Credentials, CredentialsSchema } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { testNonce, testVerifier } from '../../test/harness/signing.ts';
import { silentLog } from '../log.ts';
import { EnrollError } from './enroll.ts';
import { Renewal, type RenewalOptions } from './renewal.ts';
import { systemTrust } from './trust.ts';

const credentials = (brokerUrl: string) =>
  create(CredentialsSchema, {
    userJwt: `e30.e30.${brokerUrl.length}`,
    issueTime: timestampFromMs(0),
    expireTime: timestampFromMs(86_400_000),
    brokerUrls: [brokerUrl],
  });

/** A renewal with a clock that is moved by hand, and a link that does what it is told. */
function bed(answer: () => Credentials, moved = false) {
  let now = 0;
  const timers = new Set<{ atMs: number; callback: () => void }>();
  const heard = { failed: () => {}, refused: (_jwt: string) => {}, connected: (_up: boolean) => {} };
  const counts = { asked: 0, woken: 0, restMs: 0 };
  let current = credentials('nats://old:1');
  const verifier = testVerifier({ bayUid: 'b', nodeUid: 'n' });
  let session: RenewalOptions['session']['state'] = { name: 'offline' };
  let request = (): Promise<Uint8Array> => Promise.reject(new Error('not connected'));
  const options: RenewalOptions = {
    address: { bayUid: 'b', nodeUid: 'n' },
    identity: {
      get credentials() {
        return current;
      },
      take: async (next) => {
        current = next;
      },
      trust: systemTrust,
    },
    link: {
      connected: false,
      request: () => request(),
      onConnected: (listener) => {
        heard.connected = listener;
        return () => {};
      },
      onFailed: (listener) => {
        heard.failed = listener;
        return () => {};
      },
      onRefused: (listener) => {
        heard.refused = listener;
        return () => {};
      },
      wake: () => {
        counts.woken += 1;
      },
      rest: (ms) => {
        counts.restMs = ms;
      },
    },
    session: {
      get state() {
        return session;
      },
    },
    verifier,
    prove: async () => {
      counts.asked += 1;
      return answer();
    },
    moved,
    clock: {
      now: () => now,
      after(ms, callback) {
        const timer = { atMs: now + ms, callback };
        timers.add(timer);
        return () => timers.delete(timer);
      },
    },
    log: silentLog,
    random: () => 0.5,
  };
  const renewal = new Renewal(options);
  renewal.start();
  return {
    heard,
    counts,
    renewal,
    brokers: () => current.brokerUrls,
    /** A message came that is signed with one. */
    unknownKey: () => verifier.onUnknownKey?.(),
    /** There is a session, in which requests are answered like this. */
    overBus(answerOf: typeof request) {
      request = answerOf;
      session = { name: 'open', epoch: 1n, nonce: testNonce } as typeof session;
    },
    /** Lets time pass, with what is due in it. */
    async pass(ms: number) {
      const endMs = now + ms;
      for (;;) {
        const due = [...timers].filter(({ atMs }) => atMs <= endMs).sort((a, b) => a.atMs - b.atMs)[0];
        if (!due) break;
        timers.delete(due);
        now = Math.max(now, due.atMs);
        due.callback();
        await settled();
      }
      now = endMs;
      await settled();
    },
  };
}

/** Lets what was awaited go on. */
const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

test('a broker that cannot be reached is asked for at the control plane, after a while and at most once a minute', async (t) => {
  let up = false;
  const b = bed(() => {
    if (!up) throw new EnrollError('unavailable', 'cannot reach it');
    return credentials('nats://new:1');
  });
  for (let i = 0; i < 4; i++) b.heard.failed();
  await b.pass(10_000);
  t.is(b.counts.asked, 0, 'four attempts are not many');
  b.heard.failed();
  t.is(b.counts.asked, 0, 'not all agents at the same moment');
  await b.pass(10_000);
  t.is(b.counts.asked, 1);
  for (let i = 0; i < 10; i++) {
    b.heard.failed();
    await b.pass(5_000);
  }
  t.is(b.counts.asked, 1, 'not again within a minute');
  up = true;
  await b.pass(60_000);
  b.heard.failed();
  await b.pass(10_000);
  t.is(b.counts.asked, 2);
  t.deepEqual(b.brokers(), ['nats://new:1']);
  t.is(b.counts.woken, 1, 'it is tried at once');
});

test('few attempts that take long are enough, and one that succeeds makes the count begin anew', async (t) => {
  const b = bed(() => credentials('nats://new:1'));
  for (let i = 0; i < 4; i++) b.heard.failed();
  b.heard.connected(true);
  b.heard.connected(false);
  b.heard.failed();
  await b.pass(10_000);
  t.is(b.counts.asked, 0);
  await b.pass(10_000);
  b.heard.failed();
  await b.pass(10_000);
  t.is(b.counts.asked, 1);
});

test('a key that is not known is asked about until there is an answer, and the keys after a start and once a day anyway', async (t) => {
  let up = false;
  const b = bed(() => {
    if (!up) throw new EnrollError('unavailable', 'cannot reach it');
    return credentials('nats://old:1');
  });
  b.unknownKey();
  b.unknownKey();
  await settled();
  t.is(b.counts.asked, 1, 'anybody can make up such a message');
  await b.pass(100_000);
  t.is(b.counts.asked, 2);
  up = true;
  await b.pass(100_000);
  t.is(b.counts.asked, 3);
  await b.pass(60_000);
  t.is(b.counts.asked, 3, 'it knows now');
  await b.pass(12 * 3_600_000);
  t.is(b.counts.asked, 4);
  await b.pass(12 * 3_600_000);
  t.is(b.counts.asked, 5);
});

test('a renewal that is signed with a key that is not known is no reason not to ask about it', async (t) => {
  const b = bed(() => credentials('nats://old:1'));
  b.overBus(async () => {
    b.unknownKey();
    return new Uint8Array();
  });
  await b.pass(600_000);
  t.is(b.counts.asked, 1, 'after the start');
  // At two thirds of their life.
  await b.pass(17 * 3_600_000);
  t.is(b.counts.asked, 2);
});

test('a refusal to tell where the broker is does not keep the agent from the one it knows', async (t) => {
  const b = bed(() => {
    throw new EnrollError('invalid', 'there is no such node');
  });
  for (let i = 0; i < 5; i++) b.heard.failed();
  await b.pass(10_000);
  t.is(b.counts.asked, 1);
  t.is(b.counts.restMs, 0);
});

test('a control plane with another URL is asked at once', async (t) => {
  const b = bed(() => credentials('nats://new:1'), true);
  await settled();
  t.is(b.counts.asked, 1);
  t.deepEqual(b.brokers(), ['nats://new:1']);
});

test('a proof that a refusal asked for is tried again until it is done', async (t) => {
  let up = false;
  const b = bed(() => {
    if (!up) throw new EnrollError('unavailable', 'cannot reach it');
    return credentials('nats://new:1');
  });
  b.heard.refused('e30.e30.12');
  await settled();
  t.is(b.counts.asked, 1);
  up = true;
  await b.pass(60_000);
  t.is(b.counts.asked, 2);
  t.deepEqual(b.brokers(), ['nats://new:1']);
});

test('a proof that has failed keeps nobody from asking, once there is a session without it', async (t) => {
  let up = false;
  const b = bed(() => {
    if (!up) throw new EnrollError('unavailable', 'cannot reach it');
    return credentials('nats://old:1');
  });
  b.heard.refused('e30.e30.12');
  // The broker takes them after all, before the control plane has been found to be away.
  b.heard.connected(true);
  b.overBus(() => Promise.reject(new Error('not asked for')));
  await settled();
  await b.pass(120_000);
  up = true;
  const before = b.counts.asked;
  b.unknownKey();
  await settled();
  t.is(b.counts.asked, before + 1);
});

test('a key that is not known is asked about also when something else was asked a moment before', async (t) => {
  const b = bed(() => credentials('nats://old:1'), true);
  await settled();
  t.is(b.counts.asked, 1);
  b.unknownKey();
  await b.pass(120_000);
  t.is(b.counts.asked, 2);
  await b.pass(120_000);
  t.is(b.counts.asked, 2, 'it knows now');
});

test('a broker that refuses whatever it is shown does not have the control plane asked more than once a minute', async (t) => {
  const b = bed(() => credentials('nats://old:1'));
  for (let second = 0; second < 180; second += 1) {
    b.heard.refused('e30.e30.12');
    await b.pass(500);
    b.heard.connected(true);
    b.heard.connected(false);
    await b.pass(500);
  }
  t.true(b.counts.asked >= 3, `${b.counts.asked}`);
  t.true(b.counts.asked <= 4, `${b.counts.asked}`);
});
