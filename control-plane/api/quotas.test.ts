import { timestampNow } from '@bufbuild/protobuf/wkt';
import { Code, createClient } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { EnrollmentService } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { QuotaService } from '../../proto/gen/baykeeper/v1/quota_service_pb.js';
import { createUser } from '../../proto/nkeys.ts';
import { type ApiFixture, startApi } from '../../test/harness/api_fixture.ts';
import { refused } from '../../test/harness/refused.ts';
import type { Amounts } from '../domain/quota.ts';

const clientsOf = (api: ApiFixture, token: string, project = '') => {
  const transport = api.transport({ token, project });
  return {
    bays: createClient(BayService, transport),
    containers: createClient(ContainerService, transport),
    manifests: createClient(ManifestService, transport),
    quotas: createClient(QuotaService, transport),
    tokens: createClient(JoinTokenService, transport),
    nodes: createClient(NodeService, transport),
  };
};

async function fixture(t: ExecutionContext, defaultQuota: Amounts = {}) {
  const api = await startApi({ api: { defaultQuota } });
  t.teardown(() => api[Symbol.asyncDispose]());
  const red = clientsOf(api, 'red-token');
  await red.bays.createBay({ bay: { metadata: { name: 'local' } } });
  return { api, red, admin: clientsOf(api, 'admin-token', 'red') };
}

const web = (name: string, image = 'busybox') => ({ metadata: { bay: 'local', name }, spec: { image } });

test('what would be more than a project may have is refused, however many ask at once', async (t) => {
  const { api, red, admin } = await fixture(t, { bays: 1 });
  await refused(
    t,
    red.bays.createBay({ bay: { metadata: { name: 'b' } } }),
    Code.ResourceExhausted,
    /may have 1 bays and has 1: 1 more/,
  );
  await admin.quotas.setQuota({ set: { containers: 3n } });
  const outcomes = await Promise.allSettled(
    Array.from({ length: 10 }, (_, i) => red.containers.createContainer({ container: web(`c${i}`) })),
  );
  t.is(outcomes.filter(({ status }) => status === 'fulfilled').length, 3);
  t.is((await red.containers.listContainers({ bay: 'local' })).containers.length, 3);
  const more = { container: web('more') };
  await refused(
    t,
    red.containers.createContainer(more),
    Code.ResourceExhausted,
    /project red may have 3 containers and has 3/,
  );
  await refused(t, red.containers.createContainer({ ...more, validateOnly: true }), Code.ResourceExhausted);
  await refused(t, red.containers.updateContainer({ ...more, allowMissing: true }), Code.ResourceExhausted);
  const applied = await red.manifests.apply({
    manifests: [{ object: { case: 'container', value: more.container } }],
  });
  t.regex(applied.results[0]?.error?.message ?? '', /may have 3 containers/);

  // What is there can be changed, and makes room when it goes; another project has a share of its own.
  const [{ metadata } = { metadata: undefined }] = (await red.containers.listContainers({ bay: 'local' })).containers;
  await red.containers.updateContainer({ container: web(metadata?.name ?? '', 'other') });
  await red.containers.deleteContainer({ bay: 'local', name: metadata?.name, force: true });
  await red.containers.createContainer(more);
  const blue = clientsOf(api, 'blue-token');
  await blue.bays.createBay({ bay: { metadata: { name: 'local' } } });
  for (let i = 0; i < 4; i++) await blue.containers.createContainer({ container: web(`c${i}`) });
});

test('a project may have so many bytes, and what is there already may shrink', async (t) => {
  const { red, admin } = await fixture(t);
  const large = { ...web('web'), spec: { image: 'busybox', args: ['x'.repeat(10_000)] } };
  await red.containers.createContainer({ container: large });
  const { quota } = await red.quotas.getQuota({});
  t.true((quota?.use?.objectBytes ?? 0n) > 10_000n);
  await admin.quotas.setQuota({ set: { objectBytes: 5_000n } });
  await refused(
    t,
    red.containers.createContainer({ container: web('other') }),
    Code.ResourceExhausted,
    /bytes of objects/,
  );
  const larger = { ...large, spec: { ...large.spec, args: ['x'.repeat(20_000)] } };
  await refused(t, red.containers.updateContainer({ container: larger }), Code.ResourceExhausted, /bytes of objects/);
  await red.containers.updateContainer({ container: web('web') });
  await red.containers.createContainer({ container: web('other') });
});

test('what is only tried is refused where it would be if it were done, in a batch with those before it', async (t) => {
  const { red, admin } = await fixture(t);
  await admin.quotas.setQuota({ set: { containers: 2n, objectBytes: 20_000n } });
  await red.containers.createContainer({ container: web('there') });
  const large = { ...web('large'), spec: { image: 'busybox', args: ['x'.repeat(30_000)] } };
  const bytes = /bytes of objects/;
  await refused(
    t,
    red.containers.createContainer({ container: large, validateOnly: true }),
    Code.ResourceExhausted,
    bytes,
  );
  for (const name of ['there', 'new']) {
    const container = { ...large, metadata: { ...large.metadata, name } };
    const tried = red.containers.updateContainer({ container, allowMissing: true, validateOnly: true });
    await refused(t, tried, Code.ResourceExhausted, bytes);
  }
  const tryAll = async (...all: (typeof large)[]) => {
    const manifests = all.map((value) => ({ object: { case: 'container' as const, value } }));
    const { results } = await red.manifests.apply({ manifests, validateOnly: true });
    return results.map(({ error }) => error?.message.match(/\d+ (containers|bytes)/)?.[0] ?? 'fits');
  };
  t.deepEqual(await tryAll(web('a') as typeof large, web('b') as typeof large), ['fits', '2 containers']);
  const half = (name: string) => ({ ...web(name), spec: { image: 'busybox', args: ['x'.repeat(10_000)] } });
  t.deepEqual(await tryAll(half('there'), half('a')), ['fits', '20000 bytes']);
});

test('an admin sets what holds, over the default or back to it, and sees what all have', async (t) => {
  const { api, red, admin } = await fixture(t, { pods: 5, bays: 1 });
  t.like((await red.quotas.getQuota({})).quota, {
    project: 'red',

    limits: { pods: 5n, bays: 1n },
    use: { bays: 1n, pods: 0n },
  });
  t.like((await admin.quotas.setQuota({ set: { bays: -1n } })).quota, { set: { bays: -1n }, limits: { pods: 5n } });
  t.like((await admin.quotas.setQuota({ set: { nodes: 7n } })).quota?.set, { bays: -1n, nodes: 7n });
  const { quota } = await admin.quotas.setQuota({ reset: true });
  t.deepEqual([quota?.limits?.bays, quota?.limits?.nodes], [1n, undefined]);
  for (const bays of [-2n, 2n ** 53n, 2n ** 63n - 1n]) {
    await refused(t, admin.quotas.setQuota({ set: { bays } }), Code.InvalidArgument, /-1 for no limit/);
  }
  t.is((await admin.quotas.setQuota({ set: { bays: 2n ** 53n - 1n } })).quota?.limits?.bays, 2n ** 53n - 1n);
  await admin.quotas.setQuota({ reset: true });
  await clientsOf(api, 'blue-token').bays.createBay({ bay: { metadata: { name: 'b' } } });
  const all = clientsOf(api, 'admin-token', '-').quotas;
  t.deepEqual(
    (await all.listQuotas({})).quotas.map(({ project }) => project),
    ['blue', 'red'],
  );
  await refused(t, all.getQuota({}), Code.InvalidArgument);
  await refused(t, all.setQuota({}), Code.InvalidArgument);
});

test('what ends or quiets something is never refused for want of room, nor is what agents report', async (t) => {
  const { api, red, admin } = await fixture(t);
  const local = { bay: 'local', name: 'web' };
  const { bay } = await red.bays.getBay({ name: 'local' });
  api.placement.node = (await api.addNode(bay?.metadata?.uid ?? '', 'edge-1')).node;
  const { container } = await red.containers.createContainer({ container: web('web') });
  await red.tokens.createJoinToken({ bay: 'local' });
  await admin.quotas.setQuota({ set: { objectBytes: 1n } });

  await red.containers.stopContainer(local);
  await red.containers.startContainer(local);
  await red.containers.rebootContainer(local);
  await red.containers.pauseContainer(local);
  await api.report(container?.metadata?.uid ?? '', (status) => {
    status.message = 'x'.repeat(1_000);
  });
  await red.nodes.revokeNode({ bay: 'local', name: 'edge-1' });
  t.truthy((await red.containers.deleteContainer(local)).container?.metadata?.deleteTime);
  const bytes = /may have 1 bytes of objects/;
  await refused(t, red.containers.createContainer({ container: web('b') }), Code.ResourceExhausted, bytes);
  await refused(t, red.tokens.createJoinToken({ bay: 'local' }), Code.ResourceExhausted, bytes);
});

test('nodes that a cluster has brought along leave so much less room for those that join', async (t) => {
  const { api, red, admin } = await fixture(t);
  const { bay } = await red.bays.getBay({ name: 'local' });
  const { token } = await red.tokens.createJoinToken({ bay: 'local' });
  await admin.quotas.setQuota({ set: { nodes: 1n } });
  for (const name of ['w1', 'w2']) await api.addNode(bay?.metadata?.uid ?? '', name);
  t.is((await red.quotas.getQuota({})).quota?.use?.nodes, 2n);
  const enrollment = createClient(EnrollmentService, api.transport({ token: '' }));
  const join = async () => {
    const key = createUser();
    const publicKey = key.getPublicKey();
    const { challenge } = await enrollment.createChallenge({ publicKey });
    const time = timestampNow();
    const proof = { publicKey, challenge, signature: key.sign(challenge) };
    return enrollment.enroll({ token, bay: 'local', nodeName: 'rack', agentVersion: '0.1.0', proof, time });
  };
  await refused(t, join(), Code.ResourceExhausted, /may have 1 nodes and has 2/);
  await admin.quotas.setQuota({ set: { nodes: 3n } });
  t.is((await join()).credentials?.node, 'rack');
});
