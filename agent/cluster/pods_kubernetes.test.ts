import { create } from '@bufbuild/protobuf';
import test, { type ExecutionContext } from 'ava';
import { ConditionStatus, NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { PodPhase, type PodStatus } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { ExecutePodStartSchema, PodLogsRequestSchema } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import {
  ReplicationControllerPhase,
  type ReplicationControllerStatus,
} from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import type { ServiceStatus } from '../../proto/gen/baykeeper/v1/service_pb.js';
import { ClusterBed } from '../../test/harness/cluster_bed.ts';
import { type Kubernetes, startKubernetes } from '../../test/harness/kubernetes/cluster.ts';
import { until } from '../../test/harness/until.ts';
import { StreamError, type StreamSink } from '../ports.ts';

/** On a whole cluster: pods really run, controllers really make them, endpoints are filled in, namespaces really end. */

let cluster: Kubernetes;
test.before(async () => {
  cluster = await startKubernetes({ nodes: ['node-1'] });
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const patience = 60_000;
const container = (name: string, script: string, extra = {}) => ({
  name,
  image: 'busybox:test',
  imagePullPolicy: 'Never',
  command: ['sh', '-c', script],
  ...extra,
});
const loop = 'trap "exit 0" TERM; while true; do sleep 0.1; done';
const pod = (...containers: object[]) => ({ containers, terminationGracePeriodSeconds: 2 }) as never;

class Sink implements StreamSink {
  out = '';
  err = '';
  result: { readonly exitCode?: number; readonly error?: string } | undefined;
  async stdout(data: Uint8Array) {
    this.out += Buffer.from(data).toString();
  }
  async stderr(data: Uint8Array) {
    this.err += Buffer.from(data).toString();
  }
  end(result: NonNullable<Sink['result']>) {
    this.result = result;
  }
}

const clusterOf = (bed: ClusterBed) => {
  const { cluster: half } = bed.workloads;
  if (!half) throw new Error('no cluster');
  return half;
};

async function logs(bed: ClusterBed, uid: string, request: Parameters<typeof create<typeof PodLogsRequestSchema>>[1]) {
  const sink = new Sink();
  await clusterOf(bed).openPodLogs(uid, create(PodLogsRequestSchema, request), sink);
  await until('the log ends', () => sink.result);
  return sink;
}

async function execute(
  bed: ClusterBed,
  uid: string,
  start: Parameters<typeof create<typeof ExecutePodStartSchema>>[1],
  input?: string,
) {
  const sink = new Sink();
  const stream = await clusterOf(bed).openPodExecute(uid, create(ExecutePodStartSchema, start), sink);
  if (input !== undefined) {
    await stream.write(Buffer.from(input));
    stream.endInput();
  }
  await until('the command ends', () => sink.result);
  return sink;
}

const refused = async (t: ExecutionContext, call: Promise<unknown>, kind: StreamError['kind'], message: RegExp) => {
  const error = await t.throwsAsync(call, { instanceOf: StreamError });
  t.is((error as StreamError).kind, kind);
  t.regex(error?.message ?? '', message);
};

test('a pod runs, and its status, events, log and commands come through', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Pod', 'runs', pod(container('web', `echo hello from web; ${loop}`)), {
    labels: { app: 'runs' },
  });
  const status = await bed.shows<PodStatus>(
    uid,
    'it runs',
    ({ phase, containersReady }) => phase === PodPhase.RUNNING && containersReady === 1,
    patience,
  );
  t.is(status.clusterNode, 'node-1');
  t.truthy(status.podIp);
  t.is(status.containers, 1);
  t.is(status.restarts, 0);
  t.is(status.reason, '');
  t.is(status.manifest?.phase, 'Running');
  const withEvents = await bed.shows<PodStatus>(uid, 'events', ({ events }) =>
    events.some(({ reason }) => reason === 'Started'),
  );
  // Their times are whole seconds: which of two in one second was first, the cluster does not tell.
  const reasons = new Set(withEvents.events.map(({ reason }) => reason));
  for (const reason of ['Scheduled', 'Created', 'Started']) t.true(reasons.has(reason), reason);
  t.is(withEvents.events.find(({ reason }) => reason === 'Started')?.source, 'kubelet');
  t.is((await logs(bed, uid, {})).out, 'hello from web\n');
  const run = await execute(bed, uid, { command: ['sh', '-c', 'cat; echo bad >&2; exit 3'], stdin: true }, 'in');
  t.deepEqual([run.out, run.err, run.result?.exitCode], ['in', 'bad\n', 3]);

  await refused(t, logs(bed, uid, { container: 'db' }), 'invalid', /db.*web/s);
  await refused(t, logs(bed, uid, { previous: true }), 'not-running', /previous/);
  await refused(t, logs(bed, 'unknown', {}), 'not-found', /no such pod/);
  await refused(t, execute(bed, uid, { command: [] }), 'invalid', /no command/);

  bed.delete(uid);
  await bed.shows<PodStatus>(
    uid,
    'it ends',
    ({ phase, message }) => phase === PodPhase.DELETING && /grace period of 2 s/.test(message),
  );
  await until('it is removed', () => bed.isRemoved(uid), { timeoutMs: patience });
});

test('of several containers one is chosen, and the log of the run before is there', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put(
    'Pod',
    'several',
    pod(container('first', `echo first; ${loop}`), container('second', 'echo second; sleep 1; exit 5')),
    { annotations: { 'kubectl.kubernetes.io/default-container': 'second' } },
  );
  const status = await bed.shows<PodStatus>(uid, 'it was started again', ({ restarts }) => restarts > 0, patience);
  t.is(status.containers, 2);
  t.is((await logs(bed, uid, { container: 'first' })).out, 'first\n');
  t.is((await logs(bed, uid, { previous: true })).out, 'second\n');
  const failing = await bed.shows<PodStatus>(
    uid,
    'it says why',
    ({ reason }) => reason === 'CrashLoopBackOff',
    patience,
  );
  t.is(failing.phase, PodPhase.RUNNING);
  t.regex(failing.message, /^container second: back-off/);
  bed.delete(uid);
});

test('an image that is not there is said in the words of the cluster', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Pod', 'no-image', pod({ ...container('web', loop), image: 'missing:1' }));
  const status = await bed.shows<PodStatus>(
    uid,
    'it says so',
    ({ reason }) => reason === 'ErrImageNeverPull',
    patience,
  );
  t.is(status.phase, PodPhase.PENDING);
  t.regex(status.message, /missing:1/);
  await refused(t, logs(bed, uid, {}), 'not-running', /web/);
  bed.delete(uid);
});

test('a controller makes its pods, a service leads to them, and both go with what they made', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const template = {
    metadata: { labels: { app: 'kept' } },
    spec: pod(container('web', loop, { ports: [{ containerPort: 80 }] })),
  };
  const controller = (replicas: number) => ({ replicas, selector: { app: 'kept' }, template });
  const front = bed.put('Service', 'kept', { selector: { app: 'kept' }, ports: [{ port: 80 }] });
  const uid = bed.put('ReplicationController', 'kept', controller(2));
  const status = await bed.shows<ReplicationControllerStatus>(
    uid,
    'two are ready',
    ({ replicasReady }) => replicasReady === 2,
    patience,
  );
  t.is(status.phase, ReplicationControllerPhase.RUNNING);
  t.like(status, { replicasWanted: 2, replicas: 2, message: '' });
  const leads = await bed.shows<ServiceStatus>(
    front,
    'endpoints',
    ({ endpointsReady }) => endpointsReady.length === 2,
    patience,
  );
  t.true(leads.endpointsReady.every((one) => /^\d+\.\d+\.\d+\.\d+:80$/.test(one)));
  t.true((bed.status(uid) as ReplicationControllerStatus).events.some(({ reason }) => reason === 'SuccessfulCreate'));
  // Its pods are its own, and none of ours.
  t.is(bed.workloads.snapshot().length, 2);

  bed.change(uid, controller(1));
  await bed.shows<ReplicationControllerStatus>(
    uid,
    'one is left',
    ({ replicas, replicasWanted }) => replicas === 1 && replicasWanted === 1,
    patience,
  );
  bed.delete(uid);
  await bed.shows(
    uid,
    'it waits for its pod',
    ({ message }) => /waiting for its (pod|\d pods)/.test(message),
    patience,
  );
  await until('it is removed', () => bed.isRemoved(uid), { timeoutMs: patience });
  t.is((await cluster.kubectl(['get', 'pods', '-l', 'app=kept', '-o', 'name'])).trim(), '');
  bed.delete(front);
  await bed.removed(front);
});

test('a namespace is made for the first object, and removed after the last', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const there = async () => (await cluster.request('GET', '/api/v1/namespaces/made')).status === 200;
  const input = { namespace: 'made', createNamespace: true };
  const web = bed.put('Pod', 'web', pod(container('web', loop)), input);
  const front = bed.put('Service', 'web', { ports: [{ port: 80 }], selector: { app: 'web' } }, input);
  await bed.shows<PodStatus>(web, 'it runs', ({ phase }) => phase === PodPhase.RUNNING, patience);
  await bed.applied(front);
  bed.delete(front);
  await bed.removed(front);
  t.true(await there());
  // Somebody else uses it.
  await cluster.kubectl(['create', 'configmap', 'theirs', '-n', 'made']);
  bed.delete(web);
  await until('it is removed', () => bed.isRemoved(web), { timeoutMs: patience });
  const marker = bed.put('Service', 'marker', { ports: [{ port: 80 }] }, input);
  await bed.applied(marker);
  await cluster.kubectl(['delete', 'configmap', 'theirs', '-n', 'made']);
  bed.delete(marker);
  await bed.removed(marker);
  await until('the namespace is gone', async () => !(await there()), { timeoutMs: patience });
  // One that was there before us stays.
  await cluster.kubectl(['create', 'namespace', 'theirs']);
  const guest = bed.put('Service', 'guest', { ports: [{ port: 80 }] }, { namespace: 'theirs', createNamespace: true });
  await bed.applied(guest);
  bed.delete(guest);
  await bed.removed(guest);
  await bed.applied(bed.put('Service', 'last', { ports: [{ port: 80 }] }, input));
  t.is((await cluster.request('GET', '/api/v1/namespaces/theirs')).status, 200);
});

test.serial('the nodes of the bay are those of the cluster, as they come, change and go', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const report = await until('the node is reported', () => bed.reports.nodes.get('node-1'));
  const { status } = report;
  t.is(status?.phase, NodePhase.READY);
  t.is(status?.conditions.find(({ type }) => type === 'Ready')?.status, ConditionStatus.TRUE);
  t.deepEqual(status?.cluster?.roles, ['worker']);
  t.truthy(status?.cluster?.capacity.cpu);
  t.is(status?.cluster?.kubeletVersion, status?.info?.engineVersion);
  t.regex(status?.cluster?.containerRuntime ?? '', /^docker:\/\//);
  t.true(Number(status?.info?.memoryBytes) > 2 ** 20);
  t.is(status?.info?.addresses.length, 1);
  t.is(bed.workloads.cluster?.nodes()?.length, 1);

  await cluster.kubectl(['cordon', 'node-1']);
  await cluster.kubectl(['label', 'node', 'node-1', 'node-role.kubernetes.io/master=']);
  const changed = await until('the change is reported', () => {
    const { cluster: now } = bed.reports.nodes.get('node-1')?.status ?? {};
    return now?.unschedulable && now.roles[0] === 'control-plane' && now;
  });
  t.deepEqual(changed.roles, ['control-plane']);
  await cluster.kubectl(['uncordon', 'node-1']);
  const node = { apiVersion: 'v1', kind: 'Node', metadata: { name: 'paper' } };
  await cluster.kubectl(['create', '-f', '-'], { input: JSON.stringify(node) });
  const paper = await until('it is reported', () => bed.reports.nodes.get('paper'));
  t.is(paper.status?.phase, NodePhase.NOT_READY);
  await cluster.kubectl(['delete', 'node', 'paper']);
  await until('it is gone', () => !bed.reports.nodes.has('paper'));
});
