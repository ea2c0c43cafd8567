import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { Registry } from 'prom-client';
import { ContainerSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { type Node, NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { testSigner } from '../../test/harness/signing.ts';
import { until } from '../../test/harness/until.ts';
import type { Access } from '../broker/port.ts';
import { UnavailableError } from '../domain/errors.ts';
import { deleteObject, newObject } from '../domain/lifecycle.ts';
import { decode, encode } from '../domain/record.ts';
import { openSqliteStore } from '../store/sqlite.ts';
import { startReconciler } from './reconciler.ts';
import { RevokedKeys } from './revoked_keys.ts';
import { LocalBus } from './scripted_agent.ts';

const log = pino({ level: 'silent' });
const bayUid = '00000000-0000-7000-8000-00000000000b';
const nodeUid = '00000000-0000-7000-8000-00000000000a';
const containerUid = '00000000-0000-7000-8000-00000000000c';
const made = { project: 'default', bay: 'b', nowMs: Date.now() };

async function fixture(t: ExecutionContext) {
  const dir = await mkdtemp(join(tmpdir(), 'node-finalizer-'));
  const clock = { offsetMs: 0, now: () => Date.now() + clock.offsetMs };
  const store = await openSqliteStore({ file: join(dir, 'store.db'), clock, log });
  const revoked: string[] = [];
  const broker = { away: false };
  const access: Access = {
    urls: [],
    issue: async () => ({ userJwt: 'jwt', issueTimeMs: 0, expireTimeMs: 1 }),
    revoke: async (keys) => {
      if (broker.away) throw new UnavailableError('the broker cannot be reached');
      revoked.push(...keys);
    },
    onConnection: () => () => undefined,
  };
  const registry = new Registry();
  const start = async () => {
    const reconciler = await startReconciler({
      store,
      bus: new LocalBus(),
      signer: testSigner,
      access,
      clock,
      log,
      registry,
    });
    t.teardown(() => reconciler.close());
    return reconciler;
  };
  t.teardown(async () => {
    await store.close();
    await rm(dir, { recursive: true });
  });
  const node = newObject(
    'Node',
    create(NodeSchema, { metadata: { name: 'n', bay: 'b' }, spec: { publicKey: 'UNODE' } }),
    { ...made, uid: nodeUid },
  );
  await store.write({
    reads: [{ uid: nodeUid }, { kind: 'Node', project: 'default', bayUid, namespace: '', name: 'n' }],
    apply: (view) => view.put(encode('Node', node, { bayUid, assigneeUid: '', epoch: 0, sequence: 0 }), ''),
  });
  const changeNode = (change: (node: Node) => void) =>
    store.write({
      reads: [{ uid: nodeUid }],
      apply: (view) => {
        const stored = view.get({ uid: nodeUid });
        if (!stored) throw new Error('the node is gone');
        const object = decode('Node', stored);
        change(object);
        view.put(encode('Node', object, stored), '');
      },
    });
  return {
    store,
    clock,
    revoked,
    broker,
    access,
    registry,
    start,
    changeNode,
    /** What the API does first when a node is deleted. */
    mark: () =>
      changeNode((object) => {
        deleteObject('Node', object, { etag: '', force: false, assigned: true, nowMs: clock.now() });
      }),
    isGone: async () => (await store.get({ uid: nodeUid })) === undefined,
  };
}

test.serial('a node whose end a crash has cut short ends at the next start, once the broker can be told', async (t) => {
  const f = await fixture(t);
  await f.mark();
  f.clock.offsetMs = 5_000;
  f.broker.away = true;
  await f.start();
  t.false(await f.isGone());
  f.broker.away = false;
  await until('the node is gone', f.isGone);
  t.deepEqual(f.revoked, ['UNODE']);
});

test.serial(
  'an end that was asked for now is left to the call that asked, and finished when it has not been',
  async (t) => {
    const f = await fixture(t);
    await f.start();
    await f.mark();
    await new Promise((resolve) => setImmediate(resolve));
    t.false(await f.isGone());
    t.deepEqual(f.revoked, []);
    f.clock.offsetMs = 120_000;
    await until('the node is gone', f.isGone, { timeoutMs: 20_000 });
    t.deepEqual(f.revoked, ['UNODE']);
  },
);

test.serial('a node goes no sooner than what is on it', async (t) => {
  const f = await fixture(t);
  const input = create(ContainerSchema, { metadata: { name: 'c', bay: 'b' }, spec: { image: 'i' } });
  const container = newObject('Container', input, { ...made, uid: containerUid });
  await f.store.write({
    reads: [{ uid: containerUid }, { kind: 'Container', project: 'default', bayUid, namespace: 'default', name: 'c' }],
    apply: (view) =>
      view.put(encode('Container', container, { bayUid, assigneeUid: nodeUid, epoch: 0, sequence: 0 }), nodeUid),
  });
  await f.mark();
  f.clock.offsetMs = 5_000;
  const first = await f.start();
  await first.close();
  t.false(await f.isGone());
  t.deepEqual(f.revoked, []);
  await f.store.write({ reads: [{ uid: containerUid }], apply: (view) => view.remove(containerUid, nodeUid) });
  f.registry.clear();
  await f.start();
  await until('the node is gone', f.isGone);
});

test.serial('a key whose revocation a crash has cut short is cut off at the next start', async (t) => {
  const f = await fixture(t);
  const keys = new RevokedKeys({ store: f.store, clock: f.clock, credentialTtlMs: 3_600_000 });
  t.deepEqual(await keys.list(), []);
  await f.changeNode((node) => {
    if (node.spec) node.spec.revoked = true;
  });
  t.deepEqual(await keys.list(), ['UNODE']);
  // Past the life of what it could have been given there is nothing to cut off.
  f.clock.offsetMs = 2 * 3_600_000;
  t.deepEqual(await keys.list(), []);
});
