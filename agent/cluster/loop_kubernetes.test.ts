import test from 'ava';
import { PodPhase, type PodStatus } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import {
  ReplicationControllerPhase,
  type ReplicationControllerStatus,
} from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ServicePhase, type ServiceStatus } from '../../proto/gen/baykeeper/v1/service_pb.js';
import { ClusterBed } from '../../test/harness/cluster_bed.ts';
import { type Kubernetes, startKubernetes } from '../../test/harness/kubernetes/cluster.ts';
import { until } from '../../test/harness/until.ts';
import type { ClusterDriver, ClusterObject } from '../drivers/cluster_driver.ts';
import { ClusterError } from '../drivers/cluster_error.ts';

/** What becomes of objects beside kubectl and other writers. Nothing runs pods here: that is in pods_kubernetes.test.ts. */

let cluster: Kubernetes;
test.before(async () => {
  cluster = await startKubernetes({ audit: true });
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const pod = (image = 'busybox:test') => ({ containers: [{ name: 'web', image, ports: [{ containerPort: 80 }] }] });
const service = { selector: { app: 'web' }, ports: [{ port: 80 }] };
const controller = (replicas: number | undefined, image = 'busybox:test') => ({
  ...(replicas !== undefined && { replicas }),
  selector: { app: 'web' },
  template: { metadata: { labels: { app: 'web' } }, spec: pod(image) },
});

// biome-ignore lint/suspicious/noExplicitAny: whatever kind of object the test looks at.
type Any = any;
const get = async (path: string): Promise<Any> => {
  const { status, body } = await cluster.request<ClusterObject>('GET', path);
  return status === 200 ? body : undefined;
};
const podPath = (name: string, namespace = 'default') => `/api/v1/namespaces/${namespace}/pods/${name}`;
const servicePath = (name: string) => `/api/v1/namespaces/default/services/${name}`;
const controllerPath = (name: string) => `/api/v1/namespaces/default/replicationcontrollers/${name}`;
const image = (object: Any): string => object?.spec?.containers?.[0]?.image;
/** What is mended is mended within so long. */
const mending = { timeoutMs: 5_000 };

test('a pod, a service and a controller are applied, reported and removed', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const web = bed.put('Pod', 'basic', pod(), {
    labels: { app: 'web' },
    annotations: { note: 'hello' },
    metadata: { finalizers: ['example.com/hold'] },
  });
  const front = bed.put('Service', 'basic', service);
  const keeper = bed.put('ReplicationController', 'basic', controller(2));

  const podStatus = (await bed.applied(web)) as PodStatus;
  t.is(podStatus.phase, PodPhase.PENDING);
  t.is(podStatus.reason, 'NotScheduled');
  t.is(podStatus.containers, 1);
  t.is(podStatus.node, 'master-1');
  const live = await get(podPath('basic'));
  t.is(podStatus.clusterUid, live.metadata.uid);
  t.like(live.metadata.labels, { app: 'web', 'baykeeper.io/uid': web, 'baykeeper.io/bay': bed.bayUid });
  t.is(live.metadata.annotations.note, 'hello');
  t.deepEqual(live.metadata.finalizers, ['example.com/hold']);
  t.is(image(live), 'busybox:test');

  const serviceStatus = (await bed.applied(front)) as ServiceStatus;
  t.is(serviceStatus.phase, ServicePhase.RUNNING);
  t.is(serviceStatus.clusterIp, (await get(servicePath('basic'))).spec.clusterIP);
  t.deepEqual(serviceStatus.ports, ['80/TCP']);

  // Without a controller manager nobody looks at it.
  const controllerStatus = (await bed.applied(keeper)) as ReplicationControllerStatus;
  t.is(controllerStatus.phase, ReplicationControllerPhase.PENDING);
  t.is(controllerStatus.replicasWanted, 2);

  for (const uid of [web, front, keeper]) bed.delete(uid);
  await bed.removed(front);
  await bed.removed(keeper);
  // Somebody holds on to it, and that is said.
  const ending = await bed.shows<PodStatus>(web, 'it is ending', ({ reason }) => reason === 'Ending');
  t.is(ending.phase, PodPhase.DELETING);
  t.regex(ending.message, /finalizer example\.com\/hold/);
  t.false(bed.isRemoved(web));
  await cluster.kubectl(['patch', 'pod', 'basic', '--type=merge', '-p', '{"metadata":{"finalizers":null}}']);
  await bed.removed(web);
  t.is(await get(podPath('basic')), undefined);
});

test('a name as long as Kubernetes has them', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const name = `${'long.'.repeat(50)}pod`;
  t.is(name.length, 253);
  const uid = bed.put('Pod', name, pod());
  await bed.applied(uid);
  t.is((await get(podPath(name))).metadata.labels['baykeeper.io/uid'], uid);
});

test('what somebody edits is mended, and what somebody adds stays', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Pod', 'edited', pod(), { labels: { app: 'web' } });
  await bed.applied(uid);
  await cluster.kubectl(['set', 'image', 'pod/edited', 'web=other:2']);
  await cluster.kubectl(['label', 'pod', 'edited', 'app=changed', 'team=blue', '--overwrite']);
  await cluster.kubectl(['annotate', 'pod', 'edited', 'mesh.example.com/status=injected']);
  await until(
    'it is mended',
    async () => {
      const live = await get(podPath('edited'));
      return image(live) === 'busybox:test' && live.metadata.labels.app === 'web';
    },
    mending,
  );
  const { metadata } = await get(podPath('edited'));
  t.is(metadata.labels.team, 'blue');
  t.is(metadata.annotations['mesh.example.com/status'], 'injected');
  t.is((await bed.applied(uid)).reason, 'NotScheduled');
});

test('what somebody deletes is made again', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const web = bed.put('Pod', 'deleted', pod());
  const front = bed.put('Service', 'deleted', service);
  await bed.applied(web);
  await bed.applied(front);
  const before = await get(podPath('deleted'));
  await cluster.kubectl(['delete', 'pod/deleted', 'service/deleted', '--wait=false', '--grace-period=0', '--force']);
  const after = await until(
    'both are there again',
    async () => {
      const live = await get(podPath('deleted'));
      return live && live.metadata.uid !== before.metadata.uid && (await get(servicePath('deleted'))) && live;
    },
    mending,
  );
  await bed.shows<PodStatus>(web, 'it is reported', ({ clusterUid }) => clusterUid === after.metadata.uid);
  t.pass();
});

test('replicas that the manifest leaves open are whoever sets them, and a scale is no drift', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('ReplicationController', 'scaled', controller(undefined));
  await bed.applied(uid);
  await cluster.kubectl(['scale', 'rc', 'scaled', '--replicas=3']);
  await bed.shows<ReplicationControllerStatus>(uid, 'three', ({ replicasWanted }) => replicasWanted === 3);
  const { metadata } = await get(controllerPath('scaled'));
  // Nor is it when something else is changed.
  bed.change(uid, controller(undefined, 'busybox:next'));
  await bed.applied(uid);
  const after = await get(controllerPath('scaled'));
  t.is(after.spec.replicas, 3);
  t.is(after.metadata.uid, metadata.uid);
  t.is(image(after.spec.template), 'busybox:next');
});

test('a field that is taken out of the manifest is taken out of the object', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Service', 'shrunk', { ...service, sessionAffinity: 'ClientIP' }, { labels: { a: '1', b: '2' } });
  await bed.applied(uid);
  bed.change(uid, service, { labels: { a: '1' } });
  await bed.applied(uid);
  const { metadata, spec } = await get(servicePath('shrunk'));
  t.is(metadata.labels.b, undefined);
  t.is(metadata.labels.a, '1');
  t.is(spec.sessionAffinity, 'None');
});

test('a field that the cluster does not know is refused in its own words, and another object is not held up', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const bad = bed.put('Pod', 'unknown-field', { ...pod(), sidecarMode: 'always' });
  const wrong = bed.put('Pod', 'no-image', { containers: [{ name: 'web' }] });
  const good = bed.put('Pod', 'good', pod());
  const status = await bed.shows<PodStatus>(bad, 'a refusal', ({ reason }) => reason === 'Invalid');
  t.is(status.phase, PodPhase.FAILED);
  t.regex(status.message, /\.spec\.sidecarMode.*not declared in schema/);
  const refused = await bed.shows<PodStatus>(wrong, 'a refusal', ({ reason }) => reason === 'Invalid');
  t.regex(refused.message, /spec\.containers\[0\]\.image: Required value/);
  await bed.applied(good);
  t.is(await get(podPath('unknown-field')), undefined);
});

test('a namespace that is missing is said, and made when that is asked for', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Service', 'lost', service, { namespace: 'nowhere' });
  const status = await bed.shows<ServiceStatus>(uid, 'no namespace', ({ reason }) => reason === 'NamespaceNotFound');
  t.regex(status.message, /"nowhere" not found/);
  t.regex(status.message, /--create-namespace/);
  const made = bed.put('Service', 'found', service, { namespace: 'somewhere', createNamespace: true });
  await bed.applied(made);
  const namespace = await get('/api/v1/namespaces/somewhere');
  t.is(namespace.metadata.labels['baykeeper.io/created-by'], bed.bayUid);
});

test('nothing is removed but what is known to be too much', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const kept = bed.put('Service', 'kept', service);
  const dug = bed.put('Service', 'dug', service);
  await bed.applied(kept);
  await bed.applied(dug);
  // Somebody has copied one of ours, labels and all.
  const { metadata } = await get(servicePath('dug'));
  const copy = {
    apiVersion: 'v1',
    kind: 'Service',
    spec: service,
    metadata: { name: 'copied', labels: metadata.labels },
  };
  await cluster.kubectl(['create', '-f', '-'], { input: JSON.stringify(copy) });
  bed.desired.set({ complete: false }, []);
  bed.desired.drop(kept, false);
  bed.desired.drop(dug);
  await until('the grave is closed', () => bed.desired.current.graves.size === 0);
  t.is(await get(servicePath('dug')), undefined);
  t.truthy(await get(servicePath('copied')));
  await bed.stop();
  await bed.restart();
  const marker = bed.put('Service', 'marker', service);
  await bed.applied(marker);
  t.truthy(await get(servicePath('kept')));
  // Now it is known to be all.
  bed.desired.set({ complete: true }, [kept]);
  await until('it is gone', async () => (await get(servicePath('kept'))) === undefined);
  t.truthy(await get(servicePath('copied')));
});

test('two programs that want different things of a field are told of, and do not drive each other round', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('ReplicationController', 'fought', controller(1));
  await bed.applied(uid);
  for (let round = 0; round < 3; round += 1) {
    await cluster.kubectl(['scale', 'rc', 'fought', '--replicas=5']);
    if (round < 2)
      await until('it is mended', async () => (await get(controllerPath('fought'))).spec.replicas === 1, mending);
  }
  await until('it is mended', async () => (await get(controllerPath('fought'))).spec.replicas === 1, mending);
  // On a busy machine the first wait may be over before the next change comes.
  const status = await until('a contest', async () => {
    if ((await get(controllerPath('fought'))).spec.replicas !== 5) {
      await cluster.kubectl(['scale', 'rc', 'fought', '--replicas=5']);
    }
    const shown = bed.status(uid) as ReplicationControllerStatus | undefined;
    return shown?.reason === 'FieldContested' && shown.retryTime !== undefined ? shown : undefined;
  });
  t.regex(status.message, /spec\.replicas \(the cluster has not noted by whom\)/);
  t.not(status.phase, ReplicationControllerPhase.FAILED);
  t.is((await get(controllerPath('fought'))).spec.replicas, 5);
});

/** A driver whose watches of some kinds first pass a gate. */
const gated = (
  driver: ClusterDriver,
  kinds: readonly string[],
  gate: () => Promise<ClusterError | undefined>,
): ClusterDriver =>
  new Proxy(driver, {
    get: (target, property) => {
      const value: unknown = Reflect.get(target, property, target);
      if (property !== 'watch') return typeof value === 'function' ? value.bind(target) : value;
      return async function* (...[type, options]: Parameters<ClusterDriver['watch']>) {
        const error = kinds.includes(type.kind) ? await gate() : undefined;
        if (error) yield { type: 'down', error };
        else yield* target.watch(type, options);
      };
    },
  });

test('who begins to lead has a word on every object before its silence confirms anything', async (t) => {
  const gate: { current: Promise<ClusterError | undefined> } = { current: Promise.resolve(undefined) };
  const bed = new ClusterBed(t, cluster, { wrap: (driver) => gated(driver, ['Pod', 'Node'], () => gate.current) });
  const uid = bed.put('Pod', 'awaited', pod());
  const front = bed.put('Service', 'awaited', service);
  await bed.applied(uid);
  await bed.applied(front);
  t.is(bed.workloads.unseen, 0);

  const opened = Promise.withResolvers<undefined>();
  gate.current = opened.promise;
  await bed.stop();
  bed.reports.latest.clear();
  await bed.restart();
  await bed.applied(front);
  t.is(bed.workloads.unseen, 2, 'the pod, and the nodes');
  opened.resolve(undefined);
  await bed.applied(uid);
  await until('there is a word on everything', () => bed.workloads.unseen === 0);

  gate.current = Promise.resolve(new ClusterError('forbidden', 'pods is forbidden'));
  await bed.stop();
  bed.reports.latest.clear();
  await bed.restart();
  await bed.shows(uid, 'that it cannot be seen', ({ reason }) => reason === 'Forbidden');
  await until('there is a word on everything', () => bed.leads && bed.workloads.unseen === 0);
});

test.serial('what the nodes use is told where the cluster measures it', async (t) => {
  // As a metrics server would serve it.
  const definition = {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: 'nodes.metrics.k8s.io', annotations: { 'api-approved.kubernetes.io': 'unapproved, for a test' } },
    spec: {
      group: 'metrics.k8s.io',
      names: { kind: 'NodeMetrics', plural: 'nodes' },
      scope: 'Cluster',
      versions: [
        {
          name: 'v1beta1',
          served: true,
          storage: true,
          schema: { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
        },
      ],
    },
  };
  const metrics = { apiVersion: 'metrics.k8s.io/v1beta1', kind: 'NodeMetrics', metadata: { name: 'paper' } };
  const node = { apiVersion: 'v1', kind: 'Node', metadata: { name: 'paper' } };
  await cluster.kubectl(['create', '-f', '-'], { input: JSON.stringify(definition) });
  await cluster.kubectl(['wait', '--for=condition=Established', 'crd/nodes.metrics.k8s.io']);
  const measured = JSON.stringify({ ...metrics, usage: { cpu: '500m', memory: '1Gi' } });
  await until('it is served', () => cluster.kubectl(['create', '-f', '-'], { input: measured }));
  await cluster.kubectl(['create', '-f', '-'], { input: JSON.stringify(node) });
  const capacity = { status: { capacity: { cpu: '2', memory: '4Gi' }, allocatable: { cpu: '2', memory: '4Gi' } } };
  await cluster.request('PATCH', '/api/v1/nodes/paper/status', {
    body: capacity,
    contentType: 'application/merge-patch+json',
  });
  const bed = new ClusterBed(t, cluster);
  const usage = await until('it is told', () => bed.reports.nodes.get('paper')?.status?.usage);
  t.like(usage, { cpuPercent: 25, memoryUsedBytes: 2n ** 30n });
});
