import test from 'ava';
import { PodPhase, type PodStatus } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import type { ServiceStatus } from '../../proto/gen/baykeeper/v1/service_pb.js';
import { ClusterBed } from '../../test/harness/cluster_bed.ts';
import { type Kubernetes, startKubernetes } from '../../test/harness/kubernetes/cluster.ts';
import type { ClusterObject } from '../drivers/cluster_driver.ts';

/** Whose an object of a cluster is, and how that changes. */

let cluster: Kubernetes;
test.before(async () => {
  cluster = await startKubernetes();
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const pod = { containers: [{ name: 'web', image: 'busybox:test', ports: [{ containerPort: 80 }] }] };
const service = { selector: { app: 'web' }, ports: [{ port: 80 }] };

// biome-ignore lint/suspicious/noExplicitAny: whatever kind of object the test looks at.
type Any = any;
const get = async (path: string): Promise<Any> => {
  const { status, body } = await cluster.request<ClusterObject>('GET', path);
  return status === 200 ? body : undefined;
};
const podPath = (name: string) => `/api/v1/namespaces/default/pods/${name}`;
const servicePath = (name: string) => `/api/v1/namespaces/default/services/${name}`;
const image = (object: Any): string => object?.spec?.containers?.[0]?.image;

test("an object of the same name that is somebody else's is left alone, and whose it is is said", async (t) => {
  await cluster.kubectl(['run', 'foreign', '--image=theirs:1', '--labels=team=blue']);
  const before = await get(podPath('foreign'));
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Pod', 'foreign', pod);
  const status = await bed.shows<PodStatus>(uid, 'a conflict', ({ reason }) => reason === 'Conflict');
  t.is(status.phase, PodPhase.FAILED);
  t.regex(status.message, /not made by Baykeeper/);
  t.regex(status.message, /kubectl-run owns .*metadata\.labels\.team.*spec\.containers\[name="foreign"\]/);
  t.regex(status.message, /adopt/);
  t.truthy(status.retryTime);
  bed.delete(uid);
  await bed.removed(uid);
  t.deepEqual(await get(podPath('foreign')), before);
});

test('it is applied soon after what had its name is gone', async (t) => {
  await cluster.kubectl(['run', 'passing', '--image=theirs:1']);
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Pod', 'passing', pod);
  await bed.shows<PodStatus>(uid, 'a conflict', ({ reason }) => reason === 'Conflict');
  await cluster.kubectl(['label', 'pod', 'passing', 'team=blue']);
  t.is((bed.status(uid) as PodStatus).reason, 'Conflict');
  await cluster.kubectl(['delete', 'pod', 'passing', '--now']);
  await bed.shows<PodStatus>(uid, 'it is applied', ({ clusterUid }) => clusterUid !== '', 5_000);
  t.is(image(await get(podPath('passing'))), 'busybox:test');
});

test('it is taken over when that is asked for, in place where the cluster allows it', async (t) => {
  await cluster.kubectl(['create', 'service', 'clusterip', 'adopted', '--tcp=80:8080']);
  await cluster.kubectl(['label', 'service', 'adopted', 'team=blue']);
  const before = await get(servicePath('adopted'));
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Service', 'adopted', service, { adopt: true });
  await bed.applied(uid);
  const after = await get(servicePath('adopted'));
  t.is(after.metadata.uid, before.metadata.uid);
  t.is(after.spec.clusterIP, before.spec.clusterIP);
  t.is(after.spec.selector.app, 'web');
  t.is(after.metadata.labels.team, 'blue');
  t.is(after.metadata.labels['baykeeper.io/uid'], uid);
  t.true(after.spec.ports.some(({ port }: Any) => port === 80));
});

test('a pod is taken over by another one in its place where the cluster will not change it', async (t) => {
  await cluster.kubectl(['run', 'adopted', '--image=theirs:1']);
  const before = await get(podPath('adopted'));
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Pod', 'adopted', pod, { adopt: true });
  await bed.applied(uid);
  const after = await get(podPath('adopted'));
  t.not(after.metadata.uid, before.metadata.uid);
  t.is(image(after), 'busybox:test');
});

test('what another bay has made is a conflict, too', async (t) => {
  const other = new ClusterBed(t, cluster);
  await other.applied(other.put('Service', 'of-another-bay', service));
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Service', 'of-another-bay', service);
  const status = await bed.shows<ServiceStatus>(uid, 'a conflict', ({ reason }) => reason === 'Conflict');
  t.regex(status.message, new RegExp(`belongs to another bay \\(${other.bayUid}\\)`));
});

test('who takes our labels away makes it his own', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Service', 'taken', service);
  await bed.applied(uid);
  await cluster.kubectl(['label', 'service', 'taken', 'baykeeper.io/uid-', 'baykeeper.io/bay-']);
  const status = await bed.shows<ServiceStatus>(uid, 'a conflict', ({ reason }) => reason === 'Conflict');
  t.regex(status.message, /adopt/);
  bed.delete(uid);
  await bed.removed(uid);
  t.truthy(await get(servicePath('taken')));
});
