import {
  type Account,
  decode,
  encodeAccount,
  encodeOperator,
  encodeUser,
  type OperatorLimits,
  type User,
} from 'nats-jwt';
import { fromPublic, type KeyPair } from '../../proto/nkeys.ts';
import { agentPermissions, type NodeAddress } from '../../proto/subjects.ts';

/** The JWTs that the broker goes by. Each is signed by the one above: operator, account, user. */

/** What -1 stands for: no limit. Both accounts need all of them: where one is missing, the broker takes it for 0. */
const unlimited: OperatorLimits = {
  subs: -1,
  data: -1,
  payload: -1,
  imports: -1,
  exports: -1,
  wildcards: true,
  conn: -1,
  leaf: -1,
};

/** User public key → the second up to which credentials of this user that were issued are void. */
export type Revocations = Readonly<Record<string, number>>;

/**
 * The end of the year 9999, in seconds: what is issued to the key up to then is void. That it is not just now closes the gap in which
 * credentials that are being issued at this moment would slip through.
 */
const forGood = 253_402_300_799;

/** Revokes these keys for good. What is not the public key of a user is left out: the broker would refuse the whole. */
export const revocationsOf = (publicKeys: Iterable<string>): Revocations =>
  Object.fromEntries([...publicKeys].filter(isUserKey).map((key) => [key, forGood]));

/** Whether it is the public key of an nkey of kind user. */
export function isUserKey(key: string): boolean {
  try {
    return key.startsWith('U') && fromPublic(key).getPublicKey() === key;
  } catch {
    // Checksum or alphabet are wrong: that is the answer.
    return false;
  }
}

/** The operator, with the account in which its servers speak of themselves. */
export const operatorJwt = (operator: KeyPair, systemAccountPublicKey: string): Promise<string> =>
  encodeOperator('baykeeper', operator, { system_account: systemAccountPublicKey });

/** The system account, without limits. */
export const systemAccountJwt = (systemAccount: KeyPair, operator: KeyPair): Promise<string> =>
  encodeAccount('baykeeper-system', systemAccount, { limits: unlimited }, { signer: operator });

/** The account of the bus. */
export const accountJwt = (account: KeyPair, operator: KeyPair, revocations: Revocations): Promise<string> =>
  encodeAccount('baykeeper', account, { limits: unlimited, revocations: { ...revocations } }, { signer: operator });

/**
 * Another operator's account as it is now, with these revocations besides its own. Throws when `current` is not this account's JWT.
 */
export async function withRevocations(
  current: string,
  accountPublicKey: string,
  operator: KeyPair,
  revocations: Revocations,
): Promise<string> {
  const claims = decode<Account>(current);
  if (claims.sub !== accountPublicKey || claims.nats.type !== 'account') {
    throw new Error(`the broker's answer is not the JWT of the account ${accountPublicKey}`);
  }
  const { type: _type, version: _version, ...account } = claims.nats;
  const merged = { ...account, revocations: { ...account.revocations, ...revocations } };
  const dates = claims.exp === undefined ? {} : { exp: claims.exp };
  return encodeAccount(claims.name, accountPublicKey, merged, { signer: operator, ...dates });
}

/** Who signs users: the account's own key, or a signing key of it. */
export interface UserSigner {
  readonly accountPublicKey: string;
  readonly key: KeyPair;
}

export interface UserCredentials {
  readonly userJwt: string;
  readonly issueTimeMs: number;
  readonly expireTimeMs: number;
}

export interface UserOptions {
  readonly publicKey: string;
  readonly name: string;
  readonly signer: UserSigner;
  /** At least a second; JWTs count in whole seconds. */
  readonly ttlMs: number;
  readonly nowMs: number;
}

/** An agent's credentials: its own subjects and inbox, the right to answer what it was asked, and nothing else. */
export function agentUserJwt(options: UserOptions & { readonly agent: NodeAddress }) {
  const { publish, subscribe } = agentPermissions(options.agent);
  return userJwt(options, {
    pub: { allow: publish, deny: [] },
    sub: { allow: subscribe, deny: [] },
    // One answer to each request, within two minutes (in nanoseconds).
    resp: { max: 1, ttl: 120 * 1e9 },
    // Far above what an agent needs, so that a broken one cannot fill the broker's memory.
    subs: 1024,
    allowed_connection_types: ['STANDARD', 'WEBSOCKET'],
  });
}

/** The control plane's own credentials, in its account or in the system account: everything there. */
export const controlPlaneUserJwt = (options: UserOptions): Promise<UserCredentials> =>
  userJwt(options, { allowed_connection_types: ['STANDARD'] });

async function userJwt(options: UserOptions, user: Partial<User>): Promise<UserCredentials> {
  const { publicKey, name, signer, ttlMs, nowMs } = options;
  const issueTime = Math.floor(nowMs / 1000);
  const expireTime = issueTime + Math.max(1, Math.round(ttlMs / 1000));
  const bySigningKey = signer.key.getPublicKey() !== signer.accountPublicKey;
  const jwt = bySigningKey
    ? await encodeUser(name, publicKey, signer.accountPublicKey, user, { exp: expireTime, signer: signer.key })
    : await encodeUser(name, publicKey, signer.key, user, { exp: expireTime });
  return { userJwt: jwt, issueTimeMs: issueTime * 1000, expireTimeMs: expireTime * 1000 };
}

/**
 * Whom a JWT is for, without checking who signed it: only for what comes from the broker, which has. Undefined when it is not a JWT.
 */
export function subjectOf(jwt: string): string | undefined {
  const [, body] = jwt.split('.');
  if (!body) return undefined;
  try {
    const claims: unknown = JSON.parse(Buffer.from(body, 'base64url').toString('utf8'));
    if (typeof claims !== 'object' || claims === null || !('sub' in claims)) return undefined;
    return typeof claims.sub === 'string' ? claims.sub : undefined;
  } catch {
    // Not base64 of JSON: that is the answer.
    return undefined;
  }
}
