import { createPrivateKey, createPublicKey, type KeyObject, randomBytes } from 'node:crypto';
import { rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { signingKeyId } from '../../proto/signing.ts';
import {
  checkPrivate,
  FileError,
  makePrivateFolder,
  readSmallFile,
  syncFolder,
  writePrivateFile,
} from '../private_file.ts';

/** The keys that messages to agents are signed with, in a file that the running control plane alone writes. */

/** Before the 32 bytes of an Ed25519 seed in PKCS #8, and of a public key in SubjectPublicKeyInfo. */
const pkcs8Prefix = Buffer.from('302e020100300506032b657004220420', 'hex');
const spkiPrefixBytes = 12;

/** A key on disk. */
export interface Key {
  readonly id: string;
  readonly seed: Uint8Array;
  readonly publicKey: Uint8Array;
  readonly privateKey: KeyObject;
  /** From then on, until the next one does. */
  readonly signsFromMs: number;
}

/** The file of keys of a data folder. */
export const signingKeyFile = (dataDir: string): string => join(dataDir, 'signing', 'keys.json');

/** Is there while somebody wants the keys replaced: so there is one who writes them, whether a control plane runs or not. */
const wishFile = (dataDir: string): string => join(dataDir, 'signing', 'replace');

/** Has the control plane of this folder replace its keys, within a second when it runs, else when it starts. */
export async function wishReplacement(dataDir: string): Promise<void> {
  await makePrivateFolder(dirname(wishFile(dataDir)));
  await writePrivateFile(wishFile(dataDir), '');
}

/** Whether that is still to be done. */
export async function isReplacementWished(dataDir: string): Promise<boolean> {
  return (await stat(wishFile(dataDir)).catch(() => undefined)) !== undefined;
}

/** It is done. */
export async function clearWish(dataDir: string): Promise<void> {
  await rm(wishFile(dataDir), { force: true });
  await syncFolder(dirname(wishFile(dataDir)));
}

/** One of 256 random bits. */
export const newKey = (signsFromMs: number): Key => keyOf(randomBytes(32), signsFromMs);

function keyOf(seed: Uint8Array, signsFromMs: number): Key {
  const privateKey = createPrivateKey({ key: Buffer.concat([pkcs8Prefix, seed]), format: 'der', type: 'pkcs8' });
  const spki = createPublicKey(privateKey).export({ format: 'der', type: 'spki' });
  const publicKey = Uint8Array.from(spki.subarray(spkiPrefixBytes));
  return { id: signingKeyId(publicKey), seed, publicKey, privateKey, signsFromMs };
}

/** On disk when it resolves. */
export const writeKeys = (file: string, keys: readonly Key[]): Promise<void> =>
  writePrivateFile(
    file,
    `${JSON.stringify(
      keys.map(({ id, seed, signsFromMs }) => ({ id, seed: Buffer.from(seed).toString('base64'), signsFromMs })),
      null,
      2,
    )}\n`,
  );

/** None when there is no file. Rejects with FileError naming the file that is broken, or open to others. */
export async function readKeys(file: string): Promise<Key[]> {
  const text = await readSmallFile(file, 64 * 1024);
  if (text === undefined) return [];
  await checkPrivate(file, '0600');
  try {
    const keys = (JSON.parse(text) as Record<string, unknown>[]).map(({ id, seed, signsFromMs }) => {
      const bytes = Buffer.from(String(seed), 'base64');
      const key = keyOf(bytes, Number(signsFromMs));
      if (key.id !== id || !Number.isSafeInteger(key.signsFromMs)) throw new Error('it is not whole');
      return key;
    });
    if (keys.length === 0) throw new Error('it is empty');
    return keys.sort((a, b) => a.signsFromMs - b.signsFromMs);
  } catch {
    // The cause is not passed on: it may quote a seed.
    throw new FileError(
      `${file} does not hold the keys that messages to agents are signed with: put it back from a backup, or remove it, in which case new ones are made, which agents learn of by way of the API`,
    );
  }
}
