import test from 'ava';
import type { PodStatus } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import type { ServiceStatus } from '../../proto/gen/baykeeper/v1/service_pb.js';
import { ClusterBed } from '../../test/harness/cluster_bed.ts';
import { startAdmissionWebhook } from '../../test/harness/kubernetes/admission_webhook.ts';
import { type Kubernetes, startKubernetes } from '../../test/harness/kubernetes/cluster.ts';
import { until } from '../../test/harness/until.ts';
import type { ClusterObject } from '../drivers/cluster_driver.ts';

/** Other programs on the same cluster: other writers of the same objects, and webhooks that change or refuse what we apply. */

let cluster: Kubernetes;
test.before(async () => {
  cluster = await startKubernetes({ audit: true });
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const pod = { containers: [{ name: 'web', image: 'busybox:test' }] };
const service = { selector: { app: 'web' }, ports: [{ port: 80 }] };
// biome-ignore lint/suspicious/noExplicitAny: whatever kind of object the test looks at.
type Any = any;
const get = async (kind: 'pods' | 'services', name: string): Promise<Any> =>
  (await cluster.request<ClusterObject>('GET', `/api/v1/namespaces/default/${kind}/${name}`)).body;

/** What this agent has asked to be changed so far, but for its lease. */
const writes = async (agent: string) =>
  (await cluster.audit())
    .filter(({ userAgent, verb, resource }) => {
      const isWrite = verb !== 'get' && verb !== 'list' && verb !== 'watch';
      return userAgent === agent && isWrite && resource !== 'leases';
    })
    .map(({ verb, resource, name, code }) => `${verb} ${resource}/${name} ${code}`);

test.serial(
  'kubectl and another field manager write the same objects as we do: nothing of anybody is lost',
  async (t) => {
    const bed = new ClusterBed(t, cluster, { nodeName: 'beside-others' });
    const names = Array.from({ length: 8 }, (_, i) => `shared-${i}`);
    const uids = names.map((name) => bed.put('Service', name, service, { labels: { ours: 'yes', round: '0' } }));
    for (const uid of uids) await bed.applied(uid);

    const other = async (name: string, round: number) => {
      const path = `/api/v1/namespaces/default/services/${name}?fieldManager=other&force=true`;
      const metadata = { name, annotations: { 'other.example.com/round': String(round) } };
      const body = { apiVersion: 'v1', kind: 'Service', metadata, spec: { externalIPs: [`192.0.2.${round + 1}`] } };
      // The cluster gives up after a few tries when others are faster, and whoever writes tries again: kubectl below, too.
      await until(`${name} is written`, async () => {
        const { status } = await cluster.request('PATCH', path, { body, contentType: 'application/apply-patch+yaml' });
        return status === 200;
      });
    };
    const rounds = 6;
    const writers = [
      (async () => {
        for (let round = 1; round <= rounds; round += 1) {
          for (const uid of uids) bed.change(uid, service, { labels: { ours: 'yes', round: String(round) } });
          await Promise.all(uids.map((uid) => bed.applied(uid)));
        }
      })(),
      (async () => {
        for (let round = 1; round <= rounds; round += 1) await Promise.all(names.map((name) => other(name, round)));
      })(),
      (async () => {
        for (let round = 1; round <= rounds; round += 1) {
          const annotation = `kubectl.example.com/round=${round}`;
          await until('kubectl was not overtaken', () =>
            cluster.kubectl(['annotate', '--overwrite', 'service', ...names, annotation]),
          );
        }
      })(),
    ];
    await Promise.all(writers);
    for (const name of names) {
      const { metadata, spec } = await get('services', name);
      t.like(metadata.labels, { ours: 'yes', round: String(rounds) });
      t.is(metadata.annotations['kubectl.example.com/round'], String(rounds));
      t.is(metadata.annotations['other.example.com/round'], String(rounds));
      t.deepEqual(spec.externalIPs, [`192.0.2.${rounds + 1}`]);
      t.deepEqual(spec.selector, { app: 'web' });
    }
    // All is settled: whatever came after the last change is read, and nobody writes any more.
    const versions = async () =>
      Promise.all(names.map(async (name) => (await get('services', name)).metadata.resourceVersion));
    const settled = await versions();
    const before = (await writes('beside-others')).length;
    await cluster.kubectl(['annotate', 'service', names[0] ?? '', 'marker=set']);
    const { resourceVersion } = (await get('services', names[0] ?? '')).metadata;
    await until('the agent has heard of all that', () => bed.reports.all.length > 0 && resourceVersion !== settled[0]);
    const marker = bed.put('Service', 'marker', service);
    await bed.applied(marker);
    t.deepEqual((await versions()).slice(1), settled.slice(1));
    t.is((await writes('beside-others')).length, before + 1);
  },
);

test.serial(
  'a webhook that puts containers, defaults and annotations in causes no drift, and none after a restart',
  async (t) => {
    await using webhook = await startAdmissionWebhook(cluster, {
      kind: 'Mutating',
      review: ({ object, operation }) => {
        if (object?.kind !== 'Pod' || operation !== 'CREATE') return { allowed: true };
        const sidecar = { name: 'mesh', image: 'mesh:1', env: [{ name: 'A', value: 'b' }] };
        return {
          allowed: true,
          patch: [
            { op: 'add', path: '/spec/containers/-', value: sidecar },
            { op: 'add', path: '/metadata/annotations/mesh.example.com~1status', value: 'injected' },
            // One of ours, as a webhook that pins images would do.
            { op: 'replace', path: '/spec/containers/0/image', value: 'mirror.example.com/busybox:test' },
          ],
        };
      },
    });
    const bed = new ClusterBed(t, cluster, { nodeName: 'beside-mesh' });
    const uid = bed.put('Pod', 'injected', pod);
    const status = (await bed.applied(uid)) as PodStatus;
    t.true(webhook.calls > 0);
    t.is(status.containers, 2);
    const live = await get('pods', 'injected');
    t.is(live.spec.containers[0].image, 'mirror.example.com/busybox:test');
    await bed.stop();
    const before = await writes('beside-mesh');
    await bed.restart();
    await bed.applied(bed.put('Service', 'after-restart', service));
    const after = await writes('beside-mesh');
    t.deepEqual(after.slice(before.length), ['patch services/after-restart 201']);
    t.is((await get('pods', 'injected')).metadata.resourceVersion, live.metadata.resourceVersion);
  },
);

test.serial('a webhook that refuses is quoted, and what it refuses is tried again once it is gone', async (t) => {
  const bed = new ClusterBed(t, cluster, { nodeName: 'beside-policy' });
  const kept = bed.put('Service', 'policed', service);
  await bed.applied(kept);
  const webhook = await startAdmissionWebhook(cluster, {
    review: ({ object }) =>
      object?.metadata?.labels?.team
        ? { allowed: true }
        : { allowed: false, message: 'every object needs a team', code: 403 },
  });
  let refused = '';
  let status: PodStatus | undefined;
  try {
    refused = bed.put('Pod', 'teamless', pod);
    status = await bed.shows<PodStatus>(refused, 'a refusal', ({ reason }) => reason === 'AdmissionDenied');
    t.regex(status.message, /every object needs a team/);
    await bed.applied(bed.put('Pod', 'with-team', pod, { labels: { team: 'blue' } }));
    // What runs goes on, and says why it is not what was asked for.
    bed.change(kept, { ...service, sessionAffinity: 'ClientIP' });
    const changed = await bed.shows<ServiceStatus>(kept, 'a refusal', ({ reason }) => reason === 'AdmissionDenied');
    t.is(changed.phase, 2);
    t.is((await get('services', 'policed')).spec.sessionAffinity, 'None');
  } finally {
    await webhook[Symbol.asyncDispose]();
  }
  await bed.shows(refused, 'it is made', ({ delivery }) => delivery?.appliedGeneration === 1n, 30_000);
});

test.serial('a webhook that answers nothing holds up what it is asked about, and nothing else', async (t) => {
  await using _ = await startAdmissionWebhook(cluster, {
    timeoutSeconds: 10,
    review: ({ object }) => (object?.metadata?.labels?.slow ? new Promise(() => undefined) : { allowed: true }),
  });
  const bed = new ClusterBed(t, cluster, { nodeName: 'beside-slow', concurrency: 4 });
  const slow = Array.from({ length: 8 }, (_, i) =>
    bed.put('Service', `slow-${i}`, service, { labels: { slow: 'yes' } }),
  );
  await bed.applied(bed.put('Service', 'quick', service));
  t.false(
    slow.some((uid) => bed.status(uid)?.reason === 'AdmissionDenied'),
    'all of them are still waiting',
  );
  const status = await bed.shows<ServiceStatus>(
    slow[0] ?? '',
    'a refusal',
    ({ reason }) => reason === 'AdmissionDenied',
  );
  t.regex(status.message, /failed calling webhook/);
});

test.serial(
  'a standby reports nothing and writes nothing, and takes over what the leader had without a write',
  async (t) => {
    const first = new ClusterBed(t, cluster, { nodeName: 'leader-1' });
    const { desired, bayUid } = first;
    await until('it leads', () => first.leads);
    const second = new ClusterBed(t, cluster, { nodeName: 'leader-2', desired, bayUid });
    const uids = Array.from({ length: 20 }, (_, i) => first.put('Service', `taken-over-${i}`, service));
    for (const uid of uids) await first.applied(uid);
    t.false(second.leads);
    t.is(second.reports.all.length, 0);
    t.deepEqual(second.workloads.snapshot(), []);
    t.is(second.workloads.cluster?.nodes(), undefined);
    let told = 0;
    second.workloads.cluster?.onLeads(() => {
      told += 1;
    });

    first.crash();
    await until('the other one leads', () => second.leads, { timeoutMs: 15_000 });
    t.is(told, 1);
    for (const uid of uids) await second.applied(uid);
    t.is(second.workloads.snapshot().length, uids.length);
    t.deepEqual(await writes('leader-2'), []);
    // The one that was thought dead comes back, and has no say.
    await until('it has stepped down', () => !first.leads);
    const before = (await writes('leader-1')).length;
    second.change(uids[0] ?? '', { ...service, sessionAffinity: 'ClientIP' });
    await second.applied(uids[0] ?? '');
    t.is((await writes('leader-1')).length, before);
  },
);

test.serial('an agent that stops lets go of the lease at once', async (t) => {
  // It would run out after the test has ended.
  const lease = { leaseDurationMs: 600_000, renewDeadlineMs: 400_000, retryPeriodMs: 250 };
  const first = new ClusterBed(t, cluster, { nodeName: 'goes', lease });
  await until('it leads', () => first.leads);
  const { desired, bayUid } = first;
  const second = new ClusterBed(t, cluster, { nodeName: 'comes', desired, bayUid, lease });
  await first.stop();
  t.false(first.leads);
  await until('the other one leads', () => second.leads);
});

test.serial('a restart over a thousand unchanged objects writes nothing', async (t) => {
  const bed = new ClusterBed(t, cluster, { nodeName: 'thousand' });
  const uids = Array.from({ length: 1_000 }, (_, i) => bed.put('Pod', `many-${i}`, pod, { labels: { n: String(i) } }));
  await until('all are applied', () => uids.every((uid) => bed.status(uid)?.delivery?.appliedGeneration === 1n), {
    timeoutMs: 60_000,
  });
  await bed.stop();
  const before = await writes('thousand');
  t.is(before.length, uids.length);
  bed.reports.latest.clear();
  await bed.restart();
  await until('all were looked at', () => uids.every((uid) => bed.status(uid)?.delivery?.appliedGeneration === 1n), {
    timeoutMs: 60_000,
  });
  await bed.stop();
  t.deepEqual((await writes('thousand')).slice(before.length), []);
});

test.serial('the rights that an agent lacks are said, and those that it has are used', async (t) => {
  const kubeconfig = await cluster.user('limited', ['limited-agents']);
  await cluster.kubectl([
    'create',
    'clusterrole',
    'limited',
    '--verb=*',
    '--resource=services,leases,namespaces,events,endpoints,nodes',
  ]);
  await cluster.kubectl(['create', 'clusterrolebinding', 'limited', '--clusterrole=limited', '--group=limited-agents']);
  const bed = new ClusterBed(t, cluster, { kubeconfig, nodeName: 'limited' });
  const uid = bed.put('Pod', 'not-allowed', pod);
  const front = bed.put('Service', 'allowed', service);
  await bed.applied(front);
  const status = await bed.shows<PodStatus>(uid, 'no right', ({ reason }) => reason === 'Forbidden');
  t.regex(status.message, /User "limited" cannot list resource "pods"/);
  const node = await bed.workloads.nodeStatus();
  const watched = node.conditions.find(({ type }) => type === 'ClusterWatched');
  t.is(watched?.reason, 'Forbidden');
  // Which of the two is refused first is the cluster's affair.
  t.regex(watched?.message ?? '', /^(?:pods|replicationcontrollers) and 1 more cannot be watched/);
});
