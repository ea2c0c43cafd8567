import { createPrivateKey, createPublicKey, sign } from 'node:crypto';
import { create, toBinary } from '@bufbuild/protobuf';
import { systemClock } from '../../agent/clock.ts';
import type { KeptMessage } from '../../agent/link/message_log.ts';
import { Verifier, type VerifierOptions } from '../../agent/link/verifier.ts';
import { silentLog } from '../../agent/log.ts';
import type { MessageSigner } from '../../control-plane/broker/port.ts';
import { type Assign, AssignSchema, SignedSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { type SigningKey, SigningKeySchema } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { nonceBytes, type SignedContext, signedBytes, signingKeyId } from '../../proto/signing.ts';
import type { NodeAddress } from '../../proto/subjects.ts';

const pkcs8Prefix = Buffer.from('302e020100300506032b657004220420', 'hex');

/** A control plane's signature, with a key of which the seed is 32 times the same byte, the same in every process; or with that of a given seed. */
export class TestSigner implements MessageSigner {
  readonly id: string;
  get keyId(): string {
    return this.id;
  }
  readonly publicKey: Uint8Array;
  readonly #privateKey: ReturnType<typeof createPrivateKey>;

  constructor(seed: number | Uint8Array = 7) {
    const key = Buffer.concat([pkcs8Prefix, typeof seed === 'number' ? Buffer.alloc(32, seed) : seed]);
    this.#privateKey = createPrivateKey({ key, format: 'der', type: 'pkcs8' });
    const spki = createPublicKey(this.#privateKey).export({ format: 'der', type: 'spki' });
    this.publicKey = Uint8Array.from(spki.subarray(-32));
    this.id = signingKeyId(this.publicKey);
  }

  keys(): SigningKey[] {
    return [create(SigningKeySchema, { id: this.id, publicKey: this.publicKey })];
  }

  seal(context: SignedContext, payload: Uint8Array): Uint8Array {
    const signature = sign(null, signedBytes(context, payload), this.#privateKey);
    return toBinary(SignedSchema, create(SignedSchema, { keyId: this.id, nonce: context.nonce, payload, signature }));
  }

  /** An Assign as it is sent. */
  assign({ bayUid, nodeUid }: NodeAddress, assign: Assign, nonce: Uint8Array = testNonce): Uint8Array {
    return this.seal({ bayUid, nodeUid, purpose: 'assign', nonce }, toBinary(AssignSchema, assign));
  }

  /** An Assign as it is kept. */
  kept(address: NodeAddress, assign: Assign): KeptMessage {
    return { message: this.assign(address, assign), keyId: this.id };
  }
}

/** The one that tests believe. */
export const testSigner = new TestSigner();
/** For a session that a test has no need to draw one for. */
export const testNonce: Uint8Array = new Uint8Array(nonceBytes).fill(1);

/** An agent that believes these, and keeps nothing. */
export function testVerifier(
  address: NodeAddress,
  signers: readonly TestSigner[] = [testSigner],
  options: Partial<VerifierOptions> = {},
): Verifier {
  const keys = new Map(
    signers.map(({ id, publicKey }) => {
      const key = { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(publicKey).toString('base64url') };
      return [id, createPublicKey({ key, format: 'jwk' })];
    }),
  );
  const find = (id: string) => keys.get(id);
  return new Verifier({
    address,
    keys: { find, findStored: find, isAgeing: () => false, inUse: async () => undefined },
    clock: systemClock,
    log: silentLog,
    ...options,
  });
}
