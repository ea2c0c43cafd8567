import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import type { Delta } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ChainModel, chunksOf } from '../../test/harness/chain_model.ts';
import { FakeClock } from '../../test/harness/fake_clock.ts';
import { TestSigner, testSigner, testVerifier } from '../../test/harness/signing.ts';
import { silentLog } from '../log.ts';
import { type ChainState, emptyChain, takeDelta, takeSnapshot } from './chain.ts';
import { MessageLog } from './message_log.ts';
import { DesiredStore } from './state.ts';
import { decodeState, encodeState, type LoggedState, StateFileError } from './state_file.ts';

const owner = { bayUid: 'bay-1', nodeUid: 'node-1' };
const verifier = testVerifier(owner);
const headerBytes = 48;

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'agent-state-'));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** A snapshot in several pieces, and deltas after it: the newest state, and what it was after each message. */
function history(by = testSigner): { newest: LoggedState; states: readonly ChainState[] } {
  const model = new ChainModel();
  for (const uid of ['a', 'b', 'c']) model.put(uid);
  const chunks = chunksOf(1n, model.snapshot(), 60).map((chunk) => by.kept(owner, chunk));
  let { state } = takeSnapshot(emptyChain, model.snapshot(), 5);
  let log = MessageLog.ofSnapshot(chunks);
  const states = [emptyChain, state];
  const next = () => {
    const assign = model.newest(1n);
    const taken = takeDelta(state, assign.body.value as Delta, 6);
    if (taken.outcome !== 'applied') throw new Error(taken.outcome);
    state = taken.state;
    log = log.with(by.kept(owner, assign));
    states.push(state);
  };
  model.put('d');
  next();
  model.delete('a');
  next();
  model.forget('b');
  next();
  return { newest: { state, log }, states };
}

/** With the checksum that whoever writes the file puts there. */
function withChecksum(file: Buffer): Buffer {
  const body = file.subarray(headerBytes);
  file.writeUInt32LE(body.byteLength, 12);
  createHash('sha256').update(file.subarray(0, 16)).update(body).digest().copy(file, 16);
  return file;
}

const wanted = ({ revision, complete, entries }: ChainState) =>
  JSON.stringify(
    [String(revision), complete, [...entries.values()].map(({ assignment }) => assignment).sort(byUid)],
    (_, value) => (typeof value === 'bigint' ? String(value) : value),
  );
const byUid = (a: { uid: string }, b: { uid: string }) => a.uid.localeCompare(b.uid);

test('whatever is changed in the file, nothing comes out of it but what the control plane once signed', (t) => {
  const { newest, states } = history();
  const whole = Buffer.concat(encodeState(owner, newest));
  const signed = new Set(states.map(wanted));
  t.is(wanted(decodeState(owner, whole, verifier).state), wanted(newest.state));
  const change = fc.oneof(
    fc
      .record({ at: fc.nat(whole.length - headerBytes - 1), value: fc.nat(255) })
      .map(({ at, value }) => (file: Buffer) => {
        file[headerBytes + at] = value;
        return file;
      }),
    fc.record({ at: fc.nat(whole.length - headerBytes - 1), length: fc.nat(400) }).map(
      ({ at, length }) =>
        (file: Buffer) =>
          Buffer.concat([file.subarray(0, headerBytes + at), file.subarray(headerBytes + at + length)]),
    ),
  );
  let [refused, taken] = [0, 0];
  t.notThrows(() =>
    fc.assert(
      fc.property(change, (next) => {
        let state: ChainState;
        try {
          ({ state } = decodeState(owner, withChecksum(next(Buffer.from(whole))), verifier));
        } catch (error) {
          if (!(error instanceof StateFileError)) throw error;
          refused += 1;
          return;
        }
        taken += 1;
        if (!signed.has(wanted(state))) throw new Error('what was never signed came out of it');
        for (const uid of state.graves) if (state.entries.has(uid)) throw new Error(`${uid} would be removed`);
      }),
      { numRuns: 1_500 },
    ),
  );
  t.true(refused > 1_000 && taken > 5, `${refused} refused, ${taken} taken`);
});

test('messages that are left out, put in another order, doubled or of another node are refused', (t) => {
  const { newest } = history();
  const messages = newest.log.messages();
  const deltas = messages.slice(-3);
  const chunks = messages.slice(0, -3);
  t.true(chunks.length > 1);
  const fileOf = (kept: typeof messages) => {
    let log = MessageLog.empty;
    for (const one of kept) log = log.with(one);
    return Buffer.concat(encodeState(owner, { state: emptyChain, log }));
  };
  const [first, second, third] = deltas;
  if (!first || !second || !third) throw new Error('three deltas');
  t.notThrows(() => decodeState(owner, fileOf([...chunks, first, second]), verifier));
  for (const wrong of [
    [...chunks.slice(1), first],
    chunks.slice(0, -1),
    [...chunks, second, third],
    [...chunks, second, first],
    [...chunks, first, first],
    [first, ...chunks],
    [...chunks, first, ...chunks],
  ]) {
    t.throws(() => decodeState(owner, fileOf(wrong), verifier), { instanceOf: StateFileError });
  }
  for (const address of [
    { ...owner, bayUid: 'bay-2' },
    { ...owner, nodeUid: 'node-2' },
  ]) {
    const theirs = testVerifier(address);
    t.throws(() => decodeState(owner, fileOf(messages), theirs), { message: /its signature is not good/ });
  }
});

test('a grave on disk removes nothing that is wanted, nor anything where not all is known', (t) => {
  const { newest } = history();
  const graves = new Set(['a', 'c', 'd', 'b', 'old']);
  const file = Buffer.concat(encodeState(owner, { ...newest, state: { ...newest.state, graves } }));
  t.deepEqual([...decodeState(owner, file, verifier).state.graves], ['b', 'old']);

  const model = new ChainModel();
  model.put('x');
  const log = MessageLog.empty.with(testSigner.kept(owner, model.newest(1n)));
  const part = Buffer.concat(encodeState(owner, { state: { ...emptyChain, graves: new Set(['b']) }, log }));
  const { state } = decodeState(owner, part, verifier);
  t.false(state.complete);
  t.deepEqual([...state.graves], []);
});

test('a state by a stranger, or from before there were signatures, is set aside and told of, until there is another', async (t) => {
  const path = join(await folder(t), 'state.bin');
  const { newest } = history(new TestSigner(9));
  const old = Buffer.concat(encodeState(owner, history().newest));
  old.writeUInt32LE(1, 8);
  const clock = new FakeClock();
  for (const [file, reason] of [
    [Buffer.concat(encodeState(owner, newest)), /signed with a key that is not/],
    [withChecksum(old), /of version 1, not 2/],
  ] as const) {
    await writeFile(path, file);
    await clock.advance(1_000);
    const store = await DesiredStore.open({ ...owner, path, verifier, clock, log: silentLog });
    t.regex(store.refusal, reason);
    t.false(store.current.complete, 'silence removes nothing');
    t.is(store.current.objects.size, 0);
    t.is(store.current.graves.size, 0);
    const names = (await readdir(join(path, '..'))).filter((name) => name.startsWith('state.bin.broken-'));
    t.deepEqual(await readFile(join(path, '..', names.sort().at(-1) ?? '')), file);
    const model = new ChainModel();
    model.put('a');
    const snapshot = chunksOf(1n, model.snapshot()).map((chunk) => testSigner.kept(owner, chunk));
    store.take({ snapshot }, (head) => takeSnapshot(head, model.snapshot(), 1));
    await store.settled();
    t.is(store.refusal, '');
    await store.close();
  }
});

test('a log is worn when it is longer than its snapshot, or signed by a key that will be gone', (t) => {
  const model = new ChainModel();
  for (let i = 0; i < 20; i += 1) model.put(`c-${i}`);
  const never = { isAgeing: () => false };
  const snapshot = chunksOf(1n, model.snapshot(), 100_000).map((chunk) => testSigner.kept(owner, chunk));
  let log = MessageLog.ofSnapshot(snapshot);
  t.false(log.isWorn(20, never));
  t.true(log.isWorn(20, { isAgeing: (id) => id === testSigner.id }));
  model.put('one');
  const delta = testSigner.kept(owner, model.newest(1n));
  for (let i = 0; i < 1_000; i += 1) log = log.with(delta);
  t.false(log.isWorn(20, never));
  const [one, other] = [log.with(delta), log.with(delta)];
  t.true(one.isWorn(20, never), 'too many');
  t.false(one.isWorn(2_000, never), 'of as many objects it is not');
  t.is(other.length, 1_000 + 1 + snapshot.length, 'two that go on from the same one know nothing of each other');
  t.is(log.messages().length, 1_000 + snapshot.length);
  const large = { ...delta, message: new Uint8Array(300 * 1024) };
  t.true(MessageLog.ofSnapshot(snapshot).with(large).isWorn(20, never), 'too large');
});
