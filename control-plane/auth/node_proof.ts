import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { fromPublic } from '../../proto/nkeys.ts';
import { DeniedError } from '../domain/errors.ts';
import type { NodeProofs } from './port.ts';

/** How long a challenge may be answered. */
const challengeTtlMs = 60_000;
const nonceBytes = 16;
const timeBytes = 8;
const macBytes = 32;

/** Options of {@link createNodeProofs}. */
export interface NodeProofOptions {
  /** Signs the challenges. Default: drawn at the start, which makes challenges from before a restart void. */
  readonly secret?: Uint8Array;
  readonly clock: { now(): number };
}

/** Makes and checks challenges. */
export function createNodeProofs(options: NodeProofOptions): NodeProofs {
  const secret = options.secret ?? randomBytes(32);
  const mac = (head: Uint8Array, publicKey: string): Buffer =>
    createHmac('sha256', secret).update(head).update(publicKey).digest();
  return {
    challenge(publicKey) {
      const head = Buffer.alloc(timeBytes + nonceBytes);
      head.writeBigInt64BE(BigInt(options.clock.now()));
      randomBytes(nonceBytes).copy(head, timeBytes);
      return Buffer.concat([head, mac(head, publicKey)]);
    },
    verify({ publicKey, challenge, signature }) {
      const bytes = Buffer.from(challenge);
      const head = bytes.subarray(0, timeBytes + nonceBytes);
      const given = bytes.subarray(timeBytes + nonceBytes);
      if (given.length !== macBytes || !timingSafeEqual(given, mac(head, publicKey))) {
        throw new DeniedError('This challenge was not made here for this key: ask for a new one.');
      }
      const ageMs = options.clock.now() - Number(head.readBigInt64BE());
      if (ageMs < 0 || ageMs > challengeTtlMs) {
        throw new DeniedError('This challenge is more than a minute old: ask for a new one.');
      }
      if (!signedBy(publicKey, bytes, signature)) {
        throw new DeniedError('The signature is not one of this key over this challenge.');
      }
    },
  };
}

/** Whether a signature (Ed25519) is this public nkey's. False for a key that is none. */
function signedBy(publicKey: string, data: Uint8Array, signature: Uint8Array): boolean {
  try {
    return fromPublic(publicKey).verify(data, signature);
  } catch (error) {
    // nkeys throws for a key whose checksum is wrong, which is an answer as well.
    if (error instanceof Error && error.name === 'NKeysError') return false;
    throw error;
  }
}
