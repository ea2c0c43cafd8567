import { toJson } from '@bufbuild/protobuf';
import test from 'ava';
import { ErrorReason } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { NodePhase, NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { containerOf, fixture, joined, nodeUid, put, remove, uidOf, until } from '../../test/harness/reconciler_bed.ts';
import { decode } from '../domain/record.ts';

test('a report of an older session or sequence changes nothing', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  const say = (exitCode: number, fence: { epoch?: bigint; sequence?: bigint } = {}) =>
    agent.report(
      [{ uid: uidOf(1), status: { case: 'container', value: { phase: ContainerPhase.RUNNING, exitCode } } }],
      fence,
    );
  await say(1, { sequence: 10n });
  await say(2, { sequence: 9n });
  await say(3, { sequence: 10n });
  t.is((await containerOf(f.store, 1))?.status?.exitCode, 1);
  const old = agent.epoch;
  await agent.hello();
  t.is((await say(4, { epoch: old, sequence: 11n })).error?.reason, ErrorReason.FENCED);
  t.is((await containerOf(f.store, 1))?.status?.exitCode, 1);
  await say(5);
  t.is((await containerOf(f.store, 1))?.status?.exitCode, 5);
});

test('a report that says nothing new is not written', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  await agent.obey();
  const { revision } = f.store;
  await agent.obey();
  t.is(f.store.revision, revision);
});

test('an object is ended only by a report on one whose end was asked for', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  await agent.report([{ uid: uidOf(1), removed: true }]);
  t.truthy(await containerOf(f.store, 1));
  await remove(f.store, 1);
  await agent.report([{ uid: uidOf(1), removed: true }]);
  t.is(await containerOf(f.store, 1), undefined);
});

test('nobody reports on what is not theirs', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1, uidOf(98));
  const running = { case: 'container' as const, value: { phase: ContainerPhase.RUNNING } };
  const reply = await agent.report([
    { uid: uidOf(1), status: running },
    { uid: uidOf(77), removed: true },
  ]);
  t.deepEqual(reply.unknownUids, [uidOf(1), uidOf(77)]);
  t.is((await containerOf(f.store, 1))?.status?.phase, ContainerPhase.PENDING);
});

test('a report that was overtaken by one that changed nothing is not taken either', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  const say = (exitCode: number, sequence: bigint) =>
    agent.report(
      [{ uid: uidOf(1), status: { case: 'container', value: { phase: ContainerPhase.RUNNING, exitCode } } }],
      {
        sequence,
      },
    );
  await say(1, 3n);
  // Nothing new in it, so nothing is written; but it is the newest word.
  await say(1, 5n);
  await say(2, 4n);
  t.is((await containerOf(f.store, 1))?.status?.exitCode, 1);
  await say(2, 6n);
  t.is((await containerOf(f.store, 1))?.status?.exitCode, 2);
});

test('a report or heartbeat with times that cannot be shown is refused', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  const never = { seconds: 10n ** 15n, nanos: 0 };
  const reply = await agent.report([
    { uid: uidOf(1), status: { case: 'container', value: { phase: ContainerPhase.RUNNING, startTime: never } } },
  ]);
  t.is(reply.error?.reason, ErrorReason.INVALID);
  t.is((await containerOf(f.store, 1))?.status?.startTime, undefined);
  const conditions = [{ type: 'Ready', lastTransitionTime: never }];
  agent.heartbeat({ phase: NodePhase.NOT_READY, conditions });
  agent.heartbeat({ phase: NodePhase.READY, info: { bootTime: never } });
  agent.heartbeat({ phase: NodePhase.READY });
  await until(t, 'the good one was taken', async () => {
    const node = await f.store.get({ uid: nodeUid });
    return (node && decode('Node', node).status?.phase) === NodePhase.READY;
  });
  const node = await f.store.get({ uid: nodeUid });
  t.notThrows(() => node && toJson(NodeSchema, decode('Node', node)));
});
