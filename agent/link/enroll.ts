import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, createClient, type Interceptor } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { type Credentials, EnrollmentService } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import type { TrustBundle } from '../../proto/gen/baykeeper/v1/trust_bundle_pb.js';
import { EnrollError } from './enroll_error.ts';
import type { Identity } from './identity.ts';

export { EnrollError } from './enroll_error.ts';

/**
 * Getting credentials from the control plane's EnrollmentService: at first by a join token, later by proving the key. Only this file
 * needs the RPC client, and it is imported only when it is needed: an agent at rest does without.
 */

export interface EnrollOptions {
  /** URL of the control plane. */
  readonly server: string;
  readonly identity: Pick<Identity, 'publicKey' | 'sign'>;
  readonly nowMs: () => number;
  /** Whom to trust over https, as PEM. Default: whom the system trusts. */
  readonly trusted?: readonly string[];
  /** Gets what the control plane says of whom to trust from now on, before anything else is done with its answer. */
  readonly onTrust?: (bundle: TrustBundle) => Promise<void>;
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
    return client.enroll({ ...join, proof, time: timestampFromMs(options.nowMs()) });
  });
}

/** New credentials for a node that has enrolled before, with no other proof than its key. Rejects with EnrollError. */
export function renewByProof(options: EnrollOptions): Promise<Credentials> {
  return exchange(options, async (client, proof) => {
    return client.renewCredentials({ proof, time: timestampFromMs(options.nowMs()) });
  });
}

/** The same from the first of these that answers. Rejects with EnrollError. */
export async function renewAnywhere(
  servers: Iterable<string>,
  options: Pick<EnrollOptions, 'identity' | 'nowMs' | 'trusted'>,
): Promise<Proven> {
  let failure: unknown;
  for (const server of servers) {
    try {
      let trust: TrustBundle | undefined;
      const onTrust = async (bundle: TrustBundle) => {
        trust = bundle;
      };
      const credentials = await renewByProof({ ...options, server, onTrust });
      return { server, credentials, trust };
    } catch (error) {
      // Another one would say the same.
      if (!(error instanceof EnrollError) || error.kind !== 'unavailable') throw error;
      failure ??= error;
    }
  }
  throw failure;
}

/** What a control plane said to the proof of a key. */
export interface Proven {
  /** Which one it was. */
  readonly server: string;
  readonly credentials: Credentials;
  /** Whom to trust from now on, where it says so. */
  readonly trust: TrustBundle | undefined;
}

const clientOf = (
  server: string,
  timeoutMs: number,
  trusted: readonly string[] | undefined,
  interceptors: Interceptor[] = [],
) =>
  createClient(
    EnrollmentService,
    createConnectTransport({
      baseUrl: server,
      httpVersion: '1.1',
      useBinaryFormat: true,
      defaultTimeoutMs: timeoutMs,
      readMaxBytes: 1 << 20,
      // A connection for each exchange: an agent at rest needs none, and the next one may trust others.
      ...(server.startsWith('https:')
        ? { nodeOptions: { agent: false, minVersion: 'TLSv1.2', ...(trusted ? { ca: [...trusted] } : {}) } as const }
        : {}),
      interceptors,
    }),
  );
type Client = ReturnType<typeof clientOf>;
interface Answer {
  readonly credentials?: Credentials;
  readonly trust?: TrustBundle;
}
interface Proof {
  readonly publicKey: string;
  readonly challenge: Uint8Array;
  readonly signature: Uint8Array;
}

async function exchange(
  { server, identity, trusted, onTrust, timeoutMs = 20_000 }: EnrollOptions,
  ask: (client: Client, proof: Proof) => Promise<Answer>,
): Promise<Credentials> {
  const client = clientOf(server, timeoutMs, trusted);
  const { publicKey } = identity;
  let answer: Answer;
  try {
    const { challenge } = await client.createChallenge({ publicKey });
    answer = await ask(client, { publicKey, challenge, signature: identity.sign(challenge) });
  } catch (error) {
    throw explained(server, error);
  }
  if (!answer.credentials)
    throw new EnrollError('invalid', `${server} answered without credentials: is it a Baykeeper control plane?`);
  if (answer.trust) await onTrust?.(answer.trust);
  return answer.credentials;
}

function explained(server: string, error: unknown): EnrollError {
  const { code, rawMessage } = ConnectError.from(error);
  const options = { cause: error };
  const distrust = distrustOf(error);
  if (distrust) return new EnrollError('unavailable', `will not speak to ${server}: ${distrust}`, options);
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

/** What is wrong with the certificate of a server, when that is what went wrong. */
function distrustOf(error: unknown): string | undefined {
  for (let at = error, depth = 0; at instanceof Error && depth < 8; at = at.cause, depth += 1) {
    const code = 'code' in at ? String(at.code) : '';
    switch (code) {
      case 'CERT_HAS_EXPIRED':
        return "its certificate has expired, by this machine's clock: check both";
      case 'CERT_NOT_YET_VALID':
        return "its certificate is not valid yet, by this machine's clock: set the clock (NTP)";
      case 'ERR_TLS_CERT_ALTNAME_INVALID':
        return `its certificate is for another name (${at.message})`;
      case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
      case 'UNABLE_TO_GET_ISSUER_CERT':
      case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
      case 'SELF_SIGNED_CERT_IN_CHAIN':
      case 'DEPTH_ZERO_SELF_SIGNED_CERT':
      case 'CERT_SIGNATURE_FAILURE':
        return 'nobody whom this machine trusts vouches for its certificate. If the control plane has another CA by now, join again with a new line of bayctl bay join-command';
      case 'ERR_SSL_WRONG_VERSION_NUMBER':
      case 'ERR_SSL_PACKET_LENGTH_TOO_LONG':
        return 'it does not speak TLS: expected http:// then';
    }
  }
  return undefined;
}
