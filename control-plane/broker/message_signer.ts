import { sign } from 'node:crypto';
import { dirname } from 'node:path';
import { create, toBinary } from '@bufbuild/protobuf';
import type { Logger } from 'pino';
import { SignedSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { type SigningKey, SigningKeySchema } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { type SignedContext, signedBytes } from '../../proto/signing.ts';
import { makePrivateFolder, removeLeftovers } from '../private_file.ts';
import { messageOf } from './broker_error.ts';
import type { MessageSigner } from './port.ts';
import {
  clearWish,
  isReplacementWished,
  type Key,
  newKey,
  readKeys,
  signingKeyFile,
  writeKeys,
} from './signing_key_file.ts';

export interface MessageSignerOptions {
  /** The keys are in `dataDir/signing`. */
  readonly dataDir: string;
  /** How long a key signs until the next one does. */
  readonly keyLifeMs: number;
  /** The longest that an agent that is connected goes without asking for credentials, which say what the keys are. */
  readonly credentialTtlMs: number;
  readonly clock: { now(): number };
  readonly log: Logger;
  /** Hears, by their ids, of keys that were replaced at once. */
  readonly onReplaced?: (before: readonly string[], now: string) => void;
}

/** How often it is looked whether there is anything to do, at the least. */
const maxLookMs = 1_000;

/**
 * The keys that the control plane signs its messages to agents with, in a file of mode 0600.
 *
 * One signs at a time. The next is listed in the agents' credentials for twice the life of those before it signs, so that each connected
 * agent has been told of it by a message that the one before it has signed; and the one before stays listed for as long again. An agent
 * that was away during all that asks the API. So do all of them when the keys are replaced at once, as one may be in wrong hands: nothing that
 * it signs can tell of the next.
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
    const file = signingKeyFile(options.dataDir);
    const folder = dirname(file);
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
    this.#timer = setInterval(() => this.#look(), Math.min(Math.max(this.#overlapMs / 8, 250), maxLookMs));
    this.#timer.unref();
  }

  get keyId(): string {
    return this.#current().id;
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
    const { dataDir, clock, keyLifeMs, log } = this.#options;
    const now = clock.now();
    if (await isReplacementWished(dataDir)) await this.#replace(newKey(now));
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
  async #replace(key: Key): Promise<void> {
    const { dataDir, log, onReplaced } = this.#options;
    const before = this.#keys.map(({ id }) => id);
    await writeKeys(this.#file, [key]);
    this.#keys = [key];
    log.warn({ before, key: key.id }, 'the signing keys were replaced: agents ask the API for the new one');
    onReplaced?.(before, key.id);
    await clearWish(dataDir);
  }
}
