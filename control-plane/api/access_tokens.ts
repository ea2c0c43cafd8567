import type { ServiceImpl } from '@connectrpc/connect';
import type { AccessTokenService } from '../../proto/gen/baykeeper/v1/access_token_service_pb.js';
import {
  accessTokenKey,
  accessTokenKind,
  accessTokenMessage,
  decodeAccessToken,
  encodeAccessToken,
  newAccessToken,
  roleOf,
} from '../domain/access_token.ts';
import { InvalidError, NotFoundError } from '../domain/errors.ts';
import { decodePageToken, encodePageToken, pageSizeOf } from '../domain/page.ts';
import { projectOf } from '../domain/principal.ts';
import type { Store, StoredObject } from '../store/port.ts';
import { principalOf } from './call.ts';

/** What access tokens need. */
export interface AccessTokenOptions {
  readonly store: Store;
  readonly clock: { now(): number };
}

/** Makes, lists and revokes access tokens. */
export function accessTokenMethods({ store, clock }: AccessTokenOptions): ServiceImpl<typeof AccessTokenService> {
  return {
    async createAccessToken(request, context) {
      const { subject, project } = principalOf(context);
      const role = roleOf(request.role);
      if (!role) throw new InvalidError('role', 'is required: reader, member or admin');
      const nowMs = clock.now();
      const ttlMs = request.ttl ? Number(request.ttl.seconds) * 1000 + request.ttl.nanos / 1e6 : 0;
      const { record, token } = newAccessToken({
        project,
        role,
        description: request.description,
        creator: subject,
        createTimeMs: nowMs,
        expireTimeMs: ttlMs > 0 ? nowMs + Math.ceil(ttlMs) : 0,
      });
      await store.write({
        reads: [accessTokenKey(record)],
        apply: (view) => {
          view.put(encodeAccessToken(record), '');
        },
      });
      return { accessToken: accessTokenMessage(record), token };
    },

    async listAccessTokens(request, context) {
      const principal = principalOf(context);
      const { project } = principal;
      const kind = accessTokenKind;
      const query = { kind, project, bayUid: '', namespace: '', filter: '', orderBy: 'create_time' };
      const cursor = decodePageToken(query, request.pageToken);
      const page = await store.list({
        kind,
        project: projectOf(principal),
        orderBy: 'createTime',
        descending: false,
        after: cursor?.after as StoredObject | undefined,
        limit: pageSizeOf(request.pageSize),
      });
      const after = page.objects.at(-1);
      const revision = cursor?.revision ?? page.revision;
      return {
        accessTokens: page.objects.map((stored) => accessTokenMessage(decodeAccessToken(stored))),
        nextPageToken: page.more && after ? encodePageToken(query, { after, revision }) : '',
      };
    },

    async revokeAccessToken({ id }, context) {
      const principal = principalOf(context);
      const key = { uid: id, within: { kind: accessTokenKind, project: projectOf(principal) } };
      const record = await store.write({
        reads: [key],
        apply: (view) => {
          const stored = view.get(key);
          if (!stored) {
            throw new NotFoundError(`there is no access token "${id}" in project ${principal.project}`);
          }
          const token = decodeAccessToken(stored);
          if (token.revokeTimeMs > 0) return token;
          const revoked = { ...token, revokeTimeMs: clock.now() };
          view.put(encodeAccessToken(revoked), '');
          return revoked;
        },
      });
      return { accessToken: accessTokenMessage(record) };
    },
  };
}
