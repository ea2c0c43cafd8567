import { randomBytes } from 'node:crypto';
import type { ServiceImpl } from '@connectrpc/connect';
import { certificatesIn, fingerprintOf } from '../../proto/fingerprint.ts';
import type { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { InvalidError, NotFoundError } from '../domain/errors.ts';
import {
  decodeJoinToken,
  encodeJoinToken,
  hashSecret,
  type JoinTokenRecord,
  joinTokenKey,
  joinTokenKind,
  joinTokenMessage,
} from '../domain/join_token.ts';
import { decodePageToken, encodePageToken, maxPageSize, pageSizeOf } from '../domain/page.ts';
import { projectOf } from '../domain/principal.ts';
import type { Store, StoredObject } from '../store/port.ts';
import type { BayDirectory } from './bay_directory.ts';
import { principalOf } from './call.ts';
import type { Quotas } from './quotas.ts';
import type { Trust } from './trust.ts';

/** What join tokens need. */
export interface JoinTokenOptions {
  readonly store: Store;
  readonly bays: BayDirectory;
  readonly quotas: Quotas;
  readonly clock: { now(): number };
  /** What a node runs, up to its options: `node /opt/baykeeper/agent/main.ts join`. */
  readonly joinCommandPrefix: string;
  /** Where nodes find this server, and whom they are to trust. Asked at each call: the port may not be known before it is listened on. */
  readonly trust: () => Trust;
}

const defaultTtlMs = 3_600_000;

/** Makes, lists and revokes the right to join. */
export function joinTokenMethods(options: JoinTokenOptions): ServiceImpl<typeof JoinTokenService> {
  const { store, bays, quotas, clock } = options;
  return {
    async createJoinToken(request, context) {
      const { project } = principalOf(context);
      const bay = await bays.find(project, request.bay);
      const nowMs = clock.now();
      const secret = randomBytes(24).toString('base64url');
      const ttlMs = request.ttl ? Number(request.ttl.seconds) * 1000 + request.ttl.nanos / 1e6 : defaultTtlMs;
      const record: JoinTokenRecord = {
        id: randomBytes(8).toString('hex'),
        project,
        bayUid: bay.uid,
        bay: bay.name,
        description: request.description,
        secretSha256: hashSecret(secret),
        createTimeMs: nowMs,
        expireTimeMs: nowMs + Math.ceil(ttlMs),
        revokeTimeMs: 0,
        maxUses: request.maxUses || 1,
        uses: 0,
      };
      await store.write({
        reads: [{ uid: bay.uid }, joinTokenKey(record)],
        apply: (view) => {
          bays.check(view, bay);
          quotas.checkNew(view, view.put(encodeJoinToken(record), ''));
        },
      });
      const token = `${record.id}.${secret}`;
      return { joinToken: joinTokenMessage(record), token, joinCommand: joinCommand(options, token, bay.name) };
    },

    async listJoinTokens(request, context) {
      const principal = principalOf(context);
      const { project } = principal;
      if (request.bay && principal.everyProject) {
        throw new InvalidError('bay', 'cannot be given: several projects may have a bay of this name');
      }
      const bay = request.bay ? await bays.find(project, request.bay) : undefined;
      const bayUid = bay?.uid ?? '';
      const query = { kind: joinTokenKind, project, bayUid, namespace: '', filter: '', orderBy: 'create_time' };
      const pageSize = pageSizeOf(request.pageSize);
      const cursor = decodePageToken(query, request.pageToken);
      const tokens: JoinTokenRecord[] = [];
      let after = cursor?.after as StoredObject | undefined;
      for (;;) {
        const page = await store.list({
          kind: joinTokenKind,
          project: projectOf(principal),
          orderBy: 'createTime',
          descending: false,
          after,
          limit: maxPageSize,
        });
        for (const stored of page.objects) {
          if (tokens.length === pageSize && after) {
            const nextPageToken = encodePageToken(query, { after, revision: cursor?.revision ?? page.revision });
            return { joinTokens: tokens.map(joinTokenMessage), nextPageToken };
          }
          const token = decodeJoinToken(stored);
          if (bayUid === '' || token.bayUid === bayUid) {
            tokens.push(token);
            after = stored;
          }
        }
        const last = page.objects.at(-1);
        if (!page.more || !last) return { joinTokens: tokens.map(joinTokenMessage), nextPageToken: '' };
        after = last;
      }
    },

    async revokeJoinToken({ id }, context) {
      const { project } = principalOf(context);
      const key = { uid: id, within: { kind: joinTokenKind, project } };
      const record = await store.write({
        reads: [key],
        apply: (view) => {
          const stored = view.get(key);
          if (!stored) throw new NotFoundError(`there is no join token "${id}"`);
          const token = decodeJoinToken(stored);
          if (token.revokeTimeMs > 0) return token;
          const revoked = { ...token, revokeTimeMs: clock.now() };
          view.put(encodeJoinToken(revoked), '');
          return revoked;
        },
      });
      return { joinToken: joinTokenMessage(record) };
    },
  };
}

/**
 * One line for the node's shell. None of its values needs quoting: their forms are narrow. The token is in the environment, which only its
 * owner can look at, and not among the arguments, which everybody on the machine can.
 */
function joinCommand({ joinCommandPrefix, trust }: JoinTokenOptions, token: string, bay: string): string {
  const { serverUrls, certificates } = trust();
  const [authority] = certificatesIn(certificates[0] ?? '');
  const known = authority ? ` --ca-fingerprint ${fingerprintOf(authority)}` : '';
  return `BAYKEEPER_AGENT_TOKEN=${token} ${joinCommandPrefix} --server ${serverUrls[0]}${known} --bay ${bay} --name $(hostname)`;
}
