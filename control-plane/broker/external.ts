import { parseCreds } from 'nats-jwt';
import { createUser } from '../../proto/nkeys.ts';
import { PreconditionError } from '../domain/errors.ts';
import { isLoopback } from '../domain/ip.ts';
import { checkPrivate, readSmallFile } from '../private_file.ts';
import type { AccountAuthority } from './access.ts';
import { BrokerError } from './broker_error.ts';
import { controlPlaneUserJwt, type UserSigner, withRevocations } from './claims.ts';
import type { ConnectionCredentials } from './connection.ts';
import { readSeedFile } from './keys.ts';

/** A broker that somebody else runs, in operator mode with a resolver that takes `$SYS.REQ.CLAIMS.UPDATE`. */
export interface ExternalBrokerOptions {
  /** `nats://HOST:PORT` or `tls://HOST:PORT`, at least one. */
  readonly urls: readonly string[];
  /** The seed of the account's key, or of a signing key of it. */
  readonly accountSeedFile: string;
  /** The account's public key. Needed when the seed is that of a signing key. */
  readonly accountPublicKey?: string;
  /** Credentials of a user of the system account, as nsc writes them. Read anew at each connection. */
  readonly systemCredentialsFile: string;
  /** The seed of the operator's key, or of a signing key of it. Without it nothing can be revoked. */
  readonly operatorSeedFile?: string;
}

export interface BrokerIdentity {
  readonly authority: AccountAuthority;
  /** Of the control plane on the bus. */
  readonly busCredentials: () => Promise<ConnectionCredentials>;
  /** Of the control plane in the system account. */
  readonly systemCredentials: () => Promise<ConnectionCredentials>;
}

/** How long the control plane's own credentials live. They are renewed at two thirds of it. */
export const ownCredentialTtlMs = 24 * 3600 * 1000;

/** Rejects with BrokerError naming the file or the address that is wrong. */
export async function externalIdentity(
  options: ExternalBrokerOptions,
  clock: { now(): number },
): Promise<BrokerIdentity> {
  for (const url of options.urls) checkUrl(url);
  if (options.urls.length === 0) throw new BrokerError('no address of the broker is given: expected nats://HOST:PORT');
  const key = await readSeedFile(options.accountSeedFile, 'account');
  const operator =
    options.operatorSeedFile === undefined ? undefined : await readSeedFile(options.operatorSeedFile, 'operator');
  const signer: UserSigner = { key, accountPublicKey: options.accountPublicKey ?? key.getPublicKey() };
  const system = () => readCredentials(options.systemCredentialsFile);
  const systemPublicKey = (await system()).publicKey;
  // Nobody needs to know this key again: the account vouches for whichever it is.
  const user = createUser();
  return {
    authority: {
      signer,
      ownKeys: [user.getPublicKey(), systemPublicKey],
      async accountJwt(revocations, current) {
        if (!operator) {
          throw new PreconditionError(
            "the broker is another operator's, and no operator key is given: revoke the agent's key in the account there",
          );
        }
        return withRevocations(await current(), signer.accountPublicKey, operator, revocations);
      },
      // The broker keeps it.
      keepAccountJwt: () => Promise.resolve(),
    },
    busCredentials: () => ownCredentials(user, signer, clock),
    systemCredentials: system,
  };
}

/** Fresh credentials of the control plane. */
export async function ownCredentials(
  user: { getPublicKey(): string; getSeed(): Uint8Array },
  signer: UserSigner,
  clock: { now(): number },
): Promise<ConnectionCredentials> {
  const publicKey = user.getPublicKey();
  const { userJwt, issueTimeMs } = await controlPlaneUserJwt({
    publicKey,
    name: 'control-plane',
    signer,
    ttlMs: ownCredentialTtlMs,
    nowMs: clock.now(),
  });
  return { userJwt, seed: user.getSeed(), renewTimeMs: issueTimeMs + (ownCredentialTtlMs * 2) / 3 };
}

function checkUrl(url: string): void {
  const parsed = URL.parse(url);
  if (!parsed || !['nats:', 'tls:'].includes(parsed.protocol) || parsed.hostname === '' || parsed.username !== '') {
    throw new BrokerError('an address of the broker is not understood: expected nats://HOST:PORT or tls://HOST:PORT');
  }
  if (parsed.protocol === 'nats:' && !isLoopback(parsed.hostname.replace(/^\[|\]$/g, ''))) {
    throw new BrokerError(`${url} would be spoken to in the clear, beyond this machine: expected tls://${parsed.host}`);
  }
}

async function readCredentials(path: string): Promise<ConnectionCredentials & { readonly publicKey: string }> {
  const text = await readSmallFile(path, 64 * 1024);
  if (text === undefined)
    throw new BrokerError(`the credentials file ${path} of the broker's system account is missing`);
  await checkPrivate(path, '0600');
  try {
    const { jwt, key, uc } = await parseCreds(new TextEncoder().encode(text));
    return { userJwt: jwt, seed: new TextEncoder().encode(key), publicKey: uc.sub };
  } catch {
    // The cause is not passed on: it may quote the file.
    throw new BrokerError(`${path} does not hold NATS user credentials: expected a file as nsc writes it`);
  }
}
