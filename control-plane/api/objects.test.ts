import { create, toJson } from '@bufbuild/protobuf';
import { Code, createClient } from '@connectrpc/connect';
import test from 'ava';
import { BayModelService } from '../../proto/gen/baykeeper/v1/bay_model_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerEngine, Provisioner } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import {
  ContainerPhase,
  ContainerSchema,
  PowerState,
  PullPolicy,
  RestartPolicy,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { PodService } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import { type ApiFixture, startApi } from '../../test/harness/api_fixture.ts';
import { refused } from '../../test/harness/refused.ts';

function clientsOf(api: ApiFixture, token = 'red-token') {
  const transport = api.transport({ token });
  return {
    bays: createClient(BayService, transport),
    bayModels: createClient(BayModelService, transport),
    containers: createClient(ContainerService, transport),
    pods: createClient(PodService, transport),
  };
}

async function withBay(token?: string) {
  const api = await startApi();
  const clients = clientsOf(api, token);
  const { bay } = await clients.bays.createBay({ bay: { metadata: { name: 'local' } } });
  return { api, ...clients, bay };
}

const web = (name = 'web', spec: object = {}) => ({
  metadata: { bay: 'local', name, labels: { tier: 'web' } },
  spec: { image: 'busybox:latest', ...spec },
});

test('a container is stored with its defaults, as its author reads it', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  const { container } = await f.containers.createContainer({
    container: web('web', { ports: [{ containerPort: 80 }] }),
  });
  t.regex(container?.metadata?.uid ?? '', /^[0-9a-f]{8}-[0-9a-f]{4}-7/);
  t.is(container?.metadata?.project, 'red');
  t.is(container?.metadata?.namespace, 'default');
  t.is(container?.metadata?.generation, 1n);
  t.true((container?.metadata?.revision ?? 0n) > 0n);
  t.is(container?.spec?.pullPolicy, PullPolicy.IF_NOT_PRESENT);
  t.is(container?.spec?.restartPolicy, RestartPolicy.ALWAYS);
  t.is(container?.spec?.powerState, PowerState.RUNNING);
  t.is(container?.spec?.stopTimeout?.seconds, 10n);
  t.is(container?.status?.phase, ContainerPhase.PENDING);
  t.is(container?.status?.reason, 'Unschedulable');
  const again = await f.containers.getContainer({ bay: 'local', name: 'web' });
  t.deepEqual(
    toJson(ContainerSchema, again.container ?? create(ContainerSchema)),
    toJson(ContainerSchema, container ?? create(ContainerSchema)),
  );
  const byUid = await f.containers.getContainer({ bay: 'local', uid: container?.metadata?.uid });
  t.is(byUid.container?.metadata?.name, 'web');
});

test('what a caller writes into parts that are not the caller’s is ignored', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  const { container } = await f.containers.createContainer({
    container: {
      metadata: { bay: 'local', name: 'web', uid: 'mine', project: 'blue', generation: 9n, etag: 'mine' },
      spec: { image: 'x' },
      status: { phase: ContainerPhase.RUNNING, containerId: 'abc', ports: [{ containerPort: -1 }] },
    },
  });
  t.is(container?.metadata?.project, 'red');
  t.not(container?.metadata?.uid, 'mine');
  t.is(container?.metadata?.generation, 1n);
  t.is(container?.status?.phase, ContainerPhase.PENDING);
  t.is(container?.status?.containerId, '');
});

test('a name is taken once in its namespace, and again in another', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  await f.containers.createContainer({ container: web() });
  await refused(
    t,
    f.containers.createContainer({ container: web() }),
    Code.AlreadyExists,
    /container "web" in bay "local"/,
  );
  const other = { ...web(), metadata: { ...web().metadata, namespace: 'other' } };
  await t.notThrowsAsync(f.containers.createContainer({ container: other }));
});

test('invalid requests name the field', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  const cases: [object, RegExp][] = [
    [web('UPPER'), /container\.metadata\.name/],
    [web('a', { image: '' }), /container\.spec\.image/],
    [{ metadata: { bay: 'local', name: 'a' } }, /container\.spec/],
    [web('a', { mounts: [{ type: 1, source: 'relative', target: '/x' }] }), /container\.spec\.mounts\[0\]\.source/],
    [web('a', { env: [{ name: 'A' }, { name: 'A' }] }), /container\.spec\.env\[1\]\.name/],
    [web('a', { ports: [{ containerPort: 1, hostIp: 'nonsense' }] }), /container\.spec\.ports\[0\]\.host_ip/],
    [web('a', { args: ['a\0b'] }), /container\.spec\.args\[0\]/],
    [web('a', { labels: { 'io.baykeeper.uid': 'x' } }), /container\.spec\.labels/],
    [web('a', { resources: { memoryBytes: 5n } }), /6 MiB/],
    [{ ...web('a'), metadata: { name: 'a' } }, /bay/],
  ];
  for (const [container, message] of cases) {
    await refused(t, f.containers.createContainer({ container }), Code.InvalidArgument, message);
  }
  const error = await refused(t, f.containers.createContainer({}), Code.InvalidArgument);
  t.true(error.details.some((detail) => 'type' in detail && detail.type === 'google.rpc.BadRequest'));
  await refused(t, f.containers.getContainer({ bay: 'local' }), Code.InvalidArgument, /name/);
  await refused(t, f.containers.getContainer({ bay: 'local', name: 'a', uid: 'b' }), Code.InvalidArgument);
  await refused(t, f.containers.getContainer({ bay: 'nowhere', name: 'a' }), Code.NotFound, /no bay "nowhere"/);
});

test('an object without a name is given one', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  const [one, other] = await Promise.all([1, 2].map(() => f.containers.createContainer({ container: web('') })));
  t.regex(one?.container?.metadata?.name ?? '', /^container-[0-9a-f]{12}$/);
  t.not(one?.container?.metadata?.name, other?.container?.metadata?.name);
});

test('an update moves generation and etag as it should', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  const { container: made } = await f.containers.createContainer({ container: web() });
  const etag = made?.metadata?.etag ?? '';
  const uid = made?.metadata?.uid ?? '';

  const labelled = await f.containers.updateContainer({
    container: { metadata: { bay: 'local', name: 'web', etag, labels: { tier: 'db' } } },
    updateMask: { paths: ['metadata.labels'] },
  });
  t.is(labelled.container?.metadata?.generation, 1n);
  t.not(labelled.container?.metadata?.etag, etag);
  t.is(labelled.container?.spec?.image, 'busybox:latest');

  await refused(
    t,
    f.containers.updateContainer({
      container: { metadata: { bay: 'local', name: 'web', etag } },
      updateMask: { paths: ['metadata.labels'] },
    }),
    Code.Aborted,
  );

  // A report changes the revision, and neither etag nor generation.
  await f.api.report(uid, (status) => {
    status.phase = ContainerPhase.RUNNING;
  });
  const { container: reported } = await f.containers.getContainer({ bay: 'local', name: 'web' });
  t.is(reported?.metadata?.etag, labelled.container?.metadata?.etag);
  t.true((reported?.metadata?.revision ?? 0n) > (labelled.container?.metadata?.revision ?? 0n));

  const masked = await f.containers.updateContainer({
    container: {
      metadata: { bay: 'local', uid },
      spec: { image: 'nginx', user: 'ignored', resources: { cpuMillis: 500n } },
    },
    updateMask: { paths: ['spec.image', 'spec.resources.cpu_millis'] },
  });
  t.is(masked.container?.spec?.image, 'nginx');
  t.is(masked.container?.spec?.user, '');
  t.is(masked.container?.spec?.resources?.cpuMillis, 500n);
  t.is(masked.container?.metadata?.generation, 2n);
  t.deepEqual(masked.container?.metadata?.labels, { tier: 'db' });
  t.is(masked.container?.status?.phase, ContainerPhase.RUNNING);

  const same = await f.containers.updateContainer({
    container: { metadata: { bay: 'local', uid }, spec: { image: 'nginx' } },
    updateMask: { paths: ['spec.image'] },
  });
  t.is(same.container?.metadata?.revision, masked.container?.metadata?.revision);

  for (const path of ['status', 'metadata.name', 'spec.nothing', 'spec.ports.host_port', 'nonsense']) {
    const request = { container: { metadata: { bay: 'local', uid } }, updateMask: { paths: [path] } };
    await refused(t, f.containers.updateContainer(request), Code.InvalidArgument, /update_mask/);
  }
  const moved = {
    container: { metadata: { bay: 'local', uid }, spec: { node: 'n9' } },
    updateMask: { paths: ['spec.node'] },
  };
  await refused(t, f.containers.updateContainer(moved), Code.InvalidArgument, /spec\.node.*cannot change/);
  const wrong = {
    container: { metadata: { bay: 'local', uid }, spec: { image: '' } },
    updateMask: { paths: ['spec.image'] },
  };
  await refused(t, f.containers.updateContainer(wrong), Code.InvalidArgument, /container\.spec\.image/);
  await refused(t, f.containers.updateContainer({ container: web('none') }), Code.NotFound);
  const upserted = await f.containers.updateContainer({ container: web('none'), allowMissing: true });
  t.is(upserted.container?.metadata?.generation, 1n);
});

test('a repeated request id gives the first answer, and with other content is refused', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  const first = await f.containers.createContainer({ container: web(), requestId: 'r1' });
  const second = await f.containers.createContainer({ container: web(), requestId: 'r1' });
  t.is(second.container?.metadata?.uid, first.container?.metadata?.uid);
  await refused(
    t,
    f.containers.createContainer({ container: web('other'), requestId: 'r1' }),
    Code.InvalidArgument,
    /request_id/,
  );
  const blue = clientsOf(f.api, 'blue-token');
  await blue.bays.createBay({ bay: { metadata: { name: 'local' } } });
  const theirs = await blue.containers.createContainer({ container: web(), requestId: 'r1' });
  t.not(theirs.container?.metadata?.uid, first.container?.metadata?.uid);
  const raced = await Promise.all(
    Array.from({ length: 8 }, () => f.containers.createContainer({ container: web('raced'), requestId: 'r2' })),
  );
  t.is(new Set(raced.map(({ container }) => container?.metadata?.uid)).size, 1);
});

test('validate_only answers as if done, and does nothing', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  const { container } = await f.containers.createContainer({ container: web(), validateOnly: true });
  t.is(container?.spec?.pullPolicy, PullPolicy.IF_NOT_PRESENT);
  await refused(t, f.containers.getContainer({ bay: 'local', name: 'web' }), Code.NotFound);
  await f.containers.createContainer({ container: web() });
  await refused(t, f.containers.createContainer({ container: web(), validateOnly: true }), Code.AlreadyExists);
  const changed = await f.containers.updateContainer({ container: web('web', { image: 'other' }), validateOnly: true });
  t.is(changed.container?.metadata?.generation, 2n);
  const upserted = await f.containers.updateContainer({
    container: web('new'),
    allowMissing: true,
    validateOnly: true,
  });
  t.is(upserted.container?.metadata?.generation, 1n);
  t.truthy((await f.containers.deleteContainer({ bay: 'local', name: 'web', validateOnly: true })).container);
  const still = await f.containers.getContainer({ bay: 'local', name: 'web' });
  t.is(still.container?.metadata?.generation, 1n);
  t.is(still.container?.metadata?.deleteTime, undefined);
});

test('a container without node goes at once; one that an agent has waits for it', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  await f.containers.createContainer({ container: web() });
  await f.containers.deleteContainer({ bay: 'local', name: 'web' });
  await refused(t, f.containers.getContainer({ bay: 'local', name: 'web' }), Code.NotFound);
  await refused(t, f.containers.deleteContainer({ bay: 'local', name: 'web' }), Code.NotFound);
  t.is((await f.containers.deleteContainer({ bay: 'local', name: 'web', allowMissing: true })).container, undefined);

  const node = await addNode(f.api, f.bay?.metadata?.uid ?? '');
  const { container } = await f.containers.createContainer({ container: web() });
  t.is(container?.status?.node, 'n1');
  const chain = await f.api.store.chainSince(node, 0, 10);
  t.is(chain?.changes.length, 1);
  await refused(t, f.containers.deleteContainer({ bay: 'local', name: 'web', etag: 'other' }), Code.Aborted);
  const deleted = await f.containers.deleteContainer({ bay: 'local', name: 'web' });
  t.truthy(deleted.container?.metadata?.deleteTime);
  t.is(deleted.container?.status?.phase, ContainerPhase.DELETING);
  await refused(
    t,
    f.containers.updateContainer({ container: web('web', { image: 'new' }) }),
    Code.FailedPrecondition,
    /being deleted/,
  );
  await refused(t, f.containers.createContainer({ container: web() }), Code.AlreadyExists);
  const repeated = await f.containers.deleteContainer({ bay: 'local', name: 'web' });
  t.deepEqual(repeated.container?.metadata?.deleteTime, deleted.container?.metadata?.deleteTime);
  await f.containers.deleteContainer({ bay: 'local', name: 'web', force: true });
  await refused(t, f.containers.getContainer({ bay: 'local', name: 'web' }), Code.NotFound);
});

test('only a change of the spec is a link in the chain of the node', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  const node = await addNode(f.api, f.bay?.metadata?.uid ?? '');
  await f.containers.createContainer({ container: web() });
  const { head } = await f.api.store.assigned(node);
  const labels = { metadata: { bay: 'local', name: 'web', labels: { a: 'b' } } };
  await f.containers.updateContainer({ container: labels, updateMask: { paths: ['metadata.labels'] } });
  t.is((await f.api.store.assigned(node)).head, head);
  await f.containers.updateContainer({ container: web('web', { image: 'new' }) });
  t.true((await f.api.store.assigned(node)).head > head);
});

test('power operations change what is asked for, and refuse what makes no sense', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  await f.containers.createContainer({ container: web() });
  const ref = { bay: 'local', name: 'web' };
  await refused(t, f.containers.unpauseContainer(ref), Code.FailedPrecondition);
  t.is((await f.containers.startContainer(ref)).container?.metadata?.generation, 1n);
  t.is((await f.containers.pauseContainer(ref)).container?.spec?.powerState, PowerState.PAUSED);
  await refused(t, f.containers.rebootContainer(ref), Code.FailedPrecondition, /unpause/);
  t.is((await f.containers.unpauseContainer(ref)).container?.spec?.powerState, PowerState.RUNNING);
  t.is((await f.containers.rebootContainer(ref)).container?.spec?.reboots, 1n);
  t.is((await f.containers.stopContainer(ref)).container?.spec?.powerState, PowerState.STOPPED);
  await refused(t, f.containers.pauseContainer(ref), Code.FailedPrecondition, /start it first/);
  await refused(t, f.containers.rebootContainer(ref), Code.FailedPrecondition);
  const started = await f.containers.startContainer(ref);
  t.is(started.container?.spec?.powerState, PowerState.RUNNING);
  t.is(started.container?.metadata?.generation, 6n);
  await refused(t, f.containers.stopContainer({ ...ref, etag: 'old' }), Code.Aborted);
  // A manifest that says nothing of reboots takes none back.
  const updated = await f.containers.updateContainer({ container: web() });
  t.is(updated.container?.spec?.reboots, 1n);
  t.is(updated.container?.metadata?.generation, 6n);
});

test('a bay takes engine and provisioner from its model, and says what is not built', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  const { bayModels, bays, containers, pods } = f;
  const model = (name: string, spec: object) => bayModels.createBayModel({ bayModel: { metadata: { name }, spec } });
  t.is((await model('plain', {})).bayModel?.spec?.containerEngine, ContainerEngine.DOCKER);
  await model('k8s', { containerEngine: ContainerEngine.KUBERNETES });
  await model('heat', { provisioner: Provisioner.HEAT });
  const bay = (name: string, spec: object) => bays.createBay({ bay: { metadata: { name }, spec } });
  await refused(t, bay('a', { bayModel: 'missing' }), Code.InvalidArgument, /bay_model/);
  await refused(t, bay('a', { bayModel: 'heat' }), Code.Unimplemented, /Heat/);
  const other = { bayModel: 'plain', containerEngine: ContainerEngine.KUBERNETES };
  await refused(t, bay('a', other), Code.InvalidArgument, /container_engine/);
  const direct = await bay('direct', { containerEngine: ContainerEngine.KUBERNETES });
  t.is(direct.bay?.spec?.containerEngine, ContainerEngine.KUBERNETES);
  await refused(
    t,
    bays.createBay({ bay: { metadata: { name: 'x', namespace: 'n' } } }),
    Code.InvalidArgument,
    /namespace/,
  );
  const { bay: k8s } = await bay('kube', { bayModel: 'k8s', nodeCount: 2 });
  t.is(k8s?.spec?.containerEngine, ContainerEngine.KUBERNETES);
  const inKube = { metadata: { bay: 'kube', name: 'x' }, spec: { image: 'x' } };
  await refused(
    t,
    containers.createContainer({ container: inKube }),
    Code.FailedPrecondition,
    /without a Docker engine/,
  );
  t.deepEqual((await containers.listContainers({ bay: 'kube' })).containers, []);
  await refused(t, pods.createPod({ pod: { metadata: { bay: 'local', name: 'x' } } }), Code.Unimplemented, /Docker/);
  await refused(t, pods.listPods({ bay: 'local' }), Code.Unimplemented);
  const changed = bays.updateBay({ bay: { metadata: { name: 'kube' }, spec: { bayModel: 'plain' } } });
  await refused(t, changed, Code.InvalidArgument, /bay_model.*cannot change/);
  const { bay: grown } = await bays.updateBay({
    bay: { metadata: { name: 'kube' }, spec: { bayModel: 'k8s', nodeCount: 3 } },
  });
  t.is(grown?.spec?.containerEngine, ContainerEngine.KUBERNETES);
  t.is(grown?.spec?.nodeCount, 3);
  await bayModels.deleteBayModel({ name: 'plain' });
  await refused(t, bayModels.getBayModel({ name: 'plain' }), Code.NotFound);
});

test('nobody gets in without a token, and a reader changes nothing', async (t) => {
  const f = await withBay();
  t.teardown(() => f.api[Symbol.asyncDispose]());
  await refused(t, clientsOf(f.api, '').bays.listBays({}), Code.Unauthenticated, /Authorization: Bearer/);
  await refused(t, clientsOf(f.api, 'wrong').bays.listBays({}), Code.Unauthenticated, /not known/);
  const reader = clientsOf(f.api, 'red-reader-token');
  t.is((await reader.bays.listBays({})).bays.length, 1);
  await refused(t, reader.bays.createBay({ bay: { metadata: { name: 'a' } } }), Code.PermissionDenied, /reader/);
});

/** Puts node `n1` into a bay, fresh, and lets new objects go to it. */
async function addNode(api: ApiFixture, bayUid: string): Promise<string> {
  const { node } = await api.addNode(bayUid, 'n1');
  api.placement.node = node;
  api.liveness.set(node.uid, true);
  return node.uid;
}
