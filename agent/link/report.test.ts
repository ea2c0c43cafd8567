import { create, fromBinary } from '@bufbuild/protobuf';
import test from 'ava';
import {
  type Error as BusError,
  ErrorReason,
  type ObjectReport,
  ObjectReportSchema,
  type Report,
  type ReportReply,
  ReportReplySchema,
  ReportSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { FakeClock, turn } from '../../test/harness/fake_clock.ts';
import { testNonce } from '../../test/harness/signing.ts';
import { silentLog } from '../log.ts';
import { Reporter } from './report.ts';

const word = (uid: string, message = ''): ObjectReport =>
  create(ObjectReportSchema, { uid, status: { case: 'container', value: { message } } });
const ok = create(ReportReplySchema);
const refusal = (reason: ErrorReason) => create(ReportReplySchema, { error: { reason, message: 'no' } });

function bed(answer: (report: Report) => Promise<ReportReply> | ReportReply = () => ok, unseen = () => 0) {
  const clock = new FakeClock();
  const sent: Report[] = [];
  const refused: BusError[] = [];
  const reporter = new Reporter({
    send: async (bytes) => {
      const report = fromBinary(ReportSchema, bytes);
      sent.push(report);
      return answer(report);
    },
    onRefused: (error) => refused.push(error),
    clock,
    log: silentLog,
    random: () => 0.5,
    unseen,
  });
  return { clock, sent, refused, reporter };
}
const uidsOf = (report: Report | undefined) => report?.objects.map(({ uid }) => uid);

test('the first word goes out at once, and what comes meanwhile goes together', async (t) => {
  const { clock, sent, reporter } = bed();
  reporter.open({ epoch: 7n, nonce: testNonce }, []);
  reporter.put(word('a'));
  t.deepEqual(uidsOf(sent[0]), ['a']);
  for (let i = 0; i < 100; i += 1) reporter.put(word('b', `${i}`));
  reporter.put(word('c'));
  await clock.advance(10);
  t.is(sent.length, 2);
  t.deepEqual(uidsOf(sent[1]), ['b', 'c']);
  t.is(sent[1]?.objects[0]?.status.value?.message, '99');
  t.deepEqual(
    sent.map((r) => [r.epoch, r.sequence]),
    [
      [7n, 1n],
      [7n, 2n],
    ],
  );
  t.is(reporter.pending, 0);
});

test('what is not acknowledged is sent again, in its latest form, with a newer sequence', async (t) => {
  let away = true;
  const { clock, sent, reporter } = bed(() => (away ? Promise.reject(new Error('away')) : ok));
  reporter.open({ epoch: 1n, nonce: testNonce }, []);
  reporter.put(word('a', 'old'));
  await clock.advance(0);
  reporter.put(word('a', 'new'));
  t.is(reporter.pending, 1);
  await clock.advance(120_000);
  const tries = sent.length;
  t.true(tries > 5 && tries < 40, `${tries} tries in two minutes`);
  away = false;
  await clock.advance(15_000);
  t.is(sent.at(-1)?.objects[0]?.status.value?.message, 'new');
  t.is(reporter.pending, 0);
  t.deepEqual(
    sent.map((r) => r.sequence),
    sent.map((_, i) => BigInt(i + 1)),
  );
});

test('a word that changes while its report is under way is not taken for acknowledged', async (t) => {
  const { promise, resolve } = Promise.withResolvers<ReportReply>();
  let first = true;
  const { clock, sent, reporter } = bed(() => {
    if (!first) return ok;
    first = false;
    return promise;
  });
  reporter.open({ epoch: 1n, nonce: testNonce }, []);
  reporter.put(word('a', 'old'));
  reporter.put(word('a', 'new'));
  resolve(ok);
  await clock.advance(10);
  t.is(sent.length, 2);
  t.is(sent[1]?.objects[0]?.status.value?.message, 'new');
});

test('nothing is sent outside of a session, and a new session reports everything', async (t) => {
  const { clock, sent, reporter } = bed();
  reporter.put(word('a'));
  await clock.advance(60_000);
  t.is(sent.length, 0);
  reporter.open({ epoch: 1n, nonce: testNonce }, [word('b')]);
  await clock.advance(10);
  t.deepEqual(sent.flatMap((r) => uidsOf(r) ?? []).sort(), ['a', 'b']);
  reporter.close();
  reporter.put(word('c'));
  await clock.advance(60_000);
  t.is(sent.length, 1);
  reporter.open({ epoch: 2n, nonce: testNonce }, [word('a'), word('b')]);
  await clock.advance(10);
  t.deepEqual(
    sent
      .slice(1)
      .flatMap((r) => uidsOf(r) ?? [])
      .sort(),
    ['a', 'b', 'c'],
  );
  t.is(sent.at(-1)?.epoch, 2n);
  t.is(sent[1]?.sequence, 1n);
});

test('an answer to the report of an older session acknowledges nothing', async (t) => {
  const { promise, resolve } = Promise.withResolvers<ReportReply>();
  let first = true;
  const { clock, sent, reporter } = bed(() => {
    if (!first) return ok;
    first = false;
    return promise;
  });
  reporter.open({ epoch: 1n, nonce: testNonce }, []);
  reporter.put(word('a'));
  reporter.close();
  reporter.open({ epoch: 2n, nonce: testNonce }, []);
  resolve(ok);
  await clock.advance(10);
  t.deepEqual(
    sent.map((r) => r.epoch),
    [1n, 2n],
  );
});

test('objects that are unknown by now are dropped; batches are bounded in number and size', async (t) => {
  const { clock, sent, reporter } = bed((report) => create(ReportReplySchema, { unknownUids: uidsOf(report) }));
  reporter.open(
    { epoch: 1n, nonce: testNonce },
    Array.from({ length: 1000 }, (_, i) => word(`c-${i}`)),
  );
  await clock.advance(100);
  t.deepEqual(
    sent.map((r) => r.objects.length),
    [256, 256, 256, 232],
  );
  t.deepEqual(
    sent.map((r) => r.pending),
    [744, 488, 232, 0],
  );
  reporter.open(
    { epoch: 2n, nonce: testNonce },
    Array.from({ length: 10 }, (_, i) => word(`d-${i}`, 'x'.repeat(100_000))),
  );
  reporter.put(word('huge', 'x'.repeat(600_000)));
  await clock.advance(100);
  t.deepEqual(
    sent.slice(4).map((r) => r.objects.length),
    [5, 5],
  );
  t.is(reporter.pending, 0);
});

test('what was not looked at yet counts as pending', async (t) => {
  let unseen = 2;
  const { clock, sent, reporter } = bed(
    () => ok,
    () => unseen,
  );
  reporter.open({ epoch: 1n, nonce: testNonce }, [word('a')]);
  await clock.advance(10);
  t.is(sent[0]?.pending, 2);
  t.is(reporter.pending, 2);
  unseen = 0;
  reporter.put(word('b'));
  await clock.advance(10);
  t.is(sent[1]?.pending, 0);
  t.is(reporter.pending, 0);
});

test('one report that is not understood does not hold up the others', async (t) => {
  const { clock, sent, reporter } = bed((report) =>
    uidsOf(report)?.includes('bad') ? refusal(ErrorReason.INVALID) : ok,
  );
  reporter.open(
    { epoch: 1n, nonce: testNonce },
    ['a', 'b', 'bad', 'c', 'd'].map((uid) => word(uid)),
  );
  await clock.advance(60_000);
  t.is(reporter.pending, 0);
  const well = new Set(sent.filter((r) => !uidsOf(r)?.includes('bad')).flatMap((r) => uidsOf(r) ?? []));
  t.deepEqual([...well].sort(), ['a', 'b', 'c', 'd']);
});

test('a refusal of the session is passed on once, and nothing is lost', async (t) => {
  const { clock, refused, reporter } = bed(() => refusal(ErrorReason.FENCED));
  reporter.open({ epoch: 1n, nonce: testNonce }, [word('a')]);
  await turn();
  reporter.close();
  await clock.advance(60_000);
  t.is(refused.length, 1);
  t.is(reporter.pending, 1);
});
