import type { JsonObject } from '@bufbuild/protobuf';
import test from 'ava';
import { ClusterBed, type ObjectInput, putAssignment } from '../../test/harness/cluster_bed.ts';
import { startAdmissionWebhook } from '../../test/harness/kubernetes/admission_webhook.ts';
import { type Kubernetes, startKubernetes } from '../../test/harness/kubernetes/cluster.ts';
import { until } from '../../test/harness/until.ts';
import type { ClusterObject } from '../drivers/cluster_driver.ts';
import { StreamError, type Verdict } from '../ports.ts';

/** What the cluster would say, with nothing done. */

let cluster: Kubernetes;
test.before(async () => {
  cluster = await startKubernetes();
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const pod = (value = '1', extra: JsonObject = {}): JsonObject => ({
  containers: [{ name: 'web', image: 'busybox:test', env: [{ name: 'A', value }], ...extra }],
  terminationGracePeriodSeconds: 0,
});
const service = (extra: JsonObject = {}): JsonObject => ({ selector: { app: 'web' }, ports: [{ port: 80 }], ...extra });

const check = async (bed: ClusterBed, ...args: Parameters<typeof putAssignment>): Promise<Verdict> => {
  const half = bed.workloads.cluster;
  if (!half) throw new Error('no cluster');
  return await half.check(putAssignment(...args));
};
const exists = async (path: string) => (await cluster.request<ClusterObject>('GET', path)).status === 200;
// biome-ignore lint/suspicious/noExplicitAny: whatever kind of object the test looks at.
const of = (object: JsonObject | undefined): any => object;

test('a new object: as it would be, with what the cluster fills in, and it is not made', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const { refusal, live, merged } = await check(bed, 'Pod', 'new', pod());
  t.is(refusal, undefined);
  t.is(live, undefined);
  t.is(of(merged).metadata.name, 'new');
  t.is(of(merged).spec.restartPolicy, 'Always');
  for (const noise of ['managedFields', 'resourceVersion', 'uid', 'creationTimestamp', 'annotations']) {
    t.false(noise in of(merged).metadata, noise);
  }
  t.false(await exists('/api/v1/namespaces/default/pods/new'));
});

test('a change: as it is and as it would be, and nothing else differs', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Service', 'changing', service());
  await bed.applied(uid);
  const input: ObjectInput = { uid };
  const same = await check(bed, 'Service', 'changing', service(), input);
  t.deepEqual(same.merged, same.live);
  const { live, merged } = await check(bed, 'Service', 'changing', service({ sessionAffinity: 'ClientIP' }), input);
  const { sessionAffinity: before, sessionAffinityConfig: _a, ...restBefore } = of(live).spec;
  const { sessionAffinity: after, sessionAffinityConfig: _b, ...restAfter } = of(merged).spec;
  t.deepEqual([before, after], ['None', 'ClientIP']);
  t.deepEqual(restAfter, restBefore);
  t.deepEqual(of(merged).metadata, of(live).metadata);
});

test('a change that needs another object: as that would be', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Pod', 'replacing', pod('1'));
  await bed.applied(uid);
  const { refusal, live, merged } = await check(bed, 'Pod', 'replacing', pod('2'), { uid });
  t.is(refusal, undefined);
  t.is(of(live).spec.containers[0].env[0].value, '1');
  t.is(of(merged).spec.containers[0].env[0].value, '2');
  t.is(of(merged).metadata.name, 'replacing');
  const bad = await check(bed, 'Pod', 'replacing', pod('2', { ports: [{ containerPort: 0 }] }), { uid });
  t.is(bad.refusal?.reason, 'Invalid');
  t.is(bad.merged, undefined);
  t.is((await bed.applied(uid)).delivery?.appliedGeneration, 1n);
});

test('what is wrong is refused with its path, in the words of the cluster', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const missing = await check(bed, 'Pod', 'wrong', { containers: [{ name: 'web' }] });
  t.like(missing.refusal, { code: 3, reason: 'Invalid', field: 'spec.containers[0].image' });
  t.regex(missing.refusal?.message ?? '', /Required value/);
  const unknown = await check(bed, 'Pod', 'wrong', { ...pod(), nonsense: true });
  t.is(unknown.refusal?.reason, 'Invalid');
  t.regex(unknown.refusal?.message ?? '', /nonsense/);
});

test("somebody else's object is a conflict, unless it is to be taken over", async (t) => {
  await cluster.kubectl(['create', 'service', 'clusterip', 'theirs', '--tcp=80:8080']);
  const bed = new ClusterBed(t, cluster);
  const { refusal, live, merged } = await check(bed, 'Service', 'theirs', service());
  t.like(refusal, { code: 6, reason: 'Conflict' });
  t.regex(refusal?.message ?? '', /not made by Baykeeper.*kubectl-create owns/);
  t.is(of(live).metadata.name, 'theirs');
  t.is(merged, undefined);
  const taken = await check(bed, 'Service', 'theirs', service(), { adopt: true });
  t.is(taken.refusal, undefined);
  t.is(of(taken.merged).spec.selector.app, 'web');
});

test('a namespace that is missing is a refusal, unless it is to be made', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const { refusal } = await check(bed, 'Pod', 'web', pod(), { namespace: 'missing' });
  t.is(refusal?.reason, 'NamespaceNotFound');
  const input = { namespace: 'missing', createNamespace: true };
  const made = await check(bed, 'Pod', 'web', pod(), input);
  t.is(made.refusal, undefined);
  t.like(of(made.merged).metadata, { name: 'web', namespace: 'missing' });
  t.is(of(made.merged).spec.restartPolicy, 'Always');
  const bad = await check(bed, 'Pod', 'web', { containers: [] }, input);
  t.is(bad.refusal?.reason, 'Invalid');
  const name = await check(bed, 'Pod', 'web', pod(), { namespace: 'x'.repeat(64), createNamespace: true });
  t.is(name.refusal?.reason, 'Invalid');
  t.false(await exists('/api/v1/namespaces/missing'));
});

test.serial('a webhook has its say', async (t) => {
  await using _ = await startAdmissionWebhook(cluster, {
    review: ({ object }) =>
      object?.metadata?.labels?.team ? { allowed: true } : { allowed: false, message: 'every object needs a team' },
  });
  const bed = new ClusterBed(t, cluster);
  const { refusal } = await check(bed, 'Pod', 'teamless', pod());
  t.is(refusal?.reason, 'AdmissionDenied');
  t.regex(refusal?.message ?? '', /every object needs a team/);
  t.is((await check(bed, 'Pod', 'teamed', pod(), { labels: { team: 'blue' } })).refusal, undefined);
});

test.serial('a cluster that is away says nothing about an object, and that is said', async (t) => {
  const bed = new ClusterBed(t, cluster);
  await until('it leads', () => bed.leads);
  await cluster.stopApiServer();
  try {
    const error = await t.throwsAsync(check(bed, 'Pod', 'web', pod()), { instanceOf: StreamError });
    t.is((error as StreamError).kind, 'engine-unavailable');
  } finally {
    await cluster.startApiServer();
  }
});
