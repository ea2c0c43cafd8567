import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, createClient, type Interceptor } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { type Credentials, EnrollmentService } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import type { Identity } from './identity.ts';

/**
 * Getting credentials from the control plane's EnrollmentService: at first by a join token, later by proving the key. Only this file
 * needs the RPC client, and it is imported only when it is needed: an agent at rest does without.
 */

/** Why there are no credentials. The message is for people and is complete. */
export class EnrollError extends Error {
  override readonly name = 'EnrollError';
  /**
   * `unavailable`: the control plane did not answer, it may be tried again. `clock`: the node's clock is too far off.
   * `denied`: the token is no good, or the node was revoked. `invalid`: asking again changes nothing.
   */
  readonly kind: 'unavailable' | 'clock' | 'denied' | 'invalid';
  constructor(kind: EnrollError['kind'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}

export interface EnrollOptions {
  /** URL of the control plane. */
  readonly server: string;
  readonly identity: Pick<Identity, 'publicKey' | 'sign'>;
  readonly nowMs: () => number;
  /** For the whole exchange. Default 20 s. */
  readonly timeoutMs?: number;
}

export interface EnrollToken {
  /** `ID.SECRET`. */
  readonly token: string;
  /** Empty: whichever the token is for. */
  readonly bay: string;
  readonly nodeName: string;
  readonly agentVersion: string;
}

/** Makes a node of this machine. Repeated with the same key it gives the same node. Rejects with EnrollError. */
export function enroll(options: EnrollOptions, join: EnrollToken): Promise<Credentials> {
  return exchange(options, async (client, proof) => {
    const { credentials } = await client.enroll({ ...join, proof, time: timestampFromMs(options.nowMs()) });
    return credentials;
  });
}

/** New credentials for a node that has enrolled before, with no other proof than its key. Rejects with EnrollError. */
export function renewByProof(options: EnrollOptions): Promise<Credentials> {
  return exchange(options, async (client, proof) => {
    const { credentials } = await client.renewCredentials({ proof, time: timestampFromMs(options.nowMs()) });
    return credentials;
  });
}

const clientOf = (server: string, timeoutMs: number, interceptors: Interceptor[] = []) =>
  createClient(
    EnrollmentService,
    createConnectTransport({
      baseUrl: server,
      httpVersion: '1.1',
      useBinaryFormat: true,
      defaultTimeoutMs: timeoutMs,
      readMaxBytes: 1 << 20,
      interceptors,
    }),
  );
type Client = ReturnType<typeof clientOf>;
interface Proof {
  readonly publicKey: string;
  readonly challenge: Uint8Array;
  readonly signature: Uint8Array;
}

async function exchange(
  { server, identity, timeoutMs = 20_000 }: EnrollOptions,
  ask: (client: Client, proof: Proof) => Promise<Credentials | undefined>,
): Promise<Credentials> {
  const client = clientOf(server, timeoutMs);
  const { publicKey } = identity;
  let credentials: Credentials | undefined;
  try {
    const { challenge } = await client.createChallenge({ publicKey });
    credentials = await ask(client, { publicKey, challenge, signature: identity.sign(challenge) });
  } catch (error) {
    throw explained(server, error);
  }
  if (!credentials)
    throw new EnrollError('invalid', `${server} answered without credentials: is it a Baykeeper control plane?`);
  return credentials;
}

function explained(server: string, error: unknown): EnrollError {
  const { code, rawMessage } = ConnectError.from(error);
  const options = { cause: error };
  switch (code) {
    case Code.PermissionDenied:
    case Code.Unauthenticated:
      return new EnrollError('denied', rawMessage, options);
    case Code.FailedPrecondition:
      return new EnrollError('clock', rawMessage, options);
    case Code.InvalidArgument:
    case Code.NotFound:
    case Code.AlreadyExists:
      return new EnrollError('invalid', rawMessage, options);
    case Code.Unimplemented:
      return new EnrollError('invalid', `${server} is not a Baykeeper control plane: ${rawMessage}`, options);
    default:
      return new EnrollError('unavailable', `cannot reach the control plane at ${server}: ${rawMessage}`, options);
  }
}
