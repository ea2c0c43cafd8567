import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import test from 'ava';
import fc from 'fast-check';
import {
  type Assign,
  AssignmentOp,
  AssignSchema,
  ErrorReason,
  SyncReplySchema,
  type SyncRequest,
  SyncRequestSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ChainModel, chunksOf } from '../../test/harness/chain_model.ts';
import { FakeClock } from '../../test/harness/fake_clock.ts';
import { FakeWorkloads } from '../../test/harness/fake_workloads.ts';
import { TestSigner, testSigner, testVerifier } from '../../test/harness/signing.ts';
import { silentLog } from '../log.ts';
import { Delivery } from './delivery.ts';
import { LinkError } from './link.ts';
import { DesiredStore } from './state.ts';

const address = { bayUid: 'bay-1', nodeUid: 'node-1' };
const verifier = testVerifier(address);
/** What is drawn for a session. */
const nonceOf = (epoch: bigint) => new Uint8Array(16).fill(Number(epoch % 256n));
const signed = (assign: Assign) => testSigner.assign(address, assign, nonceOf(assign.epoch));

const reply = ({ nonce }: SyncRequest, init: MessageInitShape<typeof SyncReplySchema>) =>
  testSigner.seal(
    { ...address, purpose: 'sync-reply', nonce },
    toBinary(SyncReplySchema, create(SyncReplySchema, init)),
  );

/** A control plane and an agent's Delivery, with a wire between them that a test holds in its hands. */
class Bed {
  readonly clock = new FakeClock();
  readonly chain = new ChainModel();
  readonly wire: Uint8Array[] = [];
  readonly syncs: SyncRequest[] = [];
  epoch = 1n;
  /** Whether the control plane can be reached. */
  up = true;
  chunkBytes = 150;
  /** What a broker makes of an answer. */
  meddle: (answer: Uint8Array) => Uint8Array = (answer) => answer;
  /** Most chunks are sent under the session's epoch. */
  store!: DesiredStore;
  delivery!: Delivery;
  workloads!: FakeWorkloads;
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  async start(): Promise<void> {
    const { clock } = this;
    const running = this.workloads?.running ?? new Map<string, bigint>();
    const removals = this.workloads?.removals ?? [];
    this.store = await DesiredStore.open({ ...address, path: this.#path, verifier, clock, log: silentLog });
    this.workloads = new FakeWorkloads({ desired: this.store, reports: { put() {} } });
    for (const [uid, generation] of running) this.workloads.running.set(uid, generation);
    this.workloads.removals.push(...removals);
    this.workloads.start();
    this.delivery = new Delivery({
      address,
      link: { request: (_, data) => this.#request(data) },
      store: this.store,
      verifier,
      onRefused: () => undefined,
      onOtherSession: () => undefined,
      onHeard: () => undefined,
      clock,
      log: silentLog,
      random: () => 0.5,
    });
    this.delivery.open(this.epoch, nonceOf(this.epoch));
  }

  async restart(): Promise<void> {
    this.delivery.close();
    await this.store.close();
    this.epoch += 1n;
    await this.start();
  }

  publish(...assigns: Assign[]): void {
    for (const assign of assigns) this.wire.push(signed(assign));
  }

  async settle(): Promise<void> {
    await this.clock.advance(0);
    await this.store.settled();
    await this.clock.advance(0);
  }

  async arriveAll(): Promise<void> {
    for (const data of this.wire.splice(0)) this.delivery.receive(data);
    await this.settle();
  }

  get converged(): boolean {
    const { store, chain } = this;
    return (
      store.revision === chain.revision && Buffer.from(store.digest).equals(chain.digest) && store.current.complete
    );
  }

  async #request(data: Uint8Array): Promise<Uint8Array> {
    if (!this.up) throw new LinkError('away');
    const request = fromBinary(SyncRequestSchema, data);
    this.syncs.push(request);
    const { chain, epoch } = this;
    const { appliedRevision } = request;
    const same = appliedRevision === chain.revision && Buffer.from(chain.digest).equals(request.digest);
    const delta = chain.links.some((link) => link.to === appliedRevision)
      ? chain.since(epoch, appliedRevision)
      : undefined;
    if (!same || appliedRevision === 0n) {
      if (delta) this.publish(delta);
      else this.publish(...chunksOf(epoch, chain.snapshot(), this.chunkBytes));
    }
    return this.meddle(reply(request, { revision: chain.revision }));
  }
}

async function bed(t: { teardown(fn: () => Promise<void>): void }): Promise<Bed> {
  const folder = await mkdtemp(join(tmpdir(), 'agent-delivery-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const made = new Bed(join(folder, 'state.bin'));
  await made.start();
  await made.settle();
  await made.arriveAll();
  return made;
}

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

/** What a wire may do to a message. */
type Fate = 'deliver' | 'lose' | 'twice' | 'delay' | 'corrupt' | 'replay';
type Step =
  | { readonly do: 'put' | 'delete' | 'forget'; readonly object: number; readonly fate: Fate; readonly leap: number }
  | { readonly do: 'snapshot'; readonly fate: Fate }
  | { readonly do: 'wire'; readonly pick: number }
  | { readonly do: 'wait'; readonly ms: number }
  | { readonly do: 'restart' }
  | { readonly do: 'away'; readonly up: boolean };

const fate = fc.constantFrom<Fate>('deliver', 'deliver', 'deliver', 'lose', 'twice', 'delay', 'corrupt', 'replay');
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom('put' as const, 'put' as const, 'delete' as const, 'forget' as const),
      object: fc.nat(9),
      fate,
      leap: fc.integer({ min: 1, max: 3 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('snapshot' as const), fate }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('wire' as const), pick: fc.nat(20) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.constantFrom(100, 1_000, 40_000) }) },
  { weight: 1, arbitrary: fc.constant({ do: 'restart' as const }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('away' as const), up: fc.boolean() }) },
);

test('whatever the wire does: it converges, removes only what was to be removed, and brings nothing back', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
      const folder = await mkdtemp(join(tmpdir(), 'agent-delivery-'));
      const b = new Bed(join(folder, 'state.bin'));
      try {
        await b.start();
        const removable = new Set<string>();
        const forgotten = new Set<string>();
        const past: Uint8Array[] = [];
        const uids = Array.from({ length: 10 }, (_, i) => `o-${i}`);
        let renamed = 0;
        const check = () => {
          for (const { uid } of b.workloads.removals) if (!removable.has(uid)) throw new Error(`${uid} was removed`);
          for (const uid of b.workloads.removals.map((r) => r.uid)) {
            if (b.workloads.running.has(uid)) throw new Error(`${uid} came back`);
          }
        };
        const send = (assigns: readonly Assign[], how: Fate) => {
          for (const assign of assigns) {
            const data = signed(assign);
            past.push(data);
            if (how === 'lose') continue;
            if (how === 'delay') {
              b.wire.push(data);
              continue;
            }
            if (how === 'corrupt') {
              const damaged = Uint8Array.from(data);
              damaged[damaged.length >> 1] = (damaged[damaged.length >> 1] ?? 0) ^ 0x10;
              b.delivery.receive(damaged);
              continue;
            }
            b.delivery.receive(data);
            if (how === 'twice') b.delivery.receive(data);
            if (how === 'replay') for (const old of past.slice(-20)) b.delivery.receive(old);
          }
        };
        for (const s of steps) {
          if (s.do === 'put' || s.do === 'delete' || s.do === 'forget') {
            const uid = uids[s.object] ?? '';
            const there = b.chain.assigned.get(uid);
            if (s.do === 'put' && there?.op === AssignmentOp.DELETE) continue;
            if (s.do !== 'put' && !there) continue;
            if (s.do !== 'put') removable.add(uid);
            if (s.do === 'put') b.chain.put(uid, 'busybox', undefined, BigInt(s.leap));
            else if (s.do === 'delete') b.chain.delete(uid, BigInt(s.leap));
            else {
              b.chain.forget(uid, BigInt(s.leap));
              forgotten.add(uid);
              // Uids are never used again.
              renamed += 1;
              uids[s.object] = `o-${s.object}-${renamed}`;
            }
            send([b.chain.newest(b.epoch)], s.fate);
          } else if (s.do === 'snapshot') send(chunksOf(b.epoch, b.chain.snapshot(), b.chunkBytes), s.fate);
          else if (s.do === 'wire') {
            const [data] = b.wire.splice(s.pick % Math.max(1, b.wire.length), 1);
            if (data) b.delivery.receive(data);
          } else if (s.do === 'wait') await b.clock.advance(s.ms);
          else if (s.do === 'away') b.up = s.up;
          else await b.restart();
          await b.settle();
          check();
        }
        // The weather clears.
        b.up = true;
        for (let i = 0; i < 200 && !b.converged; i += 1) {
          await b.arriveAll();
          await b.clock.advance(2_000);
          check();
        }
        if (!b.converged) throw new Error(`at ${b.store.revision}, not ${b.chain.revision}; ${b.delivery.sync}`);
        const wanted = [...b.chain.assigned.values()].filter((a) => a.op === AssignmentOp.PUT).map((a) => a.uid);
        t.deepEqual([...b.workloads.running.keys()].sort(), wanted.sort());
      } finally {
        b.delivery?.close();
        await b.store?.close();
        await rm(folder, { recursive: true, force: true });
      }
    }),
    { numRuns: 300 },
  );
});
