import { createPrivateKey, type KeyObject, sign } from 'node:crypto';
import type { KeyPair } from '../../proto/nkeys.ts';

/** Before the 32 bytes of an Ed25519 seed in PKCS #8. */
const pkcs8Prefix = Buffer.from('302e020100300506032b657004220420', 'hex');
const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';

/**
 * An nkey that is kept ready to sign. nkeys.js makes it of its seed at each look at it, which takes half a millisecond of the only thread for
 * each credential: a thousand agents may come back at once. The signatures are the same, byte for byte.
 */
export class SigningKey implements KeyPair {
  readonly #pair: KeyPair;
  readonly #publicKey: string;
  readonly #privateKey: KeyObject;
  #encodedPrivateKey: Uint8Array | undefined;

  /** Throws when the pair has no seed. */
  constructor(pair: KeyPair) {
    this.#pair = pair;
    this.#publicKey = pair.getPublicKey();
    const key = Buffer.concat([pkcs8Prefix, rawSeed(pair.getSeed())]);
    this.#privateKey = createPrivateKey({ key, format: 'der', type: 'pkcs8' });
    key.fill(0);
  }

  getPublicKey(): string {
    return this.#publicKey;
  }

  getPrivateKey(): Uint8Array {
    // Asked for at each signature, only to see that there is one.
    this.#encodedPrivateKey ??= this.#pair.getPrivateKey();
    return this.#encodedPrivateKey;
  }

  getSeed(): Uint8Array {
    return this.#pair.getSeed();
  }

  sign(input: Uint8Array): Uint8Array {
    return sign(null, input, this.#privateKey);
  }

  verify(input: Uint8Array, signature: Uint8Array): boolean {
    return this.#pair.verify(input, signature);
  }

  seal(input: Uint8Array, recipient: string, nonce?: Uint8Array): Uint8Array {
    return this.#pair.seal(input, recipient, nonce);
  }

  open(input: Uint8Array, sender: string): Uint8Array | null {
    return this.#pair.open(input, sender);
  }

  clear(): void {
    this.#encodedPrivateKey?.fill(0);
    this.#pair.clear();
  }
}

/** An encoded seed is base32 of two bytes of prefix, the seed, and two of checksum. */
function rawSeed(encoded: Uint8Array): Buffer {
  const bytes: number[] = [];
  let bits = 0;
  let held = 0;
  for (const code of encoded) {
    const value = alphabet.indexOf(String.fromCharCode(code));
    if (value < 0) throw new TypeError('not base32');
    held = ((held << 5) | value) & 0xfff;
    bits += 5;
    if (bits < 8) continue;
    bits -= 8;
    bytes.push((held >> bits) & 0xff);
  }
  return Buffer.from(bytes.slice(2, 34));
}
