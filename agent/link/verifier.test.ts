import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import test from 'ava';
import fc from 'fast-check';
import { SignedSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { type SignedContext, type SignedPurpose, signedBytes } from '../../proto/signing.ts';
import { FakeClock } from '../../test/harness/fake_clock.ts';
import { TestSigner, testNonce, testSigner, testVerifier } from '../../test/harness/signing.ts';
import { silentLog } from '../log.ts';
import { problemOfKeys, TrustedKeys } from './trusted_keys.ts';
import { UnverifiedError, Verifier } from './verifier.ts';

const address = { bayUid: 'bay-1', nodeUid: 'node-1' };
const context: SignedContext = { ...address, purpose: 'assign', nonce: testNonce };
const payload = Buffer.from('run this');
const sealed = testSigner.seal(context, payload);
const open = (data: Uint8Array, verifier = testVerifier(address)) => verifier.open('assign', testNonce, data);

test('what the control plane has signed for this node is opened, and kept as it came', (t) => {
  // As it comes from a connection: a view of a larger buffer.
  const buffer = Buffer.concat([randomBytes(10), sealed, randomBytes(10)]);
  const opened = open(buffer.subarray(10, 10 + sealed.byteLength));
  buffer.fill(0);
  t.deepEqual(Buffer.from(opened?.payload ?? []), payload);
  t.deepEqual(Buffer.from(opened?.message ?? []), Buffer.from(sealed));
  t.is(opened?.keyId, testSigner.id);
});

test('what somebody has put beside a message is not kept with it', (t) => {
  // Field 3 is the payload: of two, the last one counts. Field 15 is none.
  for (const field of [3, 15]) {
    const beside = Buffer.concat([Buffer.from([(field << 3) | 2, 0xe8, 0x07]), Buffer.alloc(1_000)]);
    t.is(open(Buffer.concat([beside, sealed])), undefined);
  }
  t.truthy(open(Buffer.concat([Buffer.from([(15 << 3) | 2, 1, 0]), sealed])), 'a later version may say more');
});

test('what is of another kind, bay, node, session or stream is refused', (t) => {
  const others: Partial<SignedContext>[] = [
    { bayUid: 'bay-2' },
    { nodeUid: 'node-2' },
    { purpose: 'sync-reply' },
    { streamId: 's' },
    { nonce: new Uint8Array(16) },
    // The same characters, cut in another place.
    { bayUid: 'bay-1node', nodeUid: '-1' },
  ];
  for (const other of others) t.is(open(testSigner.seal({ ...context, ...other }, payload)), undefined);
  const frame = { ...context, purpose: 'stream-frame', streamId: 's-1' } as const;
  const verifier = testVerifier(address);
  t.truthy(verifier.open('stream-frame', testNonce, testSigner.seal(frame, payload), 's-1'));
  t.is(verifier.open('stream-frame', testNonce, testSigner.seal(frame, payload), 's-2'), undefined);
});

test('what is signed by somebody else is refused, under whatever name', (t) => {
  const stranger = new TestSigner(8);
  const verifier = testVerifier(address);
  let unknown = 0;
  verifier.onUnknownKey = () => {
    unknown += 1;
  };
  t.is(open(stranger.seal(context, payload), verifier), undefined);
  t.is(unknown, 1);
  t.is(verifier.problem?.reason, 'UnknownKey');
  const renamed = fromBinary(SignedSchema, stranger.seal(context, payload));
  renamed.keyId = testSigner.id;
  t.is(open(toBinary(SignedSchema, renamed), verifier), undefined);
  t.is(verifier.problem?.reason, 'BadSignature');
  t.is(unknown, 1);
  t.is(verifier.refused, 2n);
});

test('refusals are told of for a while, the remains of another session are not', async (t) => {
  const clock = new FakeClock();
  const verifier = testVerifier(address, [testSigner], { clock });
  t.is(verifier.open('assign', new Uint8Array(16), sealed), undefined);
  t.is(verifier.problem, undefined);
  t.is(open(new Uint8Array([255]), verifier), undefined);
  t.regex(verifier.problem?.message ?? '', /1 message from the broker .* \(assign\): it is not a signed message/);
  await clock.advance(601_000);
  t.is(verifier.problem, undefined);
  t.is(verifier.refused, 1n);
});

test('a message whose key was only not known yet is no trouble once it is', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'agent-keys-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const keys = await TrustedKeys.open(join(folder, 'trusted_keys.json'));
  const next = new TestSigner(8);
  await keys.replace(testSigner.keys());
  const verifier = testVerifier(address, [], { keys });
  t.is(open(next.seal(context, payload), verifier), undefined);
  t.is(verifier.problem?.reason, 'UnknownKey');
  await keys.replace(next.keys());
  t.is(verifier.problem, undefined);
  t.is(open(sealed, verifier), undefined);
  t.is(verifier.problem?.reason, 'UnknownKey', 'of a key that is believed no more');
});

/** Ways to change a message. */
type Change = (message: Buffer) => Uint8Array;
const other = testSigner.seal(
  { ...context, bayUid: 'bay-2', nonce: testNonce },
  Buffer.from('run that, which is longer'),
);
const change: fc.Arbitrary<Change> = fc.oneof(
  fc.record({ at: fc.nat(1000), bit: fc.nat(7) }).map(
    ({ at, bit }): Change =>
      (message) => {
        const i = at % message.byteLength;
        message[i] = (message[i] ?? 0) ^ (1 << bit);
        return message;
      },
  ),
  fc.nat(1000).map(
    (at): Change =>
      (message) =>
        message.subarray(0, at % message.byteLength),
  ),
  fc.record({ at: fc.nat(1000), bytes: fc.uint8Array({ minLength: 1, maxLength: 8 }) }).map(
    ({ at, bytes }): Change =>
      (message) => {
        const i = at % message.byteLength;
        return Buffer.concat([message.subarray(0, i), bytes, message.subarray(i)]);
      },
  ),
  fc.record({ from: fc.nat(1000), to: fc.nat(1000) }).map(
    ({ from, to }): Change =>
      (message) =>
        Buffer.concat([message.subarray(0, from % message.byteLength), Buffer.from(other).subarray(to % other.length)]),
  ),
  fc.record({ payload: fc.uint8Array({ maxLength: 40 }), keep: fc.boolean() }).map(
    ({ payload, keep }): Change =>
      (message) => {
        const signed = fromBinary(SignedSchema, message);
        const { signature } = keep ? signed : fromBinary(SignedSchema, other);
        return toBinary(SignedSchema, create(SignedSchema, { ...signed, payload, signature }));
      },
  ),
);

test('no change of a message makes the agent believe other words', (t) => {
  const verifier = testVerifier(address);
  t.notThrows(() =>
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 3 }), (changes) => {
        let message: Uint8Array = Buffer.from(sealed);
        for (const next of changes) {
          if (message.byteLength === 0) break;
          try {
            message = next(Buffer.from(message));
          } catch {
            // It was not even a message any more.
          }
        }
        const opened = verifier.open('assign', testNonce, message);
        if (opened && !payload.equals(opened.payload)) throw new Error('other words were believed');
        let stored: Uint8Array | undefined;
        try {
          stored = verifier.openStored('assign', message).payload;
        } catch (error) {
          if (!(error instanceof UnverifiedError)) throw error;
        }
        if (stored && !payload.equals(stored)) throw new Error('other words were believed from the disk');
      }),
      { numRuns: 1_500 },
    ),
  );
});

test('what is signed says all of its context, and nothing can be moved from one part to the next', (t) => {
  const name = fc.stringMatching(/^[A-Za-z0-9-]{1,10}$/);
  const purpose = fc.constantFrom<SignedPurpose>('assign', 'check', 'stream-open', 'stream-frame', 'hello-reply');
  const contexts = fc.record({
    purpose,
    bayUid: name,
    nodeUid: name,
    nonce: fc.uint8Array({ minLength: 16, maxLength: 16 }),
    streamId: fc.option(name, { nil: undefined }),
  });
  const same = (a: SignedContext, b: SignedContext) =>
    a.purpose === b.purpose &&
    a.bayUid === b.bayUid &&
    a.nodeUid === b.nodeUid &&
    a.streamId === b.streamId &&
    Buffer.from(a.nonce).equals(b.nonce);
  t.notThrows(() =>
    fc.assert(
      fc.property(contexts, contexts, (a, b) => signedBytes(a, payload).equals(signedBytes(b, payload)) === same(a, b)),
    ),
  );
  t.throws(() => signedBytes({ ...context, bayUid: 'a\0b' }, payload), { instanceOf: TypeError });
  t.throws(() => signedBytes({ ...context, nonce: new Uint8Array(15) }, payload), { instanceOf: TypeError });
});

test('keys that are no longer listed are good for what is on the disk, for as long as that needs them', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'agent-keys-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, 'trusted_keys.json');
  const [first, second] = [new TestSigner(1), new TestSigner(2)];
  const [old, next] = [first.keys(), second.keys()];
  const keys = await TrustedKeys.open(path);
  t.false(keys.any);
  await keys.replace(old);
  t.is((await stat(path)).mode & 0o777, 0o600);
  const verifierOf = (of: TrustedKeys) => new Verifier({ address, keys: of, clock: new FakeClock(), log: silentLog });
  const message = first.seal(context, payload);
  t.truthy(open(message, verifierOf(keys)));

  await keys.replace([...old.map((key) => ({ ...key, retiring: true })), ...next]);
  t.truthy(open(message, verifierOf(keys)), 'both are good while they overlap');
  t.truthy(open(second.seal(context, payload), verifierOf(keys)));
  t.true(keys.isAgeing(first.id));
  t.false(keys.isAgeing(second.id));

  await keys.replace(next);
  const again = await TrustedKeys.open(path);
  for (const opened of [keys, again]) {
    t.is(open(message, verifierOf(opened)), undefined);
    t.deepEqual(Buffer.from(verifierOf(opened).openStored('assign', message).payload), payload);
    t.true(opened.isAgeing(first.id));
  }
  await again.inUse(new Set([first.id]));
  t.truthy(again.findStored(first.id));
  await again.inUse(new Set([second.id]));
  t.throws(() => verifierOf(again).openStored('assign', message), { instanceOf: UnverifiedError });
  t.truthy((await TrustedKeys.open(path)).find(second.id));
});

test('keys that are replaced are believed no more, also while the disk takes nothing, or another change is on its way there', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'agent-keys-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, 'trusted_keys.json');
  const signers = [1, 2, 3].map((seed) => new TestSigner(seed));
  const [first, second, third] = signers.map((signer) => signer.keys());
  const keys = await TrustedKeys.open(path);
  const believed = (of: TrustedKeys) => signers.filter(({ id }) => of.find(id)).map(({ id }) => id);
  for (const order of ['replace first', 'forget first']) {
    await keys.replace(first ?? []);
    await keys.replace(second ?? []);
    const changes = [() => keys.replace(third ?? []), () => keys.inUse(new Set())];
    if (order === 'forget first') changes.reverse();
    await Promise.all(changes.map((change) => change()));
    for (const opened of [keys, await TrustedKeys.open(path)]) t.deepEqual(believed(opened), [signers[2]?.id], order);
  }
  await rm(folder, { recursive: true });
  await t.throwsAsync(keys.replace(first ?? []), { code: 'ENOENT' });
  t.deepEqual(believed(keys), [], 'the new one is not on disk, which would be signed by it');
  t.truthy(keys.findStored(signers[2]?.id ?? ''));
  await mkdir(folder);
  await keys.replace(first ?? []);
  for (const opened of [keys, await TrustedKeys.open(path)]) t.deepEqual(believed(opened), [signers[0]?.id]);
});

test('a damaged file of keys is believed nothing, and keys that cannot be are not taken', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'agent-keys-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, 'trusted_keys.json');
  await (await TrustedKeys.open(path)).replace(testSigner.keys());
  const whole = await readFile(path, 'utf8');
  for (const damaged of ['', '{}', 'null', whole.slice(0, 40), whole.replace(testSigner.id, '0123456789abcdef')]) {
    await writeFile(path, damaged);
    t.false((await TrustedKeys.open(path)).any, damaged);
  }
  const [key] = testSigner.keys();
  t.is(problemOfKeys(testSigner.keys()), undefined);
  t.truthy(problemOfKeys([]));
  t.truthy(key && problemOfKeys([{ ...key, id: 'x' }]));
  t.truthy(key && problemOfKeys([{ ...key, publicKey: new Uint8Array(31) }]));
});
