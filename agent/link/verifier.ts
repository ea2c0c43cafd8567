import { randomBytes, verify } from 'node:crypto';
import { fromBinary } from '@bufbuild/protobuf';
import { type Signed, SignedSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { nonceBytes, type SignedPurpose, signedBytes } from '../../proto/signing.ts';
import type { NodeAddress } from '../../proto/subjects.ts';
import type { Clock } from '../clock.ts';
import type { Log } from '../log.ts';
import type { TrustedKeys } from './trusted_keys.ts';

export interface VerifierOptions {
  readonly address: NodeAddress;
  readonly keys: Pick<TrustedKeys, 'find' | 'findStored' | 'isAgeing' | 'inUse'>;
  readonly clock: Clock;
  readonly log: Log;
}

/** A message that the control plane has signed. */
export interface Opened {
  readonly payload: Uint8Array;
  /** The whole Signed, to be kept. */
  readonly message: Uint8Array;
  /** Of the key. */
  readonly keyId: string;
}

/** Why a message is not believed. */
export type Unverified = 'Malformed' | 'UnknownKey' | 'BadSignature';

/** A message on disk is not what the control plane has signed. */
export class UnverifiedError extends Error {
  override readonly name = 'UnverifiedError';
}

const words: Record<Unverified, string> = {
  Malformed: 'it is not a signed message',
  UnknownKey: "it is signed with a key that is not the control plane's, as far as is known here",
  BadSignature: 'its signature is not good for it: somebody has made or changed it, or meant it for another node',
};

/** For so long after the last refusal, the node's status tells of it. */
const tellMs = 600_000;
/** Refusals are logged at most this often: whoever sends such messages can send many. */
const logEveryMs = 5_000;

/** The rest of a message takes about a hundred. */
const mostBesideBytes = 512;

/** What an agent draws for a session or a request, so that its answer cannot be an old one. */
export const drawNonce = (): Uint8Array => randomBytes(nonceBytes);

/** Tells what the control plane has signed from everything else that comes over the bus. The broker is believed nothing. */
export class Verifier {
  readonly #options: VerifierOptions;
  #refused = 0n;
  #last:
    | { readonly why: Unverified; readonly what: SignedPurpose; readonly keyId: string; readonly atMs: number }
    | undefined;
  #loggedMs = Number.NEGATIVE_INFINITY;
  #unlogged = 0;
  /** Called when a message was signed by a key that is not known. Anybody can send such: it is to be bounded. */
  onUnknownKey: (() => void) | undefined;

  constructor(options: VerifierOptions) {
    this.#options = options;
  }

  /** How many messages were refused since the agent started. */
  get refused(): bigint {
    return this.#refused;
  }

  /** What was refused lately, for people; undefined: nothing, or the control plane's own, of which the key was not known yet. */
  get problem(): { readonly reason: Unverified; readonly message: string } | undefined {
    const { clock, keys } = this.#options;
    const last = this.#last;
    if (!last || Math.abs(clock.now() - last.atMs) > tellMs) return undefined;
    if (last.why === 'UnknownKey' && keys.find(last.keyId)) return undefined;
    const count =
      this.#refused === 1n ? '1 message from the broker was' : `${this.#refused} messages from the broker were`;
    return {
      reason: last.why,
      message: `${count} not believed; of the last (${last.what}): ${words[last.why]}`,
    };
  }

  /** Undefined: it is not to be believed, or it is of another session. `nonce`: what the agent drew. */
  open(purpose: SignedPurpose, nonce: Uint8Array, data: Uint8Array, streamId?: string): Opened | undefined {
    const { address, keys, log } = this.#options;
    let signed: Signed;
    try {
      signed = fromBinary(SignedSchema, data);
    } catch {
      return this.#refuse(purpose, 'Malformed', '');
    }
    const { keyId } = signed;
    // Whatever is not signed would be kept on disk as well.
    if (data.byteLength > signed.payload.byteLength + mostBesideBytes) return this.#refuse(purpose, 'Malformed', '');
    // Not an attack by itself: the end of one session is often still on its way when the next has begun.
    if (!Buffer.from(nonce).equals(signed.nonce)) {
      log.debug({ what: purpose }, 'a message of another session is not taken');
      return undefined;
    }
    const key = keys.find(keyId);
    if (!key) return this.#refuse(purpose, 'UnknownKey', keyId);
    const bytes = signedBytes({ ...address, purpose, nonce, streamId }, signed.payload);
    if (!verify(null, bytes, key, signed.signature)) return this.#refuse(purpose, 'BadSignature', keyId);
    return kept(signed, data);
  }

  /**
   * A message that was kept on this disk, and the id of its key. It is as good as it was when it came: the keys of that time are kept for
   * as long. Throws UnverifiedError.
   */
  openStored(purpose: SignedPurpose, message: Uint8Array): { readonly payload: Uint8Array; readonly keyId: string } {
    const { address, keys } = this.#options;
    let signed: Signed;
    let bytes: Uint8Array;
    try {
      signed = fromBinary(SignedSchema, message);
      bytes = signedBytes({ ...address, purpose, nonce: signed.nonce }, signed.payload);
    } catch (cause) {
      throw new UnverifiedError(words.Malformed, { cause });
    }
    const key = keys.findStored(signed.keyId);
    if (!key) throw new UnverifiedError(words.UnknownKey);
    if (!verify(null, bytes, key, signed.signature)) throw new UnverifiedError(words.BadSignature);
    return { payload: signed.payload, keyId: signed.keyId };
  }

  /** Whether what is signed by this key is to be had anew. */
  isAgeing(keyId: string): boolean {
    return this.#options.keys.isAgeing(keyId);
  }

  /** All that is on disk is signed by these keys. */
  keep(keyIds: ReadonlySet<string>): void {
    const { keys, log } = this.#options;
    keys.inUse(keyIds).catch((error: unknown) => {
      log.warn({ error: (error as Error).message }, 'a former key of the control plane could not be forgotten');
    });
  }

  #refuse(what: SignedPurpose, why: Unverified, keyId: string): undefined {
    const { clock, log } = this.#options;
    const now = clock.now();
    this.#refused += 1n;
    // The id is whatever somebody has sent.
    this.#last = { why, what, keyId: keyId.slice(0, 64), atMs: now };
    if (Math.abs(now - this.#loggedMs) < logEveryMs) {
      this.#unlogged += 1;
    } else {
      const more = this.#unlogged;
      const because = words[why];
      log.warn({ what, reason: why, because, keyId: keyId.slice(0, 64), more }, 'a message from the broker is refused');
      this.#loggedMs = now;
      this.#unlogged = 0;
    }
    if (why === 'UnknownKey') this.onUnknownKey?.();
    return undefined;
  }
}

/** Copied: the data is a view of a much larger buffer of the connection. */
function kept({ payload, keyId }: Signed, data: Uint8Array): Opened {
  const message = Uint8Array.from(data);
  const start = payload.byteOffset - data.byteOffset;
  return { message, keyId, payload: message.subarray(start, start + payload.byteLength) };
}
