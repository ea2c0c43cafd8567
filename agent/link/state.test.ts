import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import type { Delta } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { ChainModel, chunksOf } from '../../test/harness/chain_model.ts';
import { FakeClock } from '../../test/harness/fake_clock.ts';
import { testSigner, testVerifier } from '../../test/harness/signing.ts';
import { silentLog } from '../log.ts';
import { type ChainState, emptyChain, takeDelta, takeSnapshot } from './chain.ts';
import { MessageLog } from './message_log.ts';
import { DesiredStore } from './state.ts';
import { decodeState, encodeState, type LoggedState, StateFileError } from './state_file.ts';

const owner = { bayUid: 'bay-1', nodeUid: 'node-1' };

async function folder(t: { teardown(fn: () => Promise<void>): void }): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'agent-state-'));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}
const verifier = testVerifier(owner);
const open = (path: string, clock = new FakeClock(), by = verifier) =>
  DesiredStore.open({ ...owner, path, verifier: by, clock, log: silentLog });
const snapshotOf = (model: ChainModel) => ({
  snapshot: chunksOf(1n, model.snapshot()).map((chunk) => testSigner.kept(owner, chunk)),
});
const takeAll = (store: DesiredStore, model: ChainModel) =>
  store.take(snapshotOf(model), (head) => takeSnapshot(head, model.snapshot(), 1));
const takeNewest = (store: DesiredStore, model: ChainModel) => {
  const assign = model.newest(1n);
  return store.take({ delta: testSigner.kept(owner, assign) }, (head) =>
    takeDelta(head, assign.body.value as Delta, 1),
  );
};

function sample(): LoggedState & { model: ChainModel } {
  const model = new ChainModel();
  model.put('a');
  model.put('b');
  model.delete('b');
  const { state } = takeSnapshot(emptyChain, model.snapshot(), 5);
  return {
    model,
    state: { ...state, graves: new Set(['gone']) },
    log: MessageLog.ofSnapshot(snapshotOf(model).snapshot),
  };
}
const fileOf = (logged: LoggedState) => Buffer.concat(encodeState(owner, logged));
const decode = (file: Buffer, of = owner, by = verifier) => decodeState(of, file, by);
const plain = (state: ChainState) => ({ ...state, entries: [...state.entries], graves: [...state.graves] });

test('what is written is read back as it was', (t) => {
  const logged = sample();
  t.deepEqual(plain(decode(fileOf(logged)).state), plain(logged.state));
});

test('a state file cut off at any byte is refused', (t) => {
  const whole = fileOf(sample());
  for (let length = 0; length < whole.byteLength; length += 1) {
    t.throws(() => decode(whole.subarray(0, length)), { instanceOf: StateFileError }, `at ${length}`);
  }
  t.throws(() => decode(Buffer.concat([whole, Buffer.alloc(1)])), { instanceOf: StateFileError });
});

test('a state file with any bit turned over is refused', (t) => {
  const whole = fileOf(sample());
  for (let bit = 0; bit < whole.byteLength * 8; bit += 1) {
    const damaged = Buffer.from(whole);
    damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    t.throws(() => decode(damaged), { instanceOf: StateFileError }, `bit ${bit}`);
  }
});

test('the state file of another bay or node is refused', (t) => {
  const whole = fileOf(sample());
  t.throws(() => decode(whole, { ...owner, bayUid: 'bay-2' }), { instanceOf: StateFileError });
  t.throws(() => decode(whole, { ...owner, nodeUid: 'node-2' }), { instanceOf: StateFileError });
});

test('a damaged file is set aside, a few are kept, and nothing is known then', async (t) => {
  const path = join(await folder(t), 'state.bin');
  const clock = new FakeClock();
  for (let i = 0; i < 6; i += 1) {
    await writeFile(path, randomBytes(200));
    await clock.advance(1000);
    const store = await open(path, clock);
    t.is(store.current.complete, false);
    t.is(store.revision, 0n);
    t.is(store.current.objects.size, 0);
  }
  const names = await readdir(join(path, '..'));
  t.is(names.filter((name) => name.startsWith('state.bin.broken-')).length, 3);
  t.false(names.includes('state.bin'));
});

test('nobody is told of a change before it is on disk', async (t) => {
  const path = join(await folder(t), 'state.bin');
  const store = await open(path);
  const { model } = sample();
  const seen: Promise<void>[] = [];
  store.subscribe(() => {
    const { objects } = store.current;
    const read = readFile(path).then((file) => {
      t.deepEqual([...decode(file).state.entries.keys()], [...objects.keys()]);
    });
    seen.push(read);
  });
  takeAll(store, model);
  t.is(store.current.objects.size, 0);
  await store.settled();
  t.is(store.current.objects.size, 2);
  t.is(seen.length, 1);
  await Promise.all(seen);
  t.deepEqual(store.digest, model.digest);
});

test('a burst of changes shares a few writes', async (t) => {
  const store = await open(join(await folder(t), 'state.bin'));
  const model = new ChainModel();
  let told = 0;
  store.subscribe(() => {
    told += 1;
  });
  for (let i = 0; i < 200; i += 1) {
    model.put(`c-${i}`);
    takeNewest(store, model);
  }
  await store.settled();
  t.is(store.current.objects.size, 200);
  t.true(told <= 3, `${told} writes`);
  t.deepEqual(store.digest, model.digest);
});

test('after a restart the state is what was on disk', async (t) => {
  const path = join(await folder(t), 'state.bin');
  const first = await open(path);
  const { model } = sample();
  takeAll(first, model);
  await first.close();
  const second = await open(path);
  t.true(second.current.complete);
  t.is(second.revision, model.revision);
  t.deepEqual(second.digest, model.digest);
});

test('a buried grave is gone from the disk too', async (t) => {
  const path = join(await folder(t), 'state.bin');
  const store = await open(path);
  const model = new ChainModel();
  model.put('a');
  takeAll(store, model);
  model.forget('a');
  takeNewest(store, model);
  await store.settled();
  t.deepEqual([...store.current.graves], ['a']);
  await store.buried('a');
  await store.buried('a');
  t.deepEqual([...decode(await readFile(path)).state.graves], []);
});

test('what the agent does not know how to make is kept from the workloads, counted in the digest, and reported', async (t) => {
  const store = await open(join(await folder(t), 'state.bin'));
  const model = new ChainModel();
  model.put('a');
  model.put('newer', '', Kind.NODE);
  takeAll(store, model);
  await store.settled();
  t.deepEqual([...store.current.objects.keys()], ['a']);
  t.deepEqual(store.digest, model.digest);
  const [report] = store.unsupported();
  t.is(report?.status.value?.reason, 'UnsupportedKind');
  model.delete('newer');
  takeNewest(store, model);
  await store.settled();
  t.true(store.unsupported()[0]?.removed);
});
