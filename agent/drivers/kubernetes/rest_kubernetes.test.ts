import type { JsonObject } from '@bufbuild/protobuf';
import test, { type ExecutionContext } from 'ava';
import { startAdmissionWebhook } from '../../../test/harness/kubernetes/admission_webhook.ts';
import { type Kubernetes, startKubernetes } from '../../../test/harness/kubernetes/cluster.ts';
import { until } from '../../../test/harness/until.ts';
import { type ClusterObject, type ResourceType, resourceTypes } from '../cluster_driver.ts';
import { ClusterError, type ClusterErrorKind } from '../cluster_error.ts';
import { KubernetesDriver } from './driver.ts';

let cluster: Kubernetes;
let driver: KubernetesDriver;
const namespace = 'default';
const { Pod, Service, ReplicationController, Namespace, ConfigMap, NodeMetrics } = resourceTypes;

test.before(async () => {
  cluster = await startKubernetes();
  driver = new KubernetesDriver({ kubeconfig: cluster.kubeconfig, context: '' });
});
test.after.always(async () => {
  driver?.close();
  await cluster?.[Symbol.asyncDispose]();
});

const service = (name: string, metadata: JsonObject = {}, spec: JsonObject = {}): JsonObject => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name, namespace, ...metadata },
  spec: { ports: [{ port: 80, protocol: 'TCP' }], ...spec },
});
const pod = (name: string, metadata: JsonObject = {}, spec: JsonObject = {}): JsonObject => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace, ...metadata },
  spec: { containers: [{ name: 'c', image: 'busybox:test' }], ...spec },
});

async function fails(t: ExecutionContext, kind: ClusterErrorKind, call: Promise<unknown>): Promise<ClusterError> {
  const error = await t.throwsAsync(call, { instanceOf: ClusterError });
  t.is(error?.kind, kind, error?.message);
  return error as ClusterError;
}

const owned = (object: ClusterObject | undefined, operation: string) =>
  object?.metadata.managedFields
    ?.filter(({ manager }) => manager === 'baykeeper')
    .map((one) => one.operation === operation);

test('it says what it is, and whether it answers', async (t) => {
  t.deepEqual(await driver.info(), { version: 'v1.20.2', platform: 'linux/amd64' });
  await driver.ping();
  t.is(driver.target, new URL(cluster.url).host);
});

test('what is applied is there, owned by us, and what is taken out is gone', async (t) => {
  const ref = { type: Service, namespace, name: 'applied' };
  t.is(await driver.get(ref), undefined);
  const made = await driver.apply(Service, service('applied', { labels: { a: '1', b: '2' } }));
  t.deepEqual(owned(made, 'Apply'), [true]);
  t.deepEqual((await driver.get(ref))?.metadata.labels, { a: '1', b: '2' });
  await driver.apply(Service, service('applied', { labels: { b: '2' } }));
  t.deepEqual((await driver.get(ref))?.metadata.labels, { b: '2' });
});

test('fields of others are a conflict that names them and whose they are; by force they become ours, and the rest stays theirs', async (t) => {
  await cluster.kubectl(['create', 'service', 'clusterip', 'theirs', '--tcp=80']);
  await cluster.kubectl(['annotate', 'service', 'theirs', 'keep=me']);
  const mine = service('theirs', {}, { selector: { app: 'mine' } });
  const error = await fails(t, 'conflict', driver.apply(Service, mine));
  t.false(error.retryable);
  t.deepEqual(
    error.causes.map(({ reason, field }) => [reason, field]),
    [['FieldManagerConflict', '.spec.selector.app']],
  );
  t.regex(error.causes[0]?.message ?? '', /conflict with "kubectl-create" using v1/);
  const taken = await driver.apply(Service, mine, { force: true });
  t.like(taken, { spec: { selector: { app: 'mine' } }, metadata: { annotations: { keep: 'me' } } });
});

test('an apply that expects nothing to be there never touches what is there', async (t) => {
  await cluster.kubectl(['create', 'service', 'clusterip', 'foreign', '--tcp=80']);
  const ref = { type: Service, namespace, name: 'foreign' };
  const before = await driver.get(ref);
  // Also when nothing in it is in anybody's way.
  for (const object of [
    service('foreign'),
    service('foreign', { labels: { a: 'b' } }),
    service('foreign', {}, { selector: { x: 'y' } }),
  ]) {
    for (const dryRun of [false, true]) {
      const error = await fails(t, 'already-exists', driver.apply(Service, object, { expect: 'absent', dryRun }));
      t.is(error.message, 'Service default/foreign already exists');
    }
  }
  t.deepEqual(await driver.get(ref), before);
  const template = { metadata: { labels: { a: 'b' } }, spec: { containers: [{ name: 'c', image: 'i' }] } };
  const all: [ResourceType, JsonObject][] = [
    [Pod, pod('absent')],
    [Service, service('absent')],
    [
      ReplicationController,
      {
        ...pod('absent'),
        kind: 'ReplicationController',
        spec: { replicas: 0, selector: { a: 'b' }, template },
      },
    ],
    [Namespace, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'absent' } }],
  ];
  for (const [type, object] of all) {
    const made = await driver.apply(type, object, { expect: 'absent' });
    t.deepEqual(owned(made, 'Apply'), [true]);
    t.is(made.metadata.deletionGracePeriodSeconds, undefined);
    await fails(t, 'already-exists', driver.apply(type, object, { expect: 'absent' }));
    // What keeps it from changing leaves no trace once it is applied again.
    const again = await driver.apply(type, object, { expect: { uid: made.metadata.uid } });
    t.false(JSON.stringify(again.metadata.managedFields ?? []).includes('deletionGracePeriodSeconds'));
  }
});

test('of many that create the same at once, one does', async (t) => {
  const outcomes = await Promise.allSettled(
    Array.from({ length: 10 }, (_, i) =>
      driver.apply(ConfigMap, configMap('raced', { by: String(i) }), { expect: 'absent' }),
    ),
  );
  const lost = outcomes.flatMap((one) => (one.status === 'rejected' ? [(one.reason as ClusterError).kind] : []));
  t.deepEqual(lost, Array(9).fill('already-exists'));
});

const configMap = (name: string, data: JsonObject = {}): JsonObject => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name, namespace },
  data,
});

test('an apply that expects a certain object touches no other', async (t) => {
  const made = await driver.apply(ConfigMap, configMap('certain', { a: '1' }));
  const { uid, resourceVersion } = made.metadata;
  const next = await driver.apply(ConfigMap, configMap('certain', { a: '2' }), { expect: { uid, resourceVersion } });
  t.true(
    (
      await fails(
        t,
        'conflict',
        driver.apply(ConfigMap, configMap('certain', { a: '3' }), { expect: { uid, resourceVersion } }),
      )
    ).retryable,
  );
  await fails(
    t,
    'conflict',
    driver.apply(ConfigMap, configMap('certain', { a: '3' }), { expect: { uid: crypto.randomUUID() } }),
  );
  await fails(t, 'conflict', driver.apply(ConfigMap, configMap('uncertain'), { expect: { uid } }));
  t.is(
    (await driver.get({ type: ConfigMap, namespace, name: 'certain' }))?.metadata.resourceVersion,
    next.metadata.resourceVersion,
  );
  t.is(await driver.get({ type: ConfigMap, namespace, name: 'uncertain' }), undefined);
});

test('a dry run says what would be, and does nothing', async (t) => {
  const dryRun = true;
  const would = await driver.apply(Pod, pod('dry'), { dryRun, expect: 'absent' });
  t.like(would, { metadata: { name: 'dry' }, spec: { restartPolicy: 'Always' } });
  t.like(await driver.create(Pod, pod('dry'), { dryRun }), { metadata: { name: 'dry' } });
  t.is(await driver.get({ type: Pod, namespace, name: 'dry' }), undefined);
  const error = await fails(
    t,
    'invalid',
    driver.apply(Pod, pod('dry', {}, { containers: [{ name: 'C!' }] }), { dryRun }),
  );
  t.deepEqual(error.causes.map(({ field }) => field).toSorted(), [
    'spec.containers[0].image',
    'spec.containers[0].name',
  ]);
  await driver.apply(Pod, pod('dry'));
  await driver.delete({ type: Pod, namespace, name: 'dry' }, { dryRun });
  t.truthy(await driver.get({ type: Pod, namespace, name: 'dry' }));
});

test('what the cluster refuses has a kind, and its own words', async (t) => {
  t.regex(
    (await fails(t, 'invalid', driver.apply(Pod, pod('odd', {}, { surprise: 1 })))).message,
    /\.spec\.surprise: field not declared in schema/,
  );
  await driver.apply(Pod, pod('fixed'));
  const changed = await fails(t, 'invalid', driver.apply(Pod, pod('fixed', {}, { hostNetwork: true })));
  t.like(changed.causes[0], { reason: 'FieldValueForbidden', field: 'spec' });
  await fails(
    t,
    'namespace-not-found',
    driver.apply(ConfigMap, { ...configMap('a'), metadata: { name: 'a', namespace: 'nowhere' } }),
  );
  t.is((await fails(t, 'already-exists', driver.create(Pod, pod('fixed')))).message, 'pods "fixed" already exists');
  await fails(t, 'not-found', driver.mergePatch({ type: Pod, namespace, name: 'none' }, {}));
  await fails(t, 'not-found', driver.list(NodeMetrics));
  await fails(t, 'invalid', driver.list(Pod, { labelSelector: 'a==b==c' }));
  for (const name of ['', '..', 'a/b', 'a%2fb']) await fails(t, 'invalid', driver.get({ type: Pod, namespace, name }));
  await fails(t, 'invalid', driver.get({ type: Pod, name: 'a' }));
});

test('whoever has no right is told by whom', async (t) => {
  const nobody = new KubernetesDriver({ kubeconfig: await cluster.user('nobody'), context: '' });
  t.teardown(() => nobody.close());
  const error = await fails(t, 'forbidden', nobody.list(Pod));
  t.regex(error.message, /User "nobody" cannot list resource "pods"/);
  await nobody.ping();
  const anonymous = new KubernetesDriver({ kubeconfig: await cluster.writeKubeconfig({ user: {} }), context: '' });
  t.teardown(() => anonymous.close());
  t.regex((await fails(t, 'forbidden', anonymous.list(Pod))).message, /system:anonymous/);
  const garbage = await cluster.writeKubeconfig({ user: { token: 'garbage' } });
  const stranger = new KubernetesDriver({ kubeconfig: garbage, context: '' });
  t.teardown(() => stranger.close());
  await fails(t, 'unauthorized', stranger.list(Pod));
});

test('a webhook that says no is heard', async (t) => {
  await using webhook = await startAdmissionWebhook(cluster, {
    rules: [{ apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['secrets'] }],
    review: () => ({ allowed: false, message: 'not on a Sunday' }),
  });
  const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'hooked', namespace } };
  const error = await fails(t, 'admission-denied', driver.apply(resourceTypes.Secret, secret));
  t.regex(error.message, /denied the request: not on a Sunday/);
  t.false(error.retryable);
  t.true(webhook.calls > 0);
});

test('a namespace that is being deleted takes nothing new', async (t) => {
  const name = 'ending';
  await driver.create(Namespace, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
  // Nobody finishes that here: there is no controller manager.
  const left = await driver.delete({ type: Namespace, name });
  t.truthy(left?.metadata.deletionTimestamp);
  const object = { ...configMap('a'), metadata: { name: 'a', namespace: name } };
  const error = await until('it is noticed', async () => {
    const failure = await driver.apply(ConfigMap, object).then(
      () => undefined,
      (cause: ClusterError) => cause,
    );
    return failure?.kind === 'namespace-terminating' && failure;
  });
  t.regex(error.message, /because it is being terminated/);
});

test('a delete has preconditions, and says whether something is left', async (t) => {
  const ref = { type: ConfigMap, namespace, name: 'doomed' };
  const made = await driver.apply(ConfigMap, configMap('doomed'));
  t.regex((await fails(t, 'conflict', driver.delete(ref, { uid: crypto.randomUUID() }))).message, /precondition/);
  await fails(t, 'conflict', driver.delete(ref, { resourceVersion: '1' }));
  t.is(await driver.delete(ref, { uid: made.metadata.uid }), undefined);
  t.is(await driver.get(ref), undefined);
  t.is(await driver.delete(ref), undefined);

  await driver.apply(ConfigMap, {
    ...configMap('doomed'),
    metadata: { name: 'doomed', namespace, finalizers: ['test.example/wait'] },
  });
  t.deepEqual((await driver.delete(ref))?.metadata.finalizers, ['test.example/wait']);
  t.truthy((await driver.get(ref))?.metadata.deletionTimestamp);
  await driver.mergePatch(ref, { metadata: { finalizers: null } });
  t.is(await driver.get(ref), undefined);

  // Bound to a node that there is not, a pod is waited for.
  await driver.apply(Pod, pod('doomed', {}, { nodeName: 'nowhere', terminationGracePeriodSeconds: 60 }));
  t.is((await driver.delete({ type: Pod, namespace, name: 'doomed' }))?.metadata.deletionGracePeriodSeconds, 60);
  t.is(await driver.delete({ type: Pod, namespace, name: 'doomed' }, { gracePeriodSeconds: 0 }), undefined);
  t.is(await driver.get({ type: Pod, namespace, name: 'doomed' }), undefined);
});

test('metadata is patched, under a precondition', async (t) => {
  const ref = { type: ConfigMap, namespace, name: 'patched' };
  const made = await driver.apply(ConfigMap, configMap('patched'));
  const { resourceVersion } = made.metadata;
  t.deepEqual((await driver.mergePatch(ref, { metadata: { resourceVersion, labels: { a: 'b' } } })).metadata.labels, {
    a: 'b',
  });
  await fails(t, 'conflict', driver.mergePatch(ref, { metadata: { resourceVersion, labels: { a: 'c' } } }));
});

test('a list comes in chunks, of one state, chosen by labels and fields', async (t) => {
  const names = Array.from({ length: 23 }, (_, i) => `listed-${String(i).padStart(2, '0')}`);
  await Promise.all(
    names.map((name, i) =>
      driver.apply(ConfigMap, { ...configMap(name), metadata: { name, namespace, labels: { listed: String(i % 2) } } }),
    ),
  );
  const all = await driver.list(ConfigMap, { namespace, labelSelector: 'listed', chunkSize: 5 });
  t.deepEqual(
    all.items.map(({ metadata }) => metadata.name),
    names,
  );
  t.false(all.more);
  t.true(Number(all.resourceVersion) > 0);
  t.is((await driver.list(ConfigMap, { labelSelector: 'listed=1' })).items.length, 11);
  t.is((await driver.list(ConfigMap, { fieldSelector: 'metadata.name=listed-07' })).items.length, 1);
  t.like(await driver.list(ConfigMap, { namespace, labelSelector: 'listed', atMost: 3 }), {
    more: true,
    items: { length: 3 },
  });
  t.deepEqual((await driver.list(ConfigMap, { namespace: 'kube-public', labelSelector: 'listed' })).items, []);
});

test('every kind that can be in a namespace is found', async (t) => {
  const types = await driver.namespacedTypes();
  for (const type of [Pod, Service, ReplicationController, ConfigMap, resourceTypes.Lease]) {
    t.true(
      types.some((one) => one.kind === type.kind && one.apiVersion === type.apiVersion && one.plural === type.plural),
    );
  }
  t.true(types.some(({ apiVersion, kind }) => apiVersion === 'apps/v1' && kind === 'Deployment'));
  t.false(types.some(({ kind, plural }) => kind === 'Node' || plural.includes('/')));
  for (const type of types) await t.notThrowsAsync(driver.list(type, { namespace, atMost: 1 }), type.plural);
});

test.serial('what has become of a call that was called off, or that comes too late', async (t) => {
  const signal = AbortSignal.abort();
  await fails(t, 'cancelled', driver.get({ type: Pod, namespace, name: 'a' }, { signal }));
  // It cannot answer in time: it is held.
  await cluster.apiServer.signal('SIGSTOP');
  try {
    await fails(t, 'timeout', driver.list(Pod, { timeoutMs: 200 }));
  } finally {
    await cluster.apiServer.signal('SIGCONT');
  }
});
