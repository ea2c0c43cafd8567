import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { timestampMs } from '@bufbuild/protobuf/wkt';
import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { type Credentials, CredentialsSchema } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { createUser, fromSeed, type KeyPair } from '../../proto/nkeys.ts';
import { agentPermissions } from '../../proto/subjects.ts';
import { writeDurably } from '../durable_file.ts';
import { nodeFile } from '../node_file.ts';
import { formatTrust, parseTrust, type Trust } from './trust.ts';
import { problemOfKeys, TrustedKeys } from './trusted_keys.ts';

/** Something on disk that should be ours is not usable. The message says what to do. */
export class IdentityError extends Error {
  override readonly name = 'IdentityError';
}

/**
 * Who the agent is: its key, made here and never given away, and the credentials that the control plane gave for it.
 * Everything lies in the data folder, readable by its owner alone.
 */
export interface Identity {
  /** The public nkey, `U…`. */
  readonly publicKey: string;
  /** The private key, for the broker's authenticator. Goes nowhere else. */
  readonly seed: Uint8Array;
  /** Undefined until the agent has enrolled, and when they were damaged. */
  readonly credentials: Credentials | undefined;
  /** Which node this is. Undefined until the agent has enrolled. */
  readonly node: NodeIdentity | undefined;
  /** The control plane's keys, which came with the credentials. */
  readonly trustedKeys: TrustedKeys;
  /** Where the agent enrolled; empty when it has not. */
  readonly server: string;
  /** Ed25519 signature, 64 bytes. */
  sign(data: Uint8Array): Uint8Array;
  /** Keeps new credentials; resolves when they are on disk. Rejects with IdentityError when they are not for this node. */
  take(credentials: Credentials): Promise<void>;
  /** Remembers where to renew. */
  enrolledAt(server: string): Promise<void>;
  /** Whom it trusts. */
  readonly trust: Trust;
  /** Trusts these from now on, and nobody else; resolves when it is on disk. */
  trustIn(trust: Trust): Promise<void>;
}

/** Which node of which bay. Outlives damaged credentials, so that the node goes on with its work. */
export interface NodeIdentity {
  readonly bayUid: string;
  readonly bay: string;
  readonly nodeUid: string;
  readonly node: string;
  /** What the bay's containers run on. */
  readonly containerEngine: NodeEngine;
}

/** Who enrolled before there was a choice is a node of a Docker bay. */
export type NodeEngine = ContainerEngine.DOCKER | ContainerEngine.KUBERNETES;

const seedFile = 'identity.seed';
const credentialsFile = 'credentials.bin';
const trustedKeysFile = 'trusted_keys.json';
const serverFile = 'server';
const trustFile = 'trust.json';
const ownerOnly = 0o600;

/** Opens the identity in a data folder, and makes the folder and the key when there are none. Rejects with IdentityError. */
export async function openIdentity(dataDir: string): Promise<Identity> {
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const key = await openKey(join(dataDir, seedFile));
  const seed = key.getSeed();
  let credentials = await readCredentials(join(dataDir, credentialsFile));
  const trustedKeys = await TrustedKeys.open(join(dataDir, trustedKeysFile));
  // Of the two files that have them, one may be damaged.
  if (!trustedKeys.any && credentials) await trustedKeys.replace(credentials.signingKeys);
  let server = ((await readIfThere(join(dataDir, serverFile)))?.toString('utf8') ?? '').trim();
  if (server && !URL.canParse(server)) server = '';
  let node = credentials ? nodeOf(credentials) : parseNode(await readIfThere(join(dataDir, nodeFile)));

  let trust = parseTrust(await readIfThere(join(dataDir, trustFile)));

  return {
    publicKey: key.getPublicKey(),
    seed,
    trustedKeys,
    get credentials() {
      return credentials;
    },
    get node() {
      return node;
    },
    get server() {
      return server;
    },
    get trust() {
      return trust;
    },
    sign: (data) => key.sign(data),
    async take(next) {
      const problem = problemOf(next);
      if (problem) throw new IdentityError(`the control plane gave unusable credentials: ${problem}`);
      if (node && (next.nodeUid !== node.nodeUid || next.bayUid !== node.bayUid)) {
        throw new IdentityError(
          `this machine is node ${node.node} of bay ${node.bay}, and was given credentials for node ${next.node} of bay ${next.bay}: use another data folder to join another bay`,
        );
      }
      node = nodeOf(next);
      await trustedKeys.replace(next.signingKeys);
      await writeDurably(join(dataDir, nodeFile), [Buffer.from(`${formatNode(node)}\n`)], ownerOnly);
      await writeDurably(join(dataDir, credentialsFile), [toBinary(CredentialsSchema, next)], ownerOnly);
      credentials = next;
    },
    async enrolledAt(url) {
      await writeDurably(join(dataDir, serverFile), [Buffer.from(`${url}\n`)], ownerOnly);
      server = url;
    },
    async trustIn(next) {
      const text = formatTrust(next);
      if (text === formatTrust(trust)) return;
      await writeDurably(join(dataDir, trustFile), [Buffer.from(`${text}\n`)], ownerOnly);
      trust = next;
    },
  };
}

/** When the credentials run out, in milliseconds since 1970. */
export const expireTimeMs = (credentials: Credentials): number =>
  credentials.expireTime ? timestampMs(credentials.expireTime) : 0;

/** When they were made, by the control plane's clock. */
export const issueTimeMs = (credentials: Credentials): number =>
  credentials.issueTime ? timestampMs(credentials.issueTime) : expireTimeMs(credentials);

/** When they are to be renewed: at two thirds of their life. */
export function renewTimeMs(credentials: Credentials): number {
  const end = expireTimeMs(credentials);
  const start = issueTimeMs(credentials);
  return start + Math.max(0, (end - start) * 2) / 3;
}

async function openKey(path: string): Promise<KeyPair> {
  const stored = await readIfThere(path);
  if (stored) {
    try {
      return fromSeed(new TextEncoder().encode(stored.toString('utf8').trim()));
    } catch (cause) {
      throw new IdentityError(`${path} holds no usable key: restore it, or empty the data folder and join again`, {
        cause,
      });
    }
  }
  const made = createUser();
  await writeDurably(path, [made.getSeed(), Buffer.from('\n')], ownerOnly);
  return made;
}

/** Damaged credentials are no credentials: they are renewed by proving the key. */
async function readCredentials(path: string): Promise<Credentials | undefined> {
  const stored = await readIfThere(path);
  if (!stored) return undefined;
  try {
    const credentials = fromBinary(CredentialsSchema, stored);
    return problemOf(credentials) ? undefined : credentials;
  } catch {
    return undefined;
  }
}

const nodeOf = ({ bayUid, bay, nodeUid, node, containerEngine }: Credentials): NodeIdentity => ({
  bayUid,
  bay,
  nodeUid,
  node,
  containerEngine: engineOf(containerEngine === ContainerEngine.KUBERNETES),
});

const engineOf = (isKubernetes: boolean): NodeEngine =>
  isKubernetes ? ContainerEngine.KUBERNETES : ContainerEngine.DOCKER;

const formatNode = ({ containerEngine, ...node }: NodeIdentity): string =>
  JSON.stringify({
    ...node,
    containerEngine: containerEngine === ContainerEngine.KUBERNETES ? 'kubernetes' : 'docker',
  });

function parseNode(stored: Buffer | undefined): NodeIdentity | undefined {
  if (!stored) return undefined;
  try {
    const fields = JSON.parse(stored.toString('utf8')) as Partial<Record<string, unknown>>;
    const { bayUid, bay, nodeUid, node, containerEngine } = fields;
    const known = {
      bayUid: String(bayUid),
      bay: String(bay),
      nodeUid: String(nodeUid),
      node: String(node),
      containerEngine: engineOf(containerEngine === 'kubernetes'),
    };
    agentPermissions(known);
    return known;
  } catch {
    return undefined;
  }
}

/** Which node a data folder is of, as far as is known; nothing is made, and nothing else is read. Rejects with IdentityError. */
export const readNode = async (dataDir: string): Promise<NodeIdentity | undefined> =>
  parseNode(await readIfThere(join(dataDir, nodeFile)));

/** What makes credentials unusable; undefined when they are fine. */
function problemOf(credentials: Credentials): string | undefined {
  try {
    agentPermissions(credentials);
  } catch {
    return 'the uid of the bay or of the node is malformed';
  }
  if (!/^[\w-]+\.[\w-]+\.[\w-]+$/.test(credentials.userJwt)) return 'no JWT';
  if (credentials.brokerUrls.length === 0) return 'no address of a broker';
  if (!credentials.expireTime) return 'no time of expiry';
  return problemOfKeys(credentials.signingKeys);
}

async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new IdentityError(`cannot read ${path}: ${(error as Error).message}`, { cause: error });
  }
}
