import { createPrivateKey, createPublicKey, type KeyObject, sign, verify } from 'node:crypto';
import { getEd25519Helper, setEd25519Helper } from 'nkeys.js/lib/helper.js';

/**
 * Keys of NATS: nkeys.js, with OpenSSL under it, for the client of NATS as well. By itself it computes Ed25519 in JavaScript, which takes 10 ms of
 * the only thread for each signature, and each look at a public key: too long when a thousand agents come back at once. What comes out is
 * the same, byte for byte.
 */
export { createAccount, createOperator, createUser, fromPublic, fromSeed, type KeyPair } from 'nkeys.js';

/** Before the 32 bytes of an Ed25519 key: of a seed in PKCS #8, of a public key in SPKI. */
const pkcs8Prefix = Buffer.from('302e020100300506032b657004220420', 'hex');
const spkiPrefix = Buffer.from('302a300506032b6570032100', 'hex');
const keyBytes = 32;

function privateKeyOf(seed: Uint8Array): KeyObject {
  const key = Buffer.concat([pkcs8Prefix, seed]);
  try {
    return createPrivateKey({ key, format: 'der', type: 'pkcs8' });
  } finally {
    key.fill(0);
  }
}

setEd25519Helper({
  ...getEd25519Helper(),
  fromSeed(seed) {
    const publicKey = createPublicKey(privateKeyOf(seed)).export({ format: 'der', type: 'spki' }).subarray(-keyBytes);
    // As NaCl has it.
    return { publicKey: new Uint8Array(publicKey), secretKey: new Uint8Array([...seed, ...publicKey]) };
  },
  sign: (data, secretKey) => new Uint8Array(sign(null, data, privateKeyOf(secretKey.subarray(0, keyBytes)))),
  verify: (data, signature, publicKey) =>
    verify(
      null,
      data,
      createPublicKey({ key: Buffer.concat([spkiPrefix, publicKey]), format: 'der', type: 'spki' }),
      signature,
    ),
});
