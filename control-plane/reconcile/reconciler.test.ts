import test from 'ava';
import fc from 'fast-check';
import { ErrorReason } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { downSubject, upSubject } from '../../proto/subjects.ts';
import {
  agrees,
  bayUid,
  fixture,
  joined,
  nodeUid,
  put,
  remove,
  uidOf,
  until,
} from '../../test/harness/reconciler_bed.ts';
import { testVerifier } from '../../test/harness/signing.ts';
import { deleteObject } from '../domain/lifecycle.ts';
import { decode, encode } from '../domain/record.ts';
import { ScriptedAgent } from './scripted_agent.ts';

test('each commit reaches the agent as a delta on the one before', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  for (let i = 0; i < 20; i += 1) await put(f.store, i);
  await remove(f.store, 3);
  await until(t, 'agent has all', () => agrees(f.store, agent));
  t.is(agent.snapshots, 1, 'the empty one at the start');
  t.false(agent.lost);
  await agent.obey();
  await until(
    t,
    'the deleted one is gone on both sides',
    async () => agent.objects.size === 19 && (await agrees(f.store, agent)),
  );
});

test('what an agent has done about each change is recorded once, when it says so', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  const told = () =>
    f.notes.splice(0).map(({ kind, code, subject, project, message, objects }) => {
      const { bay, name, generation } = objects[0] ?? {};
      return [kind, code, subject, project, bay, name, generation, message].join(' ');
    });
  const fails = (phase: ContainerPhase, reason: string) =>
    agent.report([
      {
        uid: uidOf(1),
        status: { case: 'container', value: { phase, reason, delivery: { observedGeneration: 1n } } },
      },
    ]);
  await put(f.store, 1);
  await until(t, 'agent has it', () => agrees(f.store, agent));
  await fails(ContainerPhase.PULLING, '');
  t.deepEqual(told(), []);
  await fails(ContainerPhase.PENDING, 'ImagePullFailed');
  t.deepEqual(told(), ['effect failed node/n default b c1 1 ImagePullFailed']);
  // To and fro, and for another reason: of the same generation that is no news.
  await fails(ContainerPhase.PULLING, '');
  await fails(ContainerPhase.PENDING, 'NoSuchImage');
  t.deepEqual(told(), []);
  await agent.obey();
  await agent.obey();
  t.deepEqual(told(), ['effect applied node/n default b c1 1 ']);
  await put(f.store, 1);
  await until(t, 'agent has that, too', () => agrees(f.store, agent));
  await agent.obey();
  t.deepEqual(told(), ['effect applied node/n default b c1 2 ']);
  await remove(f.store, 1);
  await until(t, 'agent is to remove it', () => agrees(f.store, agent));
  await agent.obey();
  t.deepEqual(told(), ['effect removed node/n default b c1 2 ']);
});

test('an agent that was away gets what it missed as a delta', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  f.bus.lose = () => true;
  for (let i = 2; i < 10; i += 1) await put(f.store, i);
  await remove(f.store, 1);
  f.bus.lose = () => false;
  await agent.hello();
  await agent.sync();
  t.true(await agrees(f.store, agent));
  t.is(agent.snapshots, 1);
});

test('one that is behind what the feed keeps, or ahead of a restored store, gets everything', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  f.bus.lose = () => true;
  for (let i = 1; i < 10; i += 1) await put(f.store, i);
  await f.store.compact(f.store.revision, 0);
  f.bus.lose = () => false;
  agent.revision = 1;
  await agent.sync();
  t.true(await agrees(f.store, agent));
  agent.revision += 1000;
  agent.objects.clear();
  await agent.sync();
  t.true(await agrees(f.store, agent));
});

test('a snapshot larger than a message comes in pieces', async (t) => {
  const f = await fixture(t);
  f.bus.maxPayloadBytes = 8192;
  for (let i = 0; i < 200; i += 1) await put(f.store, i);
  const agent = await joined(f);
  t.true(await agrees(f.store, agent));
});

test('a delta larger than a message comes in pieces that chain', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  f.bus.lose = () => true;
  for (let i = 0; i < 200; i += 1) await put(f.store, i);
  f.bus.lose = () => false;
  f.bus.maxPayloadBytes = 8192;
  agent.revision = Math.max(agent.revision, 0);
  await put(f.store, 1);
  agent.lost = false;
  await agent.sync();
  t.true(await agrees(f.store, agent));
});

test('whatever is lost, and whoever restarts, heartbeats bring both sides together', async (t) => {
  const f = await fixture(t);
  let agent = await joined(f);
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.record({ do: fc.constant('put' as const), index: fc.nat(8) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('remove' as const), index: fc.nat(8) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('lose' as const, 'obey' as const), index: fc.nat(8) }) },
    {
      weight: 1,
      arbitrary: fc.record({
        do: fc.constantFrom('restart' as const, 'wipe' as const, 'hello' as const),
        index: fc.nat(8),
      }),
    },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
      for (const { do: what, index } of steps) {
        if (what === 'put') await put(f.store, index);
        if (what === 'remove') await remove(f.store, index);
        if (what === 'lose') f.bus.lose = f.bus.lose('') ? () => false : () => true;
        if (what === 'obey') await agent.obey();
        if (what === 'restart') await f.restart();
        if (what === 'hello') await agent.hello();
        if (what === 'wipe') {
          agent.close();
          agent = new ScriptedAgent(f.bus, { bayUid, nodeUid });
          await agent.hello();
          await agent.sync();
        }
      }
      f.bus.lose = () => false;
      await until(t, 'both agree', async () => {
        agent.heartbeat();
        return agrees(f.store, agent);
      });
      return true;
    }),
    { numRuns: 25 },
  );
  t.pass();
});

test('what waits for a node is placed when one can take it', async (t) => {
  const f = await fixture(t);
  await put(f.store, 1, '');
  await until(
    t,
    'placed on the only node',
    async () => (await f.store.get({ uid: uidOf(1) }))?.assigneeUid === nodeUid,
  );
  const agent = await joined(f);
  t.true(agent.objects.has(uidOf(1)));
});

test('a bay whose end is asked for goes when all in it has gone, and its keys are cut off', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  await put(f.store, 1);
  await f.store.write({
    reads: [{ uid: bayUid }],
    apply: (view) => {
      const stored = view.get({ uid: bayUid });
      if (!stored) return;
      const request = { etag: '', force: false, assigned: true, nowMs: Date.now() };
      view.put(encode('Bay', deleteObject('Bay', decode('Bay', stored), request).object, stored), '');
    },
  });
  await until(t, 'its container is to go', async () => (await f.store.get({ uid: uidOf(1) }))?.deleting === true);
  t.truthy(await f.store.get({ uid: bayUid }));
  await agent.obey();
  await until(t, 'gone', async () => (await f.store.get({ uid: bayUid })) === undefined);
  t.is(await f.store.get({ uid: nodeUid }), undefined);
  t.deepEqual(f.revoked, ['UNODE']);
  t.is((await agent.hello()).error?.reason, ErrorReason.REVOKED);
});

test('rubbish on every subject is answered or dropped, and ends nothing', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  const rubbish = new Uint8Array([255, 1, 2, 3, 255, 255, 255, 255, 255]);
  t.true((await f.bus.request(upSubject(agent.address, 'report'), rubbish)).byteLength > 0);
  // An answer to these is signed, together with what was asked: where that cannot be read there is none.
  for (const verb of ['hello', 'sync', 'renew'] as const) f.bus.publish(upSubject(agent.address, verb), rubbish);
  f.bus.publish(upSubject(agent.address, 'heartbeat'), rubbish);
  const stranger = new ScriptedAgent(f.bus, { bayUid, nodeUid: uidOf(99) });
  t.is((await stranger.hello()).error?.reason, ErrorReason.REVOKED);
  await put(f.store, 1);
  await until(t, 'it still works', () => agrees(f.store, agent));
});

test('what is sent is signed for the session that the agent has drawn, after a restart of the control plane too', async (t) => {
  const f = await fixture(t);
  const agent = await joined(f);
  const verifier = testVerifier(agent.address);
  const seen: Uint8Array[] = [];
  f.bus.subscribe(downSubject(agent.address, 'assign'), ({ data }) => void seen.push(data));
  await put(f.store, 1);
  await until(t, 'it was sent', () => seen.length > 0);
  await f.restart();
  agent.heartbeat();
  await until(t, 'the session is known again', () => seen.length > 1);
  await put(f.store, 2);
  await until(t, 'it was sent again', () => seen.length > 2);
  for (const data of seen) t.truthy(verifier.open('assign', agent.session, data));
  t.is(verifier.open('assign', new Uint8Array(16), seen[0] ?? new Uint8Array()), undefined);

  // The right epoch, and not what was drawn for it: that is another session, and is told to who said so.
  const { session } = agent;
  agent.session = new Uint8Array(16).fill(9);
  t.is((await agent.sync()).error?.reason, ErrorReason.FENCED);
  t.is((await agent.report([])).error?.reason, ErrorReason.FENCED);
  const before = seen.length;
  agent.heartbeat();
  await until(t, 'it is told', () => seen.length > before);
  t.truthy(verifier.open('assign', agent.session, seen.at(-1) ?? new Uint8Array()));
  agent.session = session;
  t.is((await agent.sync()).error, undefined);
});
