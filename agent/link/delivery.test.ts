import { fromBinary, toBinary } from '@bufbuild/protobuf';
import test from 'ava';
import { AssignmentOp, AssignSchema, ErrorReason, SyncRequestSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { ChainModel, chunksOf } from '../../test/harness/chain_model.ts';
import { address, bed, nonceOf, reply, verifier } from '../../test/harness/delivery_bed.ts';
import { TestSigner, testSigner } from '../../test/harness/signing.ts';
import { silentLog } from '../log.ts';
import { Delivery } from './delivery.ts';

test('a gap is asked about once, however many deltas show it', async (t) => {
  const b = await bed(t);
  const before = b.syncs.length;
  b.chain.put('lost');
  for (let i = 0; i < 50; i += 1) {
    b.chain.put(`c-${i}`);
    b.publish(b.chain.newest(1n));
  }
  await b.arriveAll();
  await b.clock.advance(600);
  await b.arriveAll();
  t.is(b.syncs.length, before + 1);
  t.true(b.converged);
});

test('what was lost while a sync was under way is asked for after it', async (t) => {
  const b = await bed(t);
  await b.clock.advance(1_000);
  b.chain.put('a');
  b.chain.put('b');
  b.publish(b.chain.newest(1n));
  await b.arriveAll();
  // The answer is on the wire; meanwhile there is more, which comes first and does not fit.
  b.chain.put('c');
  const answer = b.wire.splice(0);
  b.publish(b.chain.newest(1n));
  await b.arriveAll();
  b.wire.push(...answer);
  await b.arriveAll();
  await b.clock.advance(600);
  await b.arriveAll();
  t.true(b.converged);
});

test('a control plane that answers and sends nothing is asked again, ever more seldom', async (t) => {
  const b = await bed(t);
  b.chain.put('lost');
  b.chain.put('a');
  b.publish(b.chain.newest(1n));
  const before = b.syncs.length;
  for (let minute = 0; minute < 10; minute += 1) {
    for (let i = 0; i < 60; i += 1) {
      for (const data of b.wire.splice(0)) if (b.syncs.length === before) b.delivery.receive(data);
      await b.clock.advance(1_000);
    }
  }
  t.true(b.syncs.length - before > 5, `${b.syncs.length - before}`);
  t.true(b.syncs.length - before < 25, `${b.syncs.length - before}`);
});

test('an unreachable control plane is asked with back-off, and all is well when it is back', async (t) => {
  const b = await bed(t);
  b.up = false;
  b.chain.put('lost');
  b.chain.put('a');
  b.publish(b.chain.newest(1n));
  await b.arriveAll();
  await b.clock.advance(300_000);
  b.up = true;
  for (let i = 0; i < 120 && !b.converged; i += 1) {
    await b.clock.advance(1_000);
    await b.arriveAll();
  }
  t.true(b.converged);
});

test('a refused session is passed on', async (t) => {
  const { promise, resolve } = Promise.withResolvers<ErrorReason>();
  const b = await bed(t);
  new Delivery({
    address,
    link: {
      request: async (_, data) => reply(fromBinary(SyncRequestSchema, data), { error: { reason: ErrorReason.FENCED } }),
    },
    store: b.store,
    verifier,
    onRefused: (error) => resolve(error.reason),
    onOtherSession: () => undefined,
    onHeard: () => undefined,
    clock: b.clock,
    log: silentLog,
  }).open(1n, nonceOf(1n));
  t.is(await promise, ErrorReason.FENCED);
});

test('nobody leads the agent back to an older revision with what was true once', async (t) => {
  const b = await bed(t);
  const answers: Uint8Array[] = [];
  b.meddle = (answer) => {
    answers.push(answer);
    return answer;
  };
  b.chain.put('old');
  const snapshot = chunksOf(b.epoch, b.chain.snapshot(), b.chunkBytes);
  await b.clock.advance(70_000);
  await b.arriveAll();
  t.is(b.store.revision, 1n);
  t.is(answers.length, 1);
  b.chain.put('new');
  b.publish(b.chain.newest(b.epoch));
  await b.arriveAll();
  // The broker holds the true answer back from now on, and gives the old one; it has the old snapshot as well.
  b.meddle = () => answers[0] ?? new Uint8Array();
  for (let i = 0; i < 30; i += 1) {
    b.publish(...snapshot);
    await b.arriveAll();
    await b.clock.advance(10_000);
  }
  t.is(b.store.revision, 2n);
  t.true(b.workloads.running.has('new'));
  b.meddle = (answer) => answer;
  await b.clock.advance(100_000);
  await b.arriveAll();
  t.true(b.converged);
});

test('what is meant for another bay or node, of another session, or by somebody else is not taken', async (t) => {
  const b = await bed(t);
  b.chain.put('a');
  const assign = b.chain.newest(b.epoch);
  const nonce = nonceOf(b.epoch);
  b.wire.push(
    testSigner.assign({ ...address, bayUid: 'bay-2' }, assign, nonce),
    testSigner.assign({ ...address, nodeUid: 'node-2' }, assign, nonce),
    testSigner.assign(address, assign, nonceOf(b.epoch + 1n)),
    new TestSigner(8).assign(address, assign, nonce),
    toBinary(AssignSchema, assign),
  );
  await b.arriveAll();
  t.is(b.store.revision, 0n);
  t.is(b.workloads.running.size, 0);
  b.publish(assign);
  await b.arriveAll();
  t.is(b.store.revision, 1n);
});

test('a state with too many messages, or old signatures, is asked for anew, and only once', async (t) => {
  const b = await bed(t);
  b.chain.put('a');
  await b.clock.advance(70_000);
  await b.arriveAll();
  t.false(b.store.isWorn);
  for (let i = 0; i < 1_001; i += 1) {
    b.chain.put('a');
    b.publish(b.chain.newest(b.epoch));
  }
  await b.arriveAll();
  t.true(b.store.isWorn);
  const before = b.syncs.length;
  for (let i = 0; i < 3; i += 1) {
    await b.clock.advance(75_000);
    await b.arriveAll();
  }
  t.false(b.store.isWorn);
  t.true(b.converged);
  t.is(b.syncs.slice(before).filter(({ appliedRevision }) => appliedRevision === 0n).length, 1);
});

test('a control plane that was put back to a backup is followed, also when the messages on disk are due to be had anew', async (t) => {
  const b = await bed(t);
  for (let i = 0; i < 1_001; i += 1) {
    b.chain.put('a');
    b.publish(b.chain.newest(b.epoch));
  }
  await b.arriveAll();
  t.true(b.store.isWorn);
  b.chain = new ChainModel();
  b.chain.put('b');
  const before = b.syncs.length;
  for (let i = 0; i < 40 && !b.converged; i += 1) {
    await b.clock.advance(5_000);
    await b.arriveAll();
  }
  t.true(b.converged);
  t.true(b.syncs.length - before < 5, `${b.syncs.length - before}`);
});

test('what a control plane that was put back has made of an object counts, though its generation is one that was there before', async (t) => {
  const b = await bed(t);
  const image = (uid: string) => {
    const spec = b.store.current.objects.get(uid)?.assignment.spec;
    return spec?.case === 'container' ? spec.value.image : undefined;
  };
  b.chain.put('a', 'before');
  b.chain.put('b', 'before');
  b.chain.put('c');
  await b.clock.advance(70_000);
  await b.arriveAll();
  t.is(image('a'), 'before');
  b.chain = new ChainModel();
  b.chain.put('a', 'after');
  await b.clock.advance(70_000);
  await b.arriveAll();
  t.true(b.converged);
  t.is(image('a'), 'after');
  // So it is where the numbers fit by chance, and a delta brings it.
  await b.restart();
  await b.arriveAll();
  const put = b.chain.put('a', 'by a delta');
  put.generation = b.store.current.objects.get('a')?.assignment.generation ?? 0n;
  b.publish(b.chain.newest(b.epoch));
  await b.arriveAll();
  t.is(image('a'), 'by a delta');
});

test('what a control plane that was put back changes next is taken at once, though its revision is one that was there before', async (t) => {
  const b = await bed(t);
  b.chain.put('a', 'same', Kind.CONTAINER, 10n);
  await b.clock.advance(70_000);
  await b.arriveAll();
  b.chain = new ChainModel();
  b.chain.put('a', 'same');
  await b.clock.advance(70_000);
  await b.arriveAll();
  t.is(b.store.revision, 1n);
  b.chain.put('a', 'other');
  b.publish(b.chain.newest(b.epoch));
  await b.arriveAll();
  t.true(b.converged);
});

test('within a delta, and from delta to delta, an object does not go back', async (t) => {
  const b = await bed(t);
  const old = b.chain.put('a', 'old');
  b.publish(b.chain.newest(1n));
  b.chain.put('a', 'new');
  b.publish(b.chain.newest(1n));
  b.chain.delete('a');
  b.publish(b.chain.newest(1n));
  await b.arriveAll();
  b.chain.put('b');
  const delta = b.chain.newest(1n);
  if (delta.body.case === 'delta') delta.body.value.assignments.push(old);
  b.publish(delta);
  await b.arriveAll();
  t.is(b.store.current.objects.get('a')?.assignment.op, AssignmentOp.DELETE);
});
