import { createPrivateKey, createPublicKey, type KeyObject, randomBytes, sign } from 'node:crypto';
import { join } from 'node:path';
import { create, toBinary } from '@bufbuild/protobuf';
import type { Logger } from 'pino';
import { SignedSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { type SigningKey, SigningKeySchema } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { type SignedContext, signedBytes, signingKeyId } from '../../proto/signing.ts';
import {
  checkPrivate,
  FileError,
  makePrivateFolder,
  readSmallFile,
  removeLeftovers,
  writePrivateFile,
} from '../private_file.ts';
import { messageOf } from './broker_error.ts';
import type { MessageSigner } from './port.ts';

/** Before the 32 bytes of an Ed25519 seed in PKCS #8, and of a public key in SubjectPublicKeyInfo. */
const pkcs8Prefix = Buffer.from('302e020100300506032b657004220420', 'hex');
const spkiPrefixBytes = 12;

export interface MessageSignerOptions {
  /** The keys are in `dataDir/signing`. */
  readonly dataDir: string;
  /** How long a key signs until the next one does. */
  readonly keyLifeMs: number;
  /** The longest that an agent that is connected goes without asking for credentials, which say what the keys are. */
  readonly credentialTtlMs: number;
  readonly clock: { now(): number };
  readonly log: Logger;
}

interface Key {
  readonly id: string;
  readonly seed: Uint8Array;
  readonly publicKey: Uint8Array;
  readonly privateKey: KeyObject;
  /** From then on, until the next one does. */
  readonly signsFromMs: number;
}

/**
 * The keys that the control plane signs its messages to agents with, in a file of mode 0600.
 *
 * One signs at a time. The next is listed in the agents' credentials for twice the life of those before it signs, so that each connected
 * agent has been told of it by a message that the one before it has signed; and the one before stays listed for as long again. An agent
 * that was away during all that asks the API.
 */
export class KeyFileSigner implements MessageSigner, AsyncDisposable {
  readonly #options: MessageSignerOptions;
  readonly #file: string;
  readonly #overlapMs: number;
  #keys: readonly Key[];
  #turning: Promise<void> | undefined;
  readonly #timer: NodeJS.Timeout;

  /** Makes the first key when there is no file. Rejects with FileError naming the file that is broken, or open to others. */
  static async open(options: MessageSignerOptions): Promise<KeyFileSigner> {
    const folder = join(options.dataDir, 'signing');
    const file = join(folder, 'keys.json');
    await makePrivateFolder(folder);
    await removeLeftovers(folder);
    const signer = new KeyFileSigner(options, file, await readKeys(file));
    try {
      await signer.#turn();
    } catch (error) {
      await signer[Symbol.asyncDispose]();
      throw error;
    }
    return signer;
  }

  private constructor(options: MessageSignerOptions, file: string, keys: readonly Key[]) {
    this.#options = options;
    this.#file = file;
    this.#keys = keys;
    this.#overlapMs = 2 * options.credentialTtlMs;
    this.#timer = setInterval(() => this.#look(), Math.min(Math.max(this.#overlapMs / 8, 250), 3_600_000));
    this.#timer.unref();
  }

  keys(): SigningKey[] {
    const { id: current } = this.#current();
    let before = true;
    return this.#keys.map(({ id, publicKey }) => {
      if (id === current) before = false;
      return create(SigningKeySchema, { id, publicKey, retiring: before });
    });
  }

  seal(context: SignedContext, payload: Uint8Array): Uint8Array {
    const { id, privateKey } = this.#current();
    const signature = sign(null, signedBytes(context, payload), privateKey);
    return toBinary(SignedSchema, create(SignedSchema, { keyId: id, nonce: context.nonce, payload, signature }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#turning;
  }

  /** The newest whose time has come; the oldest, should the clock have been set back. */
  #current(): Key {
    const now = this.#options.clock.now();
    const current = this.#keys.findLast(({ signsFromMs }) => signsFromMs <= now) ?? this.#keys[0];
    if (!current) throw new Error('there is no key to sign with');
    return current;
  }

  #look(): void {
    this.#turning ??= this.#turn()
      .catch((error: unknown) => {
        this.#options.log.error({ error: messageOf(error) }, 'the signing keys cannot be changed, trying again later');
      })
      .finally(() => {
        this.#turning = undefined;
      });
  }

  /** Makes the next key when it is time to, and drops those whose time is over. What is used is on disk. */
  async #turn(): Promise<void> {
    const { clock, keyLifeMs, log } = this.#options;
    const now = clock.now();
    const lifeMs = Math.max(keyLifeMs, 2 * this.#overlapMs);
    const kept = this.#keys.filter((_, i) => {
      const next = this.#keys[i + 1];
      return !next || now < next.signsFromMs + this.#overlapMs;
    });
    const newest = kept.at(-1);
    const next = !newest
      ? newKey(now)
      : now >= newest.signsFromMs + lifeMs - this.#overlapMs
        ? newKey(now + this.#overlapMs)
        : undefined;
    if (!next && kept.length === this.#keys.length) return;
    const keys = next ? [...kept, next] : kept;
    await writeKeys(this.#file, keys);
    this.#keys = keys;
    if (next) log.info({ key: next.id, signsFrom: new Date(next.signsFromMs).toISOString() }, 'made a signing key');
  }
}

const newKey = (signsFromMs: number): Key => keyOf(randomBytes(32), signsFromMs);

function keyOf(seed: Uint8Array, signsFromMs: number): Key {
  const privateKey = createPrivateKey({ key: Buffer.concat([pkcs8Prefix, seed]), format: 'der', type: 'pkcs8' });
  const spki = createPublicKey(privateKey).export({ format: 'der', type: 'spki' });
  const publicKey = Uint8Array.from(spki.subarray(spkiPrefixBytes));
  return { id: signingKeyId(publicKey), seed, publicKey, privateKey, signsFromMs };
}

const writeKeys = (file: string, keys: readonly Key[]): Promise<void> =>
  writePrivateFile(
    file,
    `${JSON.stringify(
      keys.map(({ id, seed, signsFromMs }) => ({ id, seed: Buffer.from(seed).toString('base64'), signsFromMs })),
      null,
      2,
    )}\n`,
  );

async function readKeys(file: string): Promise<Key[]> {
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
