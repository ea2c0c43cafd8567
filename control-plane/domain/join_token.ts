import { createHash, timingSafeEqual } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type JoinToken, JoinTokenSchema } from '../../proto/gen/baykeeper/v1/join_token_pb.js';
import { DeniedError } from './errors.ts';
import { decodeOwn, encodeOwn } from './own_record.ts';
import type { StoredRecord } from './record.ts';

/** The store's kind of join tokens: one of the control plane's own, not one of the seven. Its uid is the token's id. */
export const joinTokenKind = 'JoinToken';

/** A join token as it is kept: of the secret, its hash. */
export interface JoinTokenRecord {
  readonly id: string;
  readonly project: string;
  readonly bayUid: string;
  readonly bay: string;
  readonly description: string;
  /** SHA-256 of the secret, in hexadecimal. */
  readonly secretSha256: string;
  readonly createTimeMs: number;
  readonly expireTimeMs: number;
  /** 0: not revoked. */
  readonly revokeTimeMs: number;
  readonly maxUses: number;
  readonly uses: number;
}

/** Where a token is found by its name, which is its id. */
export const joinTokenKey = ({ project, id }: Pick<JoinTokenRecord, 'project' | 'id'>) => ({
  kind: joinTokenKind,
  project,
  bayUid: '',
  namespace: '',
  name: id,
});

export const hashSecret = (secret: string): string => createHash('sha256').update(secret).digest('hex');

/** As it is stored. */
export const encodeJoinToken = (value: JoinTokenRecord): ((revision: number) => StoredRecord) =>
  encodeOwn({ ...joinTokenKey(value), uid: value.id, createTimeMs: value.createTimeMs, value });

export const decodeJoinToken = (stored: StoredRecord): JoinTokenRecord =>
  decodeOwn<JoinTokenRecord>(stored, ({ id }) => id === stored.uid);

/** As it is shown. */
export function joinTokenMessage(token: JoinTokenRecord): JoinToken {
  return create(JoinTokenSchema, {
    id: token.id,
    project: token.project,
    bay: token.bay,
    description: token.description,
    createTime: timestampFromMs(token.createTimeMs),
    expireTime: timestampFromMs(token.expireTimeMs),
    revokeTime: token.revokeTimeMs > 0 ? timestampFromMs(token.revokeTimeMs) : undefined,
    maxUses: token.maxUses,
    uses: token.uses,
  });
}

/** Takes a token apart. Undefined when it has not the form of one. */
export function parseJoinToken(token: string): { readonly id: string; readonly secret: string } | undefined {
  const match = /^([a-z0-9]{1,32})\.([A-Za-z0-9_-]{1,128})$/.exec(token);
  return match?.[1] && match[2] ? { id: match[1], secret: match[2] } : undefined;
}

/** What an unknown token, a wrong secret and a token of a bay that is gone have in common: who asks learns nothing more. */
export const unknownToken = (): DeniedError =>
  new DeniedError('This join token is not known here. Check that it was copied whole, or make a new one.');

/** Whether the secret is the token's, in time that does not depend on it. */
export function secretMatches(token: JoinTokenRecord, secret: string): boolean {
  const given = Buffer.from(hashSecret(secret), 'hex');
  const kept = Buffer.from(token.secretSha256, 'hex');
  return kept.length === given.length && timingSafeEqual(given, kept);
}

/** Throws DeniedError when the token is for another bay than the caller means. */
export function checkTokenBay(token: JoinTokenRecord, bay: string): void {
  if (bay && bay !== token.bay) {
    throw new DeniedError(`This join token is for bay "${token.bay}", not for bay "${bay}".`);
  }
}

/** Throws DeniedError saying why one more node cannot join with it. */
export function checkTokenUsable(token: JoinTokenRecord, nowMs: number): void {
  const anew = `Make a new one: \`bayctl bay join-command ${token.bay}\`.`;
  if (token.revokeTimeMs > 0) {
    throw new DeniedError(`This join token was revoked at ${iso(token.revokeTimeMs)}. ${anew}`);
  }
  if (nowMs >= token.expireTimeMs)
    throw new DeniedError(`This join token expired at ${iso(token.expireTimeMs)}. ${anew}`);
  if (token.uses >= token.maxUses) {
    const times = token.maxUses === 1 ? 'its one node has' : `all ${token.maxUses} of its nodes have`;
    throw new DeniedError(`This join token is used up: ${times} joined. ${anew}`);
  }
}

const iso = (timeMs: number): string => new Date(timeMs).toISOString();
