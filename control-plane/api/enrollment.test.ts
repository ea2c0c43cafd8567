import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code, createClient } from '@connectrpc/connect';
import test from 'ava';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { createUser, type KeyPair } from '../../proto/nkeys.ts';
import { refused } from '../../test/harness/refused.ts';
import { enroll, fixture, proofOf } from '../../test/harness/services_bed.ts';

test('a join command has all that a node needs, and of the secret only a hash is kept', async (t) => {
  const f = await fixture(t);
  const made = await f.tokens.createJoinToken({ bay: 'edge-1', description: 'rack 1' });
  t.regex(made.token, /^[0-9a-f]{16}\.[A-Za-z0-9_-]{32}$/);
  t.is(
    made.joinCommand,
    `BAYKEEPER_AGENT_TOKEN=${made.token} node agent/main.ts join --server http://127.0.0.1:7480 --bay edge-1 --name $(hostname)`,
  );
  t.is(made.joinToken?.maxUses, 1);
  const stored = await f.api.store.get({ uid: made.joinToken?.id ?? '' });
  t.false(Buffer.from(stored?.body ?? []).includes(made.token.split('.')[1] ?? 'x'));
  for (let i = 0; i < 4; i += 1) await f.tokens.createJoinToken({ bay: 'edge-1' });
  const first = await f.tokens.listJoinTokens({ bay: 'edge-1', pageSize: 2 });
  const second = await f.tokens.listJoinTokens({ bay: 'edge-1', pageSize: 3, pageToken: first.nextPageToken });
  t.is(new Set([...first.joinTokens, ...second.joinTokens].map(({ id }) => id)).size, 5);
  t.is(second.nextPageToken, '');
  await refused(t, f.tokens.createJoinToken({ bay: 'nowhere' }), Code.NotFound);
  await refused(t, f.tokens.revokeJoinToken({ id: f.bayUid }), Code.NotFound);
  const blue = createClient(JoinTokenService, f.api.transport({ token: 'blue-token' }));
  t.deepEqual((await blue.listJoinTokens({})).joinTokens, []);
  await refused(t, blue.revokeJoinToken({ id: made.joinToken?.id }), Code.NotFound);
});

test('a node joins with a token, once for each key, and its name is made unique', async (t) => {
  const f = await fixture(t);
  const { token, joinToken } = await f.tokens.createJoinToken({ bay: 'edge-1', maxUses: 3 });
  const keys = [createUser(), createUser(), createUser()];
  const [one] = await Promise.all([enroll(f, token, keys[0] as KeyPair), enroll(f, token, keys[0] as KeyPair)]);
  t.is(one?.node, 'rack');
  t.is(one?.bay, 'edge-1');
  t.is(one?.userJwt, 'jwt-of-rack');
  t.deepEqual(one?.brokerUrls, ['nats://127.0.0.1:4222']);
  const [second, third] = await Promise.all([
    enroll(f, token, keys[1] as KeyPair),
    enroll(f, token, keys[2] as KeyPair),
  ]);
  t.deepEqual([second?.node, third?.node].sort(), ['rack-2', 'rack-3']);
  t.is((await f.tokens.listJoinTokens({})).joinTokens.find(({ id }) => id === joinToken?.id)?.uses, 3);
  await refused(t, enroll(f, token, createUser()), Code.PermissionDenied, /used up: all 3 of its nodes/);
  // The answer may have been lost: the same key gets the same again.
  t.is((await enroll(f, token, keys[1] as KeyPair))?.nodeUid, second?.nodeUid);
  const { node } = await f.nodes.getNode({ bay: 'edge-1', name: 'rack' });
  t.is(node?.status?.phase, NodePhase.PENDING);
  t.is(node?.spec?.publicKey, keys[0]?.getPublicKey());
  t.is(node?.status?.agentVersion, '0.1.0');
  t.truthy(node?.status?.credentialsExpireTime);
  const { nodes } = await f.nodes.listNodes({ bay: 'edge-1' });
  t.is(nodes.length, 3);
});

test('what is wrong with a token is said in so many words', async (t) => {
  const f = await fixture(t);
  await f.bays.createBay({ bay: { metadata: { name: 'other' } } });
  const key = createUser();
  const denied = (token: string, message: RegExp, more = {}) =>
    refused(t, enroll(f, token, key, more), Code.PermissionDenied, message);
  const { token, joinToken } = await f.tokens.createJoinToken({ bay: 'edge-1', ttl: { seconds: 60n } });
  await denied('nonsense', /not known here/);
  await denied(`${joinToken?.id}.wrong`, /not known here/);
  await denied(`0123456789abcdef.${token.split('.')[1]}`, /not known here/);
  await denied(`${f.bayUid.replaceAll('-', '').slice(0, 16)}.x`, /not known here/);
  await denied(token, /is for bay "edge-1", not for bay "other"/, { bay: 'other' });
  const skewed = enroll(f, token, key, { skewMs: 3_600_000 });
  await refused(t, skewed, Code.FailedPrecondition, /clock is 1 h ahead of the control plane/);
  const behind = enroll(f, token, key, { skewMs: -400_000 });
  await refused(t, behind, Code.FailedPrecondition, /clock is 6 min 40 s behind the control plane/);
  f.api.clock.offsetMs = 61_000;
  await denied(token, /expired at .*bayctl bay join-command edge-1/);
  const { token: later, joinToken: laterToken } = await f.tokens.createJoinToken({ bay: 'edge-1' });
  await f.tokens.revokeJoinToken({ id: laterToken?.id });
  await denied(later, /was revoked at/);
  t.is((await f.nodes.listNodes({ bay: 'edge-1' })).nodes.length, 0);
});

test('only the owner of a key gets in with it', async (t) => {
  const f = await fixture(t);
  const { token } = await f.tokens.createJoinToken({ bay: 'edge-1', maxUses: 9 });
  const key = createUser();
  const thief = createUser();
  const proof = await proofOf(f, key);
  const call = (changed: object) =>
    f.enrollment.enroll({
      token,
      nodeName: 'n',
      time: timestampFromMs(f.api.clock.now()),
      proof: { ...proof, ...changed },
    });
  await refused(t, call({ signature: thief.sign(proof.challenge) }), Code.PermissionDenied, /signature/);
  await refused(t, call({ publicKey: thief.getPublicKey() }), Code.PermissionDenied, /challenge/);
  await refused(t, call({ challenge: new Uint8Array(56) }), Code.PermissionDenied, /challenge/);
  await refused(t, call({ challenge: new Uint8Array(3) }), Code.PermissionDenied, /challenge/);
  await refused(t, call({ publicKey: `U${'A'.repeat(55)}` }), Code.PermissionDenied);
  await refused(t, call({ publicKey: 'nonsense' }), Code.InvalidArgument, /public_key/);
  f.api.clock.offsetMs = 61_000;
  await refused(t, call({}), Code.PermissionDenied, /more than a minute old/);
});

test('a known key gets new credentials until its node is revoked or deleted', async (t) => {
  const f = await fixture(t);
  const { token } = await f.tokens.createJoinToken({ bay: 'edge-1', maxUses: 2 });
  const [key, other] = [createUser(), createUser()];
  const renew = async (of: KeyPair) =>
    f.enrollment.renewCredentials({ proof: await proofOf(f, of), time: timestampFromMs(f.api.clock.now()) });
  await refused(t, renew(key), Code.PermissionDenied, /has to join first/);
  await enroll(f, token, key);
  await enroll(f, token, other, { nodeName: 'other' });
  t.is((await renew(key)).credentials?.node, 'rack');
  const { node } = await f.nodes.revokeNode({ bay: 'edge-1', name: 'rack' });
  t.is(node?.status?.phase, NodePhase.REVOKED);
  t.deepEqual(f.api.access.revoked, [key.getPublicKey()]);
  await refused(t, renew(key), Code.PermissionDenied, /was revoked/);
  await refused(t, enroll(f, token, key), Code.PermissionDenied, /was revoked/);
  await f.nodes.deleteNode({ bay: 'edge-1', name: 'other' });
  await refused(t, renew(other), Code.PermissionDenied, /was deleted/);
  await refused(t, enroll(f, token, other), Code.PermissionDenied, /was deleted/);
  const setRevoked = { node: { metadata: { bay: 'edge-1', name: 'rack' }, spec: { unschedulable: true } } };
  t.true((await f.nodes.updateNode(setRevoked)).node?.spec?.revoked);
});

test('enrolment is limited for each address', async (t) => {
  const f = await fixture(t, { api: { peerLimit: { perSecond: 1, burst: 3 } } });
  const publicKey = createUser().getPublicKey();
  const calls = await Promise.allSettled(Array.from({ length: 10 }, () => f.enrollment.createChallenge({ publicKey })));
  t.is(calls.filter(({ status }) => status === 'fulfilled').length, 3);
  await refused(t, f.enrollment.createChallenge({ publicKey }), Code.ResourceExhausted, /too many calls/);
});

test('a key gets credentials only so often, whatever its node asks for', async (t) => {
  const f = await fixture(t, { api: { peerLimit: { perSecond: 1_000, burst: 1_000 } } });
  const { token } = await f.tokens.createJoinToken({ bay: 'edge-1', maxUses: 2 });
  const key = createUser();
  await enroll(f, token, key);
  const proof = await proofOf(f, key);
  const renew = () => f.enrollment.renewCredentials({ proof, time: timestampFromMs(f.api.clock.now()) });
  const calls = await Promise.allSettled(Array.from({ length: 120 }, renew));
  const given = calls.filter(({ status }) => status === 'fulfilled').length;
  t.true(given >= 99 && given < 110, String(given));
  await refused(t, renew(), Code.ResourceExhausted, /asks for credentials too often/);
  // It is none of the others' business.
  await enroll(f, token, createUser(), { nodeName: 'other' });
  f.api.clock.offsetMs = 30_000;
  t.is((await renew()).credentials?.node, 'rack');
});
