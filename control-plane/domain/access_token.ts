import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  type AccessToken,
  AccessTokenSchema,
  Role as RoleMessage,
} from '../../proto/gen/baykeeper/v1/access_token_pb.js';
import { decodeOwn, encodeOwn } from './own_record.ts';
import type { Principal, Role } from './principal.ts';
import type { StoredRecord } from './record.ts';

/** The store's kind of access tokens: one of the control plane's own, not one of the seven. Its uid is the token's id. */
export const accessTokenKind = 'AccessToken';

/** An access token as it is kept: of the secret, its hash. */
export interface AccessTokenRecord {
  readonly id: string;
  readonly project: string;
  readonly role: Role;
  readonly description: string;
  readonly creator: string;
  /** SHA-256 of the secret, in hexadecimal. It is 256 random bits, so that nothing slower is needed. */
  readonly secretSha256: string;
  readonly createTimeMs: number;
  /** 0: it does not expire. */
  readonly expireTimeMs: number;
  /** 0: not revoked. */
  readonly revokeTimeMs: number;
  /** 0: not used yet. */
  readonly lastUseTimeMs: number;
}

const roles: Readonly<Record<Role, RoleMessage>> = {
  reader: RoleMessage.READER,
  member: RoleMessage.MEMBER,
  admin: RoleMessage.ADMIN,
};

/** The role of a message. Undefined: none. */
export const roleOf = (message: RoleMessage): Role | undefined =>
  (Object.keys(roles) as Role[]).find((role) => roles[role] === message);

const sha256 = (secret: string): Buffer => createHash('sha256').update(secret).digest();

/** Makes a token. The secret is not kept anywhere. */
export function newAccessToken(
  given: Pick<AccessTokenRecord, 'project' | 'role' | 'description' | 'creator' | 'createTimeMs' | 'expireTimeMs'>,
): { readonly record: AccessTokenRecord; readonly token: string } {
  const secret = randomBytes(32).toString('base64url');
  // The first letters tell it from a join token, also for whoever searches for leaked ones.
  const id = `bk${randomBytes(8).toString('hex')}`;
  const record = { ...given, id, secretSha256: sha256(secret).toString('hex'), revokeTimeMs: 0, lastUseTimeMs: 0 };
  return { record, token: `${id}.${secret}` };
}

/** Takes a token apart. Undefined when it has not the form of one. */
export function parseAccessToken(token: string): { readonly id: string; readonly secret: string } | undefined {
  // Looked at by hand: this is done for every call.
  if (token.length !== 62 || !token.startsWith('bk') || token[18] !== '.') return undefined;
  return { id: token.slice(0, 18), secret: token.slice(19) };
}

/** Who calls with a token, when the secret is its own (in time that does not depend on it) and it is still good. */
export function principalOfToken(
  token: Pick<AccessTokenRecord, 'id' | 'project' | 'role' | 'expireTimeMs' | 'revokeTimeMs'>,
  kept: Uint8Array,
  secret: string,
  nowMs: number,
): Principal | undefined {
  if (!timingSafeEqual(sha256(secret), kept)) return undefined;
  if (token.revokeTimeMs > 0 || (token.expireTimeMs > 0 && nowMs >= token.expireTimeMs)) return undefined;
  const { project, role } = token;
  const who = { subject: subjectOf(token), project, role };
  return token.expireTimeMs > 0 ? { ...who, expireTimeMs: token.expireTimeMs } : who;
}

/** Who calls that come with a token come from. */
export const subjectOf = ({ id }: Pick<AccessTokenRecord, 'id'>): string => `token/${id}`;

/** Where a token is found by its name, which is its id. */
export const accessTokenKey = ({ project, id }: Pick<AccessTokenRecord, 'project' | 'id'>) => ({
  kind: accessTokenKind,
  project,
  bayUid: '',
  namespace: '',
  name: id,
});

/** As it is stored. */
export const encodeAccessToken = (value: AccessTokenRecord): ((revision: number) => StoredRecord) =>
  encodeOwn({ ...accessTokenKey(value), uid: value.id, createTimeMs: value.createTimeMs, value });

export const decodeAccessToken = (stored: StoredRecord): AccessTokenRecord =>
  decodeOwn<AccessTokenRecord>(stored, ({ id }) => id === stored.uid);

/** As it is shown. */
export function accessTokenMessage(token: AccessTokenRecord): AccessToken {
  const { id, project, description, creator } = token;
  const time = (ms: number) => (ms > 0 ? timestampFromMs(ms) : undefined);
  return create(AccessTokenSchema, {
    id,
    subject: subjectOf(token),
    project,
    role: roles[token.role],
    description,
    creator,
    createTime: time(token.createTimeMs),
    expireTime: time(token.expireTimeMs),
    revokeTime: time(token.revokeTimeMs),
    lastUseTime: time(token.lastUseTimeMs),
  });
}
