import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { TrustedKeys } from '../../agent/link/trusted_keys.ts';
import { Verifier } from '../../agent/link/verifier.ts';
import { silentLog } from '../../agent/log.ts';
import { FakeClock } from '../../test/harness/fake_clock.ts';
import { testNonce } from '../../test/harness/signing.ts';
import { until } from '../../test/harness/until.ts';
import { FileError } from '../private_file.ts';
import { KeyFileSigner } from './message_signer.ts';
import { isReplacementWished, wishReplacement } from './signing_key_file.ts';

const log = pino({ level: 'silent' });
const address = { bayUid: 'bay-1', nodeUid: 'node-1' };
const payload = Buffer.from('run this');
const hourMs = 3_600_000;

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'signing-'));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** A signer whose clock stands; started anew it looks at its keys as its timer would. */
async function signerAt(t: ExecutionContext, dataDir: string, nowMs: number) {
  const options = { dataDir, keyLifeMs: 100 * hourMs, credentialTtlMs: 10 * hourMs, log };
  const signer = await KeyFileSigner.open({ ...options, clock: { now: () => nowMs } });
  t.teardown(() => signer[Symbol.asyncDispose]());
  return signer;
}
const idsOf = (signer: KeyFileSigner) => signer.keys().map(({ id, retiring }) => `${id}${retiring ? ' retiring' : ''}`);

test('the first start makes a key, readable by its owner alone, and the next one uses it', async (t) => {
  const dataDir = await folder(t);
  const first = await signerAt(t, dataDir, 0);
  t.is((await stat(join(dataDir, 'signing'))).mode & 0o777, 0o700);
  t.deepEqual(await readdir(join(dataDir, 'signing')), ['keys.json']);
  t.is((await stat(join(dataDir, 'signing', 'keys.json'))).mode & 0o777, 0o600);
  t.deepEqual(idsOf(await signerAt(t, dataDir, 1)), idsOf(first));
  t.is(idsOf(first).length, 1);
});

test('agents that ask now and then believe whatever is signed, from one key to the next', async (t) => {
  const [dataDir, agentDir] = [await folder(t), await folder(t)];
  const keys = await TrustedKeys.open(join(agentDir, 'keys.json'));
  const verifier = new Verifier({ address, keys, clock: new FakeClock(), log: silentLog });
  const used = new Set<string>();
  let most = 0;
  // As often as credentials are asked for at the latest: once in their life.
  for (let hour = 0; hour <= 400; hour += 1) {
    const signer = await signerAt(t, dataDir, hour * hourMs);
    const sealed = signer.seal({ ...address, purpose: 'assign', nonce: testNonce }, payload);
    if (hour > 0) {
      const opened = verifier.open('assign', testNonce, sealed);
      t.truthy(opened, `at hour ${hour}`);
      used.add(opened?.keyId ?? '');
    }
    if (hour % 10 === 0) await keys.replace(signer.keys());
    most = Math.max(most, signer.keys().length);
  }
  t.is(used.size, 5);
  t.is(most, 2, 'one is gone before the next but one is announced');
});

test('a key is announced before it signs, and is there for a while after', async (t) => {
  const dataDir = await folder(t);
  const [a] = idsOf(await signerAt(t, dataDir, 0));
  t.is(idsOf(await signerAt(t, dataDir, 79 * hourMs)).length, 1);
  const [, b] = idsOf(await signerAt(t, dataDir, 81 * hourMs));
  t.deepEqual(idsOf(await signerAt(t, dataDir, 81 * hourMs)), [`${a}`, `${b}`]);
  t.deepEqual(idsOf(await signerAt(t, dataDir, 102 * hourMs)), [`${a} retiring`, `${b}`]);
  t.deepEqual(idsOf(await signerAt(t, dataDir, 122 * hourMs)), [`${b}`]);
  // The clock was set back, before all of them.
  t.deepEqual(idsOf(await signerAt(t, dataDir, -5)), [`${b}`]);
});

test('a key that may be in wrong hands is replaced at once: by the one who runs, or at the next start', async (t) => {
  const dataDir = await folder(t);
  const replaced: (readonly [readonly string[], string])[] = [];
  const open = async (nowMs: number) => {
    const signer = await KeyFileSigner.open({
      dataDir,
      keyLifeMs: 100 * hourMs,
      credentialTtlMs: 10 * hourMs,
      log,
      clock: { now: () => nowMs },
      onReplaced: (before, now) => replaced.push([before, now]),
    });
    t.teardown(() => signer[Symbol.asyncDispose]());
    return signer;
  };
  await (await open(0))[Symbol.asyncDispose]();
  // One signs, and the next is announced.
  const running = await open(81 * hourMs);
  const before = idsOf(running);
  t.is(before.length, 2);
  await wishReplacement(dataDir);
  await until('they are replaced', async () => !(await isReplacementWished(dataDir)));
  const now = idsOf(running);
  t.is(now.length, 1);
  t.false(before.includes(now[0] ?? ''));
  t.deepEqual(replaced, [[before, running.keyId]]);
  t.deepEqual(now, [running.keyId]);
  await running[Symbol.asyncDispose]();
  t.deepEqual(idsOf(await signerAt(t, dataDir, 82 * hourMs)), now, 'and that is on disk');

  await wishReplacement(dataDir);
  const started = await open(83 * hourMs);
  t.is(replaced.length, 2);
  t.deepEqual(replaced[1], [now, started.keyId]);
  t.false(await isReplacementWished(dataDir));
});

test('a file of keys that is open to others, or no such file, is named', async (t) => {
  const dataDir = await folder(t);
  await signerAt(t, dataDir, 0);
  const file = join(dataDir, 'signing', 'keys.json');
  const whole = await readFile(file, 'utf8');
  for (const damaged of ['', '[]', whole.slice(0, 30), whole.replace(/"seed": "..../, '"seed": "AAAA')]) {
    await writeFile(file, damaged);
    const error = await t.throwsAsync(signerAt(t, dataDir, 0), { instanceOf: FileError });
    t.regex(error?.message ?? '', /signing\/keys\.json does not hold the keys/);
    t.false(error?.message.includes(JSON.parse(whole)[0].seed));
  }
  await writeFile(file, whole);
  await rm(file);
  await writeFile(file, whole, { mode: 0o644 });
  await t.throwsAsync(signerAt(t, dataDir, 0), { instanceOf: FileError, message: /mode 0644/ });
});
