import { create, type JsonObject, type MessageInitShape } from '@bufbuild/protobuf';
import test from 'ava';
import { PodPhase, type PodStatus } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { ExecutePodStartSchema } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import {
  ReplicationControllerPhase,
  type ReplicationControllerStatus,
} from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ClusterBed, putAssignment } from '../../test/harness/cluster_bed.ts';
import { startAdmissionWebhook } from '../../test/harness/kubernetes/admission_webhook.ts';
import { type Kubernetes, startKubernetes } from '../../test/harness/kubernetes/cluster.ts';
import { until } from '../../test/harness/until.ts';
import type { ClusterObject } from '../drivers/cluster_driver.ts';
import { StreamError } from '../ports.ts';

/** What the owner of the nodes forbids, on a whole cluster: its controllers make pods, and its node runs them. */

let cluster: Kubernetes;
test.before(async () => {
  cluster = await startKubernetes({ nodes: ['node-1'] });
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const container = { name: 'web', image: 'busybox:test', imagePullPolicy: 'Never', command: ['sleep', '1000'] };
const pod = (): JsonObject => ({ containers: [container], terminationGracePeriodSeconds: 0 });
const controller = (spec: JsonObject): JsonObject => ({
  replicas: 1,
  selector: { app: 'web' },
  template: { metadata: { labels: { app: 'web' } }, spec },
});

// biome-ignore lint/suspicious/noExplicitAny: whatever kind of object the test looks at.
type Any = any;
const get = async (path: string): Promise<Any> => {
  const { status, body } = await cluster.request<ClusterObject>('GET', path);
  return status === 200 ? body : undefined;
};
const pathOf = (kind: 'pods' | 'services' | 'replicationcontrollers', name: string) =>
  `/api/v1/namespaces/default/${kind}/${name}`;

test('what the node forbids is not made, is taken away where it is, and comes back once it is allowed', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const onHost = { ...pod(), hostNetwork: true };
  const keeper = bed.put('ReplicationController', 'forbidden', controller(onHost));
  const web = bed.put('Pod', 'forbidden', pod());
  await Promise.all([bed.applied(keeper), bed.applied(web)]);
  bed.policy.set({ hostNetwork: 'forbid' });
  await until('it is gone', async () => (await get(pathOf('replicationcontrollers', 'forbidden'))) === undefined);
  const refused = () => bed.status(keeper) as ReplicationControllerStatus | undefined;
  await until('that is said', () => refused()?.phase === ReplicationControllerPhase.FAILED);
  t.like(refused(), { reason: 'ForbiddenByPolicy', delivery: { observedGeneration: 1n, appliedGeneration: 0n } });
  t.regex(refused()?.message ?? '', /forbids this: spec\.template\.spec\.hostNetwork: the host's network \(true\)$/);
  t.truthy(await get(pathOf('pods', 'forbidden')));

  // A change of a pod to something forbidden leaves the pod that is there.
  bed.change(web, onHost);
  await until('refused', () => bed.status(web)?.reason === 'ForbiddenByPolicy');
  t.falsy((await get(pathOf('pods', 'forbidden'))).spec.hostNetwork);
  const verdict = await bed.workloads.cluster?.check(putAssignment('Pod', 'forbidden-2', onHost));
  t.like(verdict?.refusal, { code: 7, reason: 'ForbiddenByPolicy', field: 'spec.hostNetwork' });

  bed.policy.set({});
  await Promise.all([bed.applied(keeper), bed.applied(web)]);
  t.true((await get(pathOf('replicationcontrollers', 'forbidden'))).spec.template.spec.hostNetwork);
});

test('ports of the nodes are refused but for those in the list, of pods and of services', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const ports = (nodePort: number) => ({ type: 'NodePort', selector: { app: 'x' }, ports: [{ port: 80, nodePort }] });
  const onPort = (hostPort: number) => ({
    ...pod(),
    containers: [{ ...container, ports: [{ containerPort: 80, hostPort }] }],
  });
  const [open, shut] = [bed.put('Service', 'open', ports(30_444)), bed.put('Service', 'shut', ports(30_555))];
  await Promise.all([bed.applied(open), bed.applied(shut)]);
  bed.policy.set({ hostPorts: [8080, '30400-30499'] });
  await until('it is gone', async () => (await get(pathOf('services', 'shut'))) === undefined);
  await until('that is said', () => bed.status(shut)?.reason === 'ForbiddenByPolicy');
  t.regex(
    bed.status(shut)?.message ?? '',
    /spec\.ports\[0\]\.nodePort: the port 30555 of the node; allowed: 8080 30400-30499$/,
  );
  t.truthy(await get(pathOf('services', 'open')));

  const [allowed, forbidden] = [bed.put('Pod', 'port-8080', onPort(8080)), bed.put('Pod', 'port-8081', onPort(8081))];
  await bed.applied(allowed);
  const refused = await bed.shows<PodStatus>(forbidden, 'refused', ({ reason }) => reason === 'ForbiddenByPolicy');
  t.regex(refused.message, /spec\.containers\[0\]\.ports\[0\]\.hostPort: the port 8081 of the node/);
  t.is(await get(pathOf('pods', 'port-8081')), undefined);

  bed.policy.set({});
  await Promise.all([bed.applied(shut), bed.applied(forbidden)]);
});

function execute(
  { workloads: { cluster } }: ClusterBed,
  uid: string,
  start: MessageInitShape<typeof ExecutePodStartSchema>,
) {
  const sink = { stdout: async () => undefined, stderr: async () => undefined, end: () => undefined };
  if (!cluster) throw new Error('no cluster');
  return cluster.openPodExecute(uid, create(ExecutePodStartSchema, start), sink);
}

test('no command goes into a pod that is forbidden, and it has no longer than half a minute to end', async (t) => {
  const bed = new ClusterBed(t, cluster);
  // As the first process of its container, `sleep` does not hear that it is asked to end.
  const slow = bed.put('Pod', 'slow', { ...pod(), hostPID: true, terminationGracePeriodSeconds: 600 });
  await bed.shows<PodStatus>(slow, 'it runs', ({ phase }) => phase === PodPhase.RUNNING, 60_000);
  (await execute(bed, slow, { command: ['true'] })).close();
  const template = { ...pod(), hostPID: true, terminationGracePeriodSeconds: 600 };
  const keeper = bed.put('ReplicationController', 'slow', keeping('slow', template));
  await until('both are there', async () => (await podsOf('slow')).length === 2);
  const [one, two] = (await podsOf('slow')).map(({ metadata }) => metadata.name);
  bed.policy.set({ hostPID: 'forbid' });
  await until('it ends', async () => (await get(pathOf('pods', 'slow')))?.metadata.deletionTimestamp !== undefined);
  const error = await t.throwsAsync(execute(bed, slow, { command: ['true'] }), { instanceOf: StreamError });
  t.like(error, { kind: 'forbidden' });
  t.regex(error.message, /forbids this: spec\.hostPID: the host's processes/);
  t.is((await get(pathOf('pods', 'slow'))).metadata.deletionGracePeriodSeconds, 30);
  await until('the controller is gone', () => bed.status(keeper)?.reason === 'ForbiddenByPolicy');
  for (const name of [one, two]) {
    await until(`${name} does not take longer`, async () => {
      const left = await get(pathOf('pods', name));
      return left === undefined || left.metadata.deletionGracePeriodSeconds <= 30;
    });
    await cluster.request('DELETE', pathOf('pods', name), { body: { gracePeriodSeconds: 0 } });
  }
  await cluster.request('DELETE', pathOf('pods', 'slow'), { body: { gracePeriodSeconds: 0 } });
});

test('what somebody else has made, and is forbidden, is not taken over', async (t) => {
  const theirs = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'theirs' }, spec: { ...pod(), hostPID: true } };
  t.is((await cluster.request('POST', '/api/v1/namespaces/default/pods', { body: theirs })).status, 201);
  const bed = new ClusterBed(t, cluster);
  bed.policy.set({ hostPID: 'forbid' });
  const uid = bed.put('Pod', 'theirs', pod(), { adopt: true });
  const refused = await bed.shows<PodStatus>(uid, 'refused', ({ reason }) => reason === 'ForbiddenByPolicy');
  t.regex(
    refused.message,
    /not taken over: the policy of the node .* forbids this: spec\.hostPID: the host's processes/,
  );
  const verdict = await bed.workloads.cluster?.check(putAssignment('Pod', 'theirs', pod(), { adopt: true }));
  t.like(verdict?.refusal, { code: 7, reason: 'ForbiddenByPolicy' });
  t.is((await get(pathOf('pods', 'theirs'))).metadata.labels, undefined);
  bed.policy.set({});
  await bed.applied(uid);
  t.true((await get(pathOf('pods', 'theirs'))).spec.hostPID);
  // It was taken over in time: what it is counts, and not what is wanted of it.
  bed.policy.set({ hostPID: 'forbid' });
  await until('it is one that is allowed', async () => {
    const found = await get(pathOf('pods', 'theirs'));
    return found !== undefined && !found.spec.hostPID;
  });
  await bed.applied(uid);
  await cluster.request('DELETE', pathOf('pods', 'theirs'), { body: { gracePeriodSeconds: 0 } });
});

const podsOf = async (app: string): Promise<Any[]> =>
  (await get(`/api/v1/namespaces/default/pods?labelSelector=app%3D${app}`)).items.filter(
    ({ metadata }: Any) => metadata.deletionTimestamp === undefined,
  );
const keeping = (app: string, spec: JsonObject): JsonObject => ({
  replicas: 2,
  selector: { app },
  template: { metadata: { labels: { app } }, spec },
});
const uidsOf = (pods: readonly Any[]) => pods.map(({ metadata }) => metadata.uid).sort();

test('pods of an earlier template are ended when they are forbidden, and the controller makes others', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const keeper = bed.put('ReplicationController', 'earlier', keeping('earlier', { ...pod(), hostPID: true }));
  await until('both are there', async () => (await podsOf('earlier')).length === 2);
  const { uid } = (await get(pathOf('replicationcontrollers', 'earlier'))).metadata;
  bed.change(keeper, keeping('earlier', pod()));
  await bed.applied(keeper);
  t.true(
    (await podsOf('earlier')).every(({ spec }) => spec.hostPID),
    'a controller leaves them',
  );
  bed.policy.set({ hostPID: 'forbid' });
  await until('there are others', async () => {
    const pods = await podsOf('earlier');
    return pods.length === 2 && pods.every(({ spec }) => !spec.hostPID);
  });
  t.is((await get(pathOf('replicationcontrollers', 'earlier'))).metadata.uid, uid);
  // The controller itself is well, once the cluster has looked at it again.
  const { events } = await bed.shows<ReplicationControllerStatus>(
    keeper,
    'both ends are told',
    ({ reason, events }) =>
      reason === '' && events.filter((event) => event.reason === 'ForbiddenByPolicy').length === 2,
  );
  const told = events.find((event) => event.reason === 'ForbiddenByPolicy');
  t.regex(told?.message ?? '', /^pod earlier-\w+ was ended: .* forbids this: spec\.hostPID: the host's processes/);
});

test('pods of an earlier template are ended also when a change to something else forbidden is refused', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const keeper = bed.put('ReplicationController', 'two', keeping('two', { ...pod(), hostPID: true }));
  await until('both are there', async () => (await podsOf('two')).length === 2);
  bed.change(keeper, keeping('two', pod()));
  await bed.applied(keeper);
  bed.policy.set({ hostIPC: 'forbid', hostPID: 'forbid' });
  bed.change(keeper, keeping('two', { ...pod(), hostIPC: true }));
  await until('refused', () => bed.status(keeper)?.reason === 'ForbiddenByPolicy');
  await until('there are others', async () => {
    const pods = await podsOf('two');
    return pods.length === 2 && pods.every(({ spec }) => !spec.hostPID && !spec.hostIPC);
  });
  t.truthy(await get(pathOf('replicationcontrollers', 'two')));
});

test('a pod to which the cluster adds what is forbidden stays: the next one would be just like it', async (t) => {
  await using _ = await startAdmissionWebhook(cluster, {
    kind: 'Mutating',
    rules: [{ apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['pods'] }],
    review: ({ object }) => ({
      allowed: true,
      ...(object.metadata.labels?.app?.startsWith('injected') && {
        patch: [
          { op: 'add', path: '/spec/containers/-', value: { ...container, name: 'mesh', image: 'mesh.example/a:1' } },
        ],
      }),
    }),
  });
  const bed = new ClusterBed(t, cluster);
  const keeper = bed.put('ReplicationController', 'injected', keeping('injected', pod()));
  await bed.applied(keeper);
  await until('both are there', async () => (await podsOf('injected')).length === 2);
  const before = uidsOf(await podsOf('injected'));
  t.is((await podsOf('injected'))[0].spec.containers.length, 2);
  bed.policy.set({ images: ['busybox'] });
  // What is applied after it was looked at under the policy that holds now.
  bed.change(keeper, { ...keeping('injected', pod()), replicas: 3 });
  await bed.applied(keeper);
  await until('there is a third', async () => (await podsOf('injected')).length === 3);
  const web = bed.put('Pod', 'injected', pod(), { labels: { app: 'injected-too' } });
  await until(
    'it runs',
    async () => (await get(pathOf('pods', 'injected')))?.status?.containerStatuses?.[1]?.state.running,
  );
  // What the cluster adds is not for its author.
  const command = { command: ['true'] };
  const error = await t.throwsAsync(execute(bed, web, { ...command, container: 'mesh' }), { instanceOf: StreamError });
  t.like(error, { kind: 'forbidden' });
  (await execute(bed, web, { ...command, container: 'web' })).close();
  (await execute(bed, web, command)).close();
  const annotations = { 'kubectl.kubernetes.io/default-container': 'mesh' };
  const other = bed.put('Pod', 'injected-2', pod(), { labels: { app: 'injected-too' }, annotations });
  await bed.applied(other);
  t.like(await t.throwsAsync(execute(bed, other, command), { instanceOf: StreamError }), { kind: 'forbidden' });
  const after = uidsOf(await podsOf('injected'));
  t.true(before.every((uid) => after.includes(uid)));
});
