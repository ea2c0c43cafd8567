import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import type { ExecutionContext } from 'ava';
import { pino } from 'pino';
import type { AuditEntry } from '../../control-plane/audit/port.ts';
import type { Access, ConnectionEvent } from '../../control-plane/broker/port.ts';
import { deleteObject, newObject } from '../../control-plane/domain/lifecycle.ts';
import { decode, encode } from '../../control-plane/domain/record.ts';
import type { LivenessTracker } from '../../control-plane/reconcile/liveness.ts';
import { type Reconciler, startReconciler } from '../../control-plane/reconcile/reconciler.ts';
import { LocalBus, ScriptedAgent } from '../../control-plane/reconcile/scripted_agent.ts';
import type { Store } from '../../control-plane/store/port.ts';
import { openSqliteStore } from '../../control-plane/store/sqlite.ts';
import { BaySchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { testSigner } from './signing.ts';

const log = pino({ level: 'silent' });
/** Of bay `b`, and node `n` in it. */
export const bayUid = '00000000-0000-7000-8000-00000000000b';
export const nodeUid = '00000000-0000-7000-8000-00000000000a';

/** Fails the test when it does not come true. */
export async function until(
  t: ExecutionContext,
  what: string,
  condition: () => boolean | Promise<boolean>,
): Promise<void> {
  for (let i = 0; i < 2000; i += 1) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  t.fail(`did not come true: ${what}`);
}

/** What the reconciler itself does every second. */
export const trackerOf = (reconciler: Reconciler) => reconciler.liveness as LivenessTracker;

/** A reconciler on a real store, and a bus that a test looks into. */
export async function fixture(t: ExecutionContext) {
  const dir = await mkdtemp(join(tmpdir(), 'reconciler-'));
  const clock = { offsetMs: 0, now: () => Date.now() + clock.offsetMs };
  const store = await openSqliteStore({ file: join(dir, 'store.db'), clock, log });
  const bus = new LocalBus();
  const listeners = new Set<(event: ConnectionEvent) => void>();
  const revoked: string[] = [];
  const access: Access = {
    urls: ['nats://127.0.0.1:1'],
    issue: async () => ({ userJwt: 'jwt', issueTimeMs: 0, expireTimeMs: 1 }),
    revoke: async (keys) => {
      revoked.push(...keys);
    },
    onConnection: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  const notes: AuditEntry[] = [];
  const audit = { note: (entry: AuditEntry) => void notes.push(entry) };
  const start = () => startReconciler({ store, bus, signer: testSigner, access, clock, log, audit, heartbeatMs: 200 });
  const self = {
    t,
    clock,
    store,
    bus,
    notes,
    revoked,
    reconciler: await start(),
    restart: async () => {
      await self.reconciler.close();
      self.reconciler = await start();
    },
    sweep: () => trackerOf(self.reconciler).sweep(),
    connection: (connected: boolean, connectionId: string) => {
      for (const listener of listeners) listener({ publicKey: 'UNODE', connected, connectionId, timeMs: clock.now() });
    },
  };
  t.teardown(async () => {
    await self.reconciler.close();
    await store.close();
    await rm(dir, { recursive: true });
  });
  await store.write({
    reads: [{ uid: bayUid }, { uid: nodeUid }, ...names('Bay', 'b', ''), ...names('Node', 'n', bayUid)],
    apply: (view) => {
      const made = { project: 'default', bay: '', nowMs: clock.now() };
      const bay = newObject('Bay', create(BaySchema, { metadata: { name: 'b' }, spec: {} }), { ...made, uid: bayUid });
      view.put(encode('Bay', bay, { bayUid: '', assigneeUid: '', epoch: 0, sequence: 0 }), '');
      const input = create(NodeSchema, { metadata: { name: 'n', bay: 'b' }, spec: { publicKey: 'UNODE' } });
      const node = newObject('Node', input, { ...made, bay: 'b', uid: nodeUid });
      view.put(encode('Node', node, { bayUid, assigneeUid: '', epoch: 0, sequence: 0 }), '');
    },
  });
  return self;
}

const names = (kind: string, name: string, bay: string, namespace = '') => [
  { kind, project: 'default', bayUid: bay, namespace, name },
];
/** Of container `index`. */
export const uidOf = (index: number) => `00000000-0000-7000-8000-${String(index).padStart(12, '0')}`;

/** Makes, or changes, container `index`. */
export async function put(store: Store, index: number, node = nodeUid, generation = 1): Promise<void> {
  const uid = uidOf(index);
  await store.write({
    reads: [{ uid }, ...names('Container', `c${index}`, bayUid, 'default')],
    apply: (view) => {
      const stored = view.get({ uid });
      if (stored?.deleting) return;
      const container = stored
        ? decode('Container', stored)
        : newObject(
            'Container',
            create(ContainerSchema, { metadata: { name: `c${index}`, bay: 'b' }, spec: { image: 'i' } }),
            {
              uid,
              project: 'default',
              bay: 'b',
              nowMs: Date.now(),
            },
          );
      if (container.metadata) container.metadata.generation = BigInt(stored ? stored.generation + 1 : generation);
      view.put(
        encode('Container', container, stored ?? { bayUid, assigneeUid: node, epoch: 0, sequence: 0 }),
        stored?.assigneeUid ?? node,
      );
    },
  });
}

/** Asks for the end of container `index`. */
export async function remove(store: Store, index: number): Promise<void> {
  const uid = uidOf(index);
  await store.write({
    reads: [{ uid }],
    apply: (view) => {
      const stored = view.get({ uid });
      if (!stored || stored.deleting) return;
      const { object } = deleteObject('Container', decode('Container', stored), {
        etag: '',
        force: false,
        assigned: true,
        nowMs: Date.now(),
      });
      view.put(encode('Container', object, stored), stored.assigneeUid);
    },
  });
}

/** What the agent has against what the store says it should have. */
export async function agrees(store: Store, agent: ScriptedAgent): Promise<boolean> {
  const set = await store.assigned(nodeUid);
  return (
    agent.revision === set.head &&
    agent.objects.size === set.objects.length &&
    set.objects.every(({ uid, generation }) => Number(agent.objects.get(uid)?.generation) === generation)
  );
}

/** An agent that has what it should, and is heard. */
export async function joined(f: Awaited<ReturnType<typeof fixture>>): Promise<ScriptedAgent> {
  const agent = new ScriptedAgent(f.bus, { bayUid, nodeUid });
  await agent.hello();
  await agent.sync();
  agent.heartbeat();
  await until(f.t, 'fresh', () => f.reconciler.liveness.node(nodeUid)?.fresh === true);
  return agent;
}

/** Container `index` as it is stored. */
export const containerOf = async (store: Store, index: number) => {
  const stored = await store.get({ uid: uidOf(index) });
  return stored && decode('Container', stored);
};
