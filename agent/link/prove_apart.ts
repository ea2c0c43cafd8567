import { spawn } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  type Credentials,
  RenewCredentialsResponseSchema,
} from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { fromSeed } from '../../proto/nkeys.ts';
import { asStage } from '../process/stage.ts';
import { EnrollError } from './enroll_error.ts';
import type { Identity } from './identity.ts';
import { trustFrom } from './trust.ts';

/**
 * Asking the control plane's API for credentials, in a process of its own that lives as long as the exchange: about a second. It happens once a day,
 * and an agent that has once loaded an RPC client and an HTTP client, and made a connection by TLS, is 6 MB larger until it ends.
 *
 * The key goes to that process through a pipe, as no other user can read it there, and the answer comes back in the same way.
 */

/** What the process is told, as JSON. */
interface Order {
  /** The nkey's seed. */
  readonly seed: string;
  /** URLs, in the order to try them. */
  readonly servers: readonly string[];
  /** PEM. Undefined: whom the system trusts. */
  readonly trusted: readonly string[] | undefined;
}

/** What it says, as JSON. */
type Outcome =
  | {
      readonly server: string;
      /** RenewCredentialsResponse, in base64. */
      readonly answer: string;
    }
  | { readonly kind: EnrollError['kind']; readonly message: string };

/** For each of the servers: more than `renewByProof` takes. */
const patienceMs = 30_000;
const program = fileURLToPath(new URL('../main.ts', import.meta.url));

/** New credentials for the proof of the key, from wherever the control plane is by now. What it says of whom to trust is kept. Rejects with EnrollError. */
export async function proveApart(identity: Identity, signal: AbortSignal): Promise<Credentials> {
  const { trust, seed } = identity;
  const servers = [...new Set([identity.server, ...trust.serverUrls])];
  const order: Order = { seed: Buffer.from(seed).toString(), servers, trusted: trust.certificates };
  const outcome = await askApart(order, signal);
  if ('kind' in outcome) throw new EnrollError(outcome.kind, outcome.message);
  const { server, answer } = outcome;
  const { credentials, trust: bundle } = fromBinary(RenewCredentialsResponseSchema, Buffer.from(answer, 'base64'));
  if (!credentials) throw new EnrollError('invalid', `${server} answered without credentials`);
  if (bundle) await identity.trustIn(trustFrom(bundle, server));
  if (server !== identity.server) await identity.enrolledAt(server);
  return credentials;
}

async function askApart(order: Order, signal: AbortSignal): Promise<Outcome> {
  const child = spawn(process.execPath, [...process.execArgv, program], {
    env: { ...process.env, ...asStage('proving') },
    signal,
    timeout: patienceMs * order.servers.length,
    killSignal: 'SIGKILL',
  });
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, by) => resolve(by ? `was ended by ${by}` : `ended with ${code}`));
  });
  // How it ended tells why it could not be written to.
  child.stdin.on('error', () => undefined).end(JSON.stringify(order));
  const [said, complaint, how] = await Promise.all([text(child.stdout), text(child.stderr), ended]);
  try {
    return JSON.parse(said) as Outcome;
  } catch {
    const problem = `${how}: ${complaint.trim().slice(-1_000)}`;
    throw new EnrollError('unavailable', `the process that asks the control plane ${problem}`);
  }
}

/** The other end: does as it is told on stdin, and says on stdout what came of it. */
export async function prove(): Promise<void> {
  const { seed, servers, trusted } = JSON.parse(await text(process.stdin)) as Order;
  const key = fromSeed(new TextEncoder().encode(seed));
  const identity = { publicKey: key.getPublicKey(), sign: (data: Uint8Array) => key.sign(data) };
  const { renewAnywhere } = await import('./enroll.ts');
  process.stdout.write(JSON.stringify(await outcomeOf(renewAnywhere(servers, { identity, nowMs: Date.now, trusted }))));
}

async function outcomeOf(proving: ReturnType<typeof import('./enroll.ts').renewAnywhere>): Promise<Outcome> {
  try {
    const { server, credentials, trust } = await proving;
    const answer = create(RenewCredentialsResponseSchema, { credentials, trust });
    return { server, answer: Buffer.from(toBinary(RenewCredentialsResponseSchema, answer)).toString('base64') };
  } catch (error) {
    if (error instanceof EnrollError) return { kind: error.kind, message: error.message };
    throw error;
  }
}
