import { create } from '@bufbuild/protobuf';
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import {
  type Credentials,
  CredentialsSchema,
  type EnrollmentService,
  type EnrollRequest,
} from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { NodeProofs } from '../auth/port.ts';
import type { Access, MessageSigner } from '../broker/port.ts';
import { checkClock } from '../domain/clock_skew.ts';
import { AlreadyExistsError, DeniedError, ExhaustedError, InvalidError } from '../domain/errors.ts';
import {
  checkTokenBay,
  checkTokenUsable,
  decodeJoinToken,
  encodeJoinToken,
  joinTokenKind,
  parseJoinToken,
  secretMatches,
  unknownToken,
} from '../domain/join_token.ts';
import { newObject } from '../domain/lifecycle.ts';
import { decodeNodeKey, encodeNodeKey, nodeKeyKey } from '../domain/node_key.ts';
import { decode, encode, newRecord } from '../domain/record.ts';
import { TokenBuckets } from '../domain/token_bucket.ts';
import type { Store, StoredObject, WriteView } from '../store/port.ts';
import type { NodeDirectory } from './node_directory.ts';
import type { Quotas } from './quotas.ts';
import { type Trust, trustBundle } from './trust.ts';

/** What enrolment needs. */
export interface EnrollmentOptions {
  readonly store: Store;
  readonly nodes: NodeDirectory;
  readonly quotas: Quotas;
  readonly access: Access;
  readonly signer: Pick<MessageSigner, 'keys'>;
  readonly proofs: NodeProofs;
  readonly trust: () => Trust;
  readonly clock: { now(): number };
  readonly newUid: () => string;
}

/** How many names are tried before a node is sent away. */
const maxNames = 1000;

/** For one key: each time is a write and a record, and a node that was broken into must not fill the disk with them. */
const keyLimit = { perSecond: 0.2, burst: 100 };

/** How agents get in. Nobody is known yet here: everything is proved by what is sent. */
export function enrollmentMethods(options: EnrollmentOptions): ServiceImpl<typeof EnrollmentService> {
  const { proofs, clock, trust } = options;
  const asked = new TokenBuckets(keyLimit, clock);
  const checkRate = (publicKey: string): void => {
    if (!asked.take(publicKey))
      throw new ExhaustedError('this key asks for credentials too often: try again a little later');
  };
  return {
    createChallenge: ({ publicKey }) => ({ challenge: proofs.challenge(publicKey) }),

    async enroll(request) {
      const { proof, time } = request;
      if (!proof || !time) throw new InvalidError('proof', 'and time are required');
      checkClock(timestampMs(time), clock.now());
      proofs.verify(proof);
      checkRate(proof.publicKey);
      const node = await enroll(options, request, proof.publicKey);
      const credentials = await issue(options, node, proof.publicKey, request.agentVersion);
      return { credentials, trust: trustBundle(trust()) };
    },

    // Whatever its clock says: a node that has joined must come back by itself, also when its battery has died.
    async renewCredentials({ proof }) {
      if (!proof) throw new InvalidError('proof', 'is required');
      proofs.verify(proof);
      checkRate(proof.publicKey);
      const key = await options.store.get(nodeKeyKey(proof.publicKey));
      if (!key) throw new DeniedError('This key is not known here: the node has to join first.');
      const node = await options.store.get({ uid: decodeNodeKey(key).nodeUid });
      const credentials = await issue(options, checkNode(node), proof.publicKey, '');
      return { credentials, trust: trustBundle(trust()) };
    },
  };
}

/** The node of this key: the one that it has, or a new one at the cost of one use of the token. */
async function enroll(options: EnrollmentOptions, request: EnrollRequest, publicKey: string): Promise<StoredObject> {
  const parsed = parseJoinToken(request.token);
  if (!parsed) throw unknownToken();
  const { store, nodes } = options;
  // Read ahead of the write: a write has to say beforehand what it reads. None of this changes but for the token's uses.
  const peeked = await store.get({ uid: parsed.id });
  if (peeked?.kind !== joinTokenKind) throw unknownToken();
  const { bayUid, project } = decodeJoinToken(peeked);
  const key = await store.get(nodeKeyKey(publicKey));
  const nodeUid = key ? decodeNodeKey(key).nodeUid : options.newUid();
  // The agent of a node that its cluster has already told of takes its place.
  const taken = new Set(nodes.nodesOf(bayUid).flatMap(({ name, reported }) => (reported ? [] : [name])));

  for (let number = 1; number <= maxNames; number += 1) {
    const name = number === 1 ? request.nodeName : `${request.nodeName}-${number}`;
    if (!key && taken.has(name)) continue;
    try {
      return await store.write({
        reads: [
          { uid: parsed.id },
          { uid: bayUid },
          { uid: nodeUid },
          { kind: 'Node', project, bayUid, namespace: '', name },
          nodeKeyKey(publicKey),
        ],
        apply: (view) => join(options, view, request, { ...parsed, publicKey, nodeUid, name }),
      });
    } catch (error) {
      // Somebody else took the name, or this key joined by another call, between the look and the write.
      if (!(error instanceof AlreadyExistsError)) throw error;
      const raced = await store.get(nodeKeyKey(publicKey));
      if (raced && !key) return enroll(options, request, publicKey);
    }
  }
  throw new AlreadyExistsError(`more than ${maxNames} nodes are named "${request.nodeName}": choose another name`);
}

function join(
  { clock, quotas }: EnrollmentOptions,
  view: WriteView,
  request: EnrollRequest,
  by: { readonly id: string; readonly secret: string; publicKey: string; nodeUid: string; name: string },
): StoredObject {
  const stored = view.get({ uid: by.id });
  if (stored?.kind !== joinTokenKind) throw unknownToken();
  const token = decodeJoinToken(stored);
  if (!secretMatches(token, by.secret)) throw unknownToken();
  checkTokenBay(token, request.bay);

  const key = view.get(nodeKeyKey(by.publicKey));
  if (key) {
    // The answer to an earlier call was lost, or the agent was started anew: it costs nothing to say it again.
    if (decodeNodeKey(key).nodeUid !== by.nodeUid) throw new AlreadyExistsError('this key has joined meanwhile');
    const node = checkNode(view.get({ uid: by.nodeUid }));
    const { metadata } = decode('Node', node);
    if (node.bayUid !== token.bayUid) {
      throw new DeniedError(
        `This key is that of node "${node.name}" in bay "${metadata?.bay}", not in bay "${token.bay}".`,
      );
    }
    return node;
  }

  checkTokenUsable(token, clock.now());
  const bay = view.get({ uid: token.bayUid });
  if (!bay || bay.deleting) throw new DeniedError(`Bay "${token.bay}" of this join token is gone, or about to be.`);
  const input = create(NodeSchema, { metadata: { name: by.name }, spec: { publicKey: by.publicKey } });
  const nowMs = clock.now();
  const node = newObject('Node', input, { uid: by.nodeUid, project: token.project, bay: token.bay, nowMs });
  view.put(encodeJoinToken({ ...token, uses: token.uses + 1 }), '');
  const { project, bayUid } = token;
  const before = view.get({ kind: 'Node', project, bayUid, namespace: '', name: by.name });
  const known = before && decode('Node', before).status;
  if (before && known?.reportedBy) {
    view.remove(before.uid, '');
    if (node.status) node.status.cluster = known.cluster;
  }
  view.put(encodeNodeKey({ publicKey: by.publicKey, nodeUid: by.nodeUid, project, bayUid }, nowMs), '');
  const made = view.put(encode('Node', node, newRecord(bayUid, '')), '');
  if (!before) quotas.checkNew(view, made);
  return made;
}

/** That credentials may be given for this node. Throws DeniedError. */
function checkNode(stored: StoredObject | undefined): StoredObject {
  if (stored?.kind !== 'Node') {
    throw new DeniedError('The node of this key was deleted. To join anew, remove the data folder of its agent first.');
  }
  if (decode('Node', stored).spec?.revoked) {
    throw new DeniedError(
      `Node "${stored.name}" was revoked. To join anew, remove the data folder of its agent first.`,
    );
  }
  if (stored.deleting) throw new DeniedError(`Node "${stored.name}" is being deleted.`);
  return stored;
}

/** Credentials for the node, and in its status until when they hold. */
async function issue(
  { access, signer, store }: EnrollmentOptions,
  stored: StoredObject,
  publicKey: string,
  agentVersion: string,
): Promise<Credentials> {
  const { uid, bayUid, name, project } = stored;
  const issued = await access.issue({ bayUid, nodeUid: uid, publicKey, name });
  const bay = await store.write({
    reads: [{ uid }, { uid: bayUid }],
    apply: (view) => {
      // It may have been revoked since it was looked at: then nothing is handed out.
      const now = checkNode(view.get({ uid }));
      const node = decode('Node', now);
      if (node.status) {
        node.status.credentialsExpireTime = timestampFromMs(issued.expireTimeMs);
        if (agentVersion) node.status.agentVersion = agentVersion;
      }
      view.put(encode('Node', node, now), '');
      const stored = view.get({ uid: bayUid });
      const { spec } = stored ? decode('Bay', stored) : {};
      return { name: node.metadata?.bay ?? '', engine: spec?.containerEngine };
    },
  });
  return create(CredentialsSchema, {
    project,
    bayUid,
    bay: bay.name,
    containerEngine: bay.engine,
    nodeUid: uid,
    node: name,
    userJwt: issued.userJwt,
    issueTime: timestampFromMs(issued.issueTimeMs),
    expireTime: timestampFromMs(issued.expireTimeMs),
    brokerUrls: [...access.urls],
    signingKeys: signer.keys(),
  });
}
