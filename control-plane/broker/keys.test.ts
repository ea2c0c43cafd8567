import { chmod, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { createAccount, createUser } from '../../proto/nkeys.ts';
import { temporaryFolder } from '../../test/harness/temporary_folder.ts';
import { FileError } from '../private_file.ts';
import { type BrokerKeys, loadOrCreateKeys } from './keys.ts';

async function keyFolder(t: ExecutionContext): Promise<string> {
  const folder = await temporaryFolder('keys');
  t.teardown(() => folder[Symbol.asyncDispose]());
  return join(folder.path, 'broker', 'keys');
}

const publicKeys = (keys: BrokerKeys) => Object.values(keys).map((key) => key.getPublicKey());

test('keys are made once, private, and found again', async (t) => {
  const folder = await keyFolder(t);
  const first = await loadOrCreateKeys(folder);
  t.deepEqual(publicKeys(await loadOrCreateKeys(folder)), publicKeys(first));
  t.is(
    publicKeys(first)
      .map((key) => key[0])
      .join(''),
    'OAAUU',
  );
  t.is(new Set(publicKeys(first)).size, 5);
  t.is((await stat(folder)).mode & 0o777, 0o700);
  const names = await readdir(folder);
  t.is(names.length, 5);
  for (const name of names) t.is((await stat(join(folder, name))).mode & 0o777, 0o600);
});

test('a key file that is broken, missing or of another kind is named, and what is in it is not told', async (t) => {
  const folder = await keyFolder(t);
  await loadOrCreateKeys(folder);
  const seedOf = (pair: { getSeed(): Uint8Array }) => new TextDecoder().decode(pair.getSeed());
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    const good = await readFile(path, 'utf8');
    const wrongKind = seedOf(name.includes('account') ? createUser() : createAccount());
    const flipped = good.slice(0, 30) + (good[30] === 'A' ? 'B' : 'A') + good.slice(31);
    for (const bad of ['', '\n', 'garbage', '\0\xff', wrongKind, good.slice(0, 20), flipped, 'x'.repeat(10_000)]) {
      await writeFile(path, bad);
      const error = await t.throwsAsync(loadOrCreateKeys(folder), { instanceOf: Error });
      t.true(error?.message.includes(path), error?.message);
      if (bad.length > 10) t.false(error?.message.includes(bad.slice(5, 15)));
    }
    await rm(path);
    await t.throwsAsync(loadOrCreateKeys(folder), { message: /is missing: put it back from a backup/ });
    await mkdir(path);
    await t.throwsAsync(loadOrCreateKeys(folder), { message: /is not a file/ });
    await rm(path, { recursive: true });
    await writeFile(path, good, { mode: 0o600 });
    await loadOrCreateKeys(folder);
  }
});

test('keys that others can read are refused', async (t) => {
  const folder = await keyFolder(t);
  await loadOrCreateKeys(folder);
  const path = join(folder, 'operator.nk');
  for (const mode of [0o640, 0o604, 0o620]) {
    await chmod(path, mode);
    await t.throwsAsync(loadOrCreateKeys(folder), {
      instanceOf: FileError,
      message: /operator\.nk has mode .*chmod 0600/,
    });
  }
  await chmod(path, 0o400);
  await loadOrCreateKeys(folder);
  await chmod(folder, 0o755);
  await t.throwsAsync(loadOrCreateKeys(folder), { instanceOf: FileError, message: /keys has mode 0755.*chmod 0700/ });
});
