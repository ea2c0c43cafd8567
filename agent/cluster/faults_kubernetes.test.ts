import { copyFile } from 'node:fs/promises';
import test from 'ava';
import { NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { PodPhase, type PodStatus } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { ClusterBed } from '../../test/harness/cluster_bed.ts';
import { startKubernetes } from '../../test/harness/kubernetes/cluster.ts';
import { until } from '../../test/harness/until.ts';
import type { ClusterObject } from '../drivers/cluster_driver.ts';

/** A cluster that goes away, throttles, forgets or loses its memory. */

const pod = { containers: [{ name: 'web', image: 'busybox:test' }] };
const service = { selector: { app: 'web' }, ports: [{ port: 80 }] };
const everyUid = (bed: ClusterBed, uids: readonly string[]) => () =>
  uids.every((uid) => bed.status(uid)?.delivery?.appliedGeneration === 1n);

test.serial('an API server that is killed in the middle of many applies costs nothing but the time', async (t) => {
  await using cluster = await startKubernetes();
  const names = async () => {
    const { body } = await cluster.request<{ items: ClusterObject[] }>('GET', '/api/v1/namespaces/default/pods');
    return body.items.map(({ metadata }) => metadata.name).sort();
  };
  // It leads through all of it: of what comes while nobody does, nobody says a word.
  const lease = { leaseDurationMs: 600_000, renewDeadlineMs: 400_000, retryPeriodMs: 250 };
  const bed = new ClusterBed(t, cluster, { lease });
  const kept = bed.put('Service', 'kept', service);
  await bed.applied(kept);
  const uids = Array.from({ length: 300 }, (_, i) => bed.put('Pod', `mid-${i}`, pod));
  await until(
    'some are applied',
    () => uids.filter((uid) => bed.status(uid)?.delivery?.appliedGeneration === 1n).length > 30,
  );
  await cluster.killApiServer();
  const late = bed.put('Pod', 'while-away', pod);
  const status = await bed.shows<PodStatus>(late, 'it says why', ({ reason }) => reason === 'ClusterUnavailable');
  t.is(status.phase, PodPhase.PENDING);
  t.is(status.delivery?.observedGeneration, 0n);
  const node = await bed.workloads.nodeStatus();
  t.is(node.phase, NodePhase.NOT_READY);
  t.is(node.reason, 'ClusterUnavailable');
  t.is(node.info?.engine, 'kubernetes');
  // Others keep their last word.
  t.is(bed.status(kept)?.reason, '');
  // The watches hear of it by themselves.
  await until('its watches say so, too', async () => {
    const { conditions } = await bed.workloads.nodeStatus();
    return conditions.find(({ type }) => type === 'ClusterWatched')?.reason === 'ClusterUnavailable';
  });
  await cluster.startApiServer();
  await until('all are applied', everyUid(bed, [...uids, late]), { timeoutMs: 60_000 });
  t.is((await names()).length, uids.length + 1);
  await until('the node is well', async () => (await bed.workloads.nodeStatus()).phase === NodePhase.READY);
});

test.serial('a cluster whose etcd is put back to an older state is made what it should be again', async (t) => {
  await using cluster = await startKubernetes();
  const get = async (path: string) => {
    const { status, body } = await cluster.request<ClusterObject>('GET', `/api/v1/namespaces/default/${path}`);
    // biome-ignore lint/suspicious/noExplicitAny: whatever kind of object the test looks at.
    return status === 200 ? (body as any) : undefined;
  };
  const bed = new ClusterBed(t, cluster);
  const changed = bed.put('Service', 'changed', service);
  const removed = bed.put('Service', 'removed', service);
  await bed.applied(changed);
  await bed.applied(removed);
  const snapshot = await cluster.etcdSnapshot();
  const made = bed.put('Service', 'made', service);
  bed.change(changed, { ...service, sessionAffinity: 'ClientIP' });
  bed.delete(removed);
  await bed.applied(made);
  await bed.applied(changed);
  await bed.removed(removed);
  bed.desired.drop(removed);
  await until('its grave is closed', () => bed.desired.current.graves.size === 0);
  await cluster.etcdRestore(snapshot);
  await until(
    'what was made after it is made again, what was changed is changed, what was removed is gone',
    async () =>
      (await get('services/made')) !== undefined &&
      (await get('services/changed'))?.spec.sessionAffinity === 'ClientIP' &&
      (await get('services/removed')) === undefined,
    { timeoutMs: 60_000 },
  );
  const after = bed.put('Service', 'after', service);
  await bed.applied(after);
  t.is(await get('services/removed'), undefined);
});

test.serial('every revision that the agent knows expires, and it goes on', async (t) => {
  await using cluster = await startKubernetes();
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Service', 'watched', service);
  await bed.applied(uid);
  await cluster.expireRevisions();
  const change = JSON.stringify({ spec: { selector: { app: 'somebody' } } });
  await cluster.kubectl(['patch', 'service', 'watched', '--type=merge', '-p', change]);
  await until('it is mended', async () => {
    const path = '/api/v1/namespaces/default/services/watched';
    // biome-ignore lint/suspicious/noExplicitAny: a service.
    const { body } = await cluster.request<any>('GET', path);
    return body.spec.selector.app === 'web';
  });
  t.is((await bed.applied(uid)).reason, '');
});

test.serial('a cluster that throttles gets everything in the end, and says so meanwhile', async (t) => {
  await using cluster = await startKubernetes({
    apiServerFlags: {
      'max-mutating-requests-inflight': '1',
      'max-requests-inflight': '8',
      'enable-priority-and-fairness': 'false',
    },
  });
  // Members of system:masters are never throttled.
  const kubeconfig = await cluster.user('throttled', ['throttled']);
  await cluster.kubectl([
    'create',
    'clusterrolebinding',
    'throttled',
    '--clusterrole=cluster-admin',
    '--group=throttled',
  ]);
  const bed = new ClusterBed(t, cluster, { kubeconfig });
  await until('it leads', () => bed.leads, { timeoutMs: 40_000 });
  const uids = Array.from({ length: 200 }, (_, i) => bed.put('Service', `throttled-${i}`, { ports: [{ port: 80 }] }));
  await until('all are applied', everyUid(bed, uids), { timeoutMs: 90_000 });
  const reasons = bed.reports.all.flatMap(({ status }) => (status.case === 'service' ? [status.value.reason] : []));
  t.true(reasons.includes('Throttled'), [...new Set(reasons)].join(', '));
});

test.serial('a namespace that is stuck in its deletion holds up its own objects, and no others', async (t) => {
  await using cluster = await startKubernetes();
  const bed = new ClusterBed(t, cluster);
  await bed.applied(bed.put('Service', 'first', service, { namespace: 'stuck', createNamespace: true }));
  // Nobody finishes it here.
  await cluster.kubectl(['delete', 'namespace', 'stuck', '--wait=false']);
  const uid = bed.put('Service', 'second', service, { namespace: 'stuck', createNamespace: true });
  await bed.applied(bed.put('Service', 'elsewhere', service));
  const status = await bed.shows(uid, 'it says so', ({ reason }) => reason === 'NamespaceTerminating');
  t.regex(status.message, /because it is being terminated/);
  t.truthy(status.retryTime);
});

test.serial('credentials that are refused are a condition, and used again once they are good', async (t) => {
  await using cluster = await startKubernetes();
  const kubeconfig = await cluster.writeKubeconfig({ user: { token: 'wrong' } });
  const bed = new ClusterBed(t, cluster, { kubeconfig });
  const uid = bed.put('Service', 'waits', service);
  const node = await until('it says so', async () => {
    const status = await bed.workloads.nodeStatus();
    return status.reason === 'Unauthorized' && status;
  });
  t.is(node.phase, NodePhase.NOT_READY);
  t.false(bed.leads);
  const lease = await until('the lease, too', async () => {
    const { conditions } = await bed.workloads.nodeStatus();
    return conditions.find(({ type }) => type === 'LeaderElected');
  });
  t.is(lease.reason, 'Unauthorized');
  await copyFile(cluster.kubeconfig, kubeconfig);
  await bed.applied(uid);
  t.is((await bed.workloads.nodeStatus()).phase, NodePhase.READY);
});
