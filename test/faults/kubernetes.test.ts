import { create } from '@bufbuild/protobuf';
import test, { type ExecutionContext } from 'ava';
import { ApplyOutcome, ManifestSchema, ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { NodePhase, type NodeStatus } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { PodPhase } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { PodService } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import { type AdmissionRequest, startAdmissionWebhook } from '../harness/kubernetes/admission_webhook.ts';
import { bay, type KubernetesSite, startKubernetesSite } from '../harness/kubernetes_site.ts';
import { until } from '../harness/until.ts';

/** Whatever breaks at a Kubernetes bay, all of it in the middle of work: what was asked for comes true, once, and nothing else happens. */

const args = ['--heartbeat', '1s', '--log-level', 'warn'];

async function startSite(t: ExecutionContext, agents = 1): Promise<KubernetesSite> {
  const site = await startKubernetesSite({ agents, cluster: { audit: true }, controlPlane: { args } });
  t.teardown(() => site[Symbol.asyncDispose]());
  return site;
}

const podOf = (name: string, image = 'busybox:test') => ({
  metadata: { bay, name, labels: { app: name } },
  spec: { manifest: { containers: [{ name: 'main', image }] } },
});

async function apply({ controlPlane }: KubernetesSite, names: readonly string[]): Promise<void> {
  const manifests = names.map((name) => create(ManifestSchema, { object: { case: 'pod', value: podOf(name) } }));
  const { results } = await controlPlane.client(ManifestService).apply({ manifests });
  const refused = results.find(({ outcome }) => outcome === ApplyOutcome.REFUSED);
  if (refused) throw new Error(`refused: ${refused.error?.message}`);
}

const namesOf = (prefix: string, count: number) => Array.from({ length: count }, (_, i) => `${prefix}-${i}`);

/** Names of the pods in the cluster. */
async function inCluster({ cluster }: KubernetesSite): Promise<string[]> {
  const { body } = await cluster.request<{ items: { metadata: { name: string } }[] }>('GET', '/api/v1/pods');
  return body.items.map(({ metadata }) => metadata.name).sort();
}

/** What the control plane says of the pods, by name. */
async function shown({ controlPlane }: KubernetesSite) {
  const { pods } = await controlPlane.client(PodService).listPods({ bay, pageSize: 1000 });
  return new Map(pods.map(({ metadata, status }) => [metadata?.name ?? '', status]));
}

async function allApplied(site: KubernetesSite, names: readonly string[], timeoutMs = 60_000): Promise<void> {
  await until(
    `${names.length} pods are in the cluster, and the control plane says so`,
    async () => {
      const said = await shown(site);
      const there = new Set(await inCluster(site));
      return names.every(
        (name) => there.has(name) && said.get(name)?.clusterUid !== '' && said.get(name)?.phase === PodPhase.PENDING,
      );
    },
    { timeoutMs },
  );
}

/** How often each pod was made. */
async function creations({ cluster }: KubernetesSite): Promise<Map<string, number>> {
  const made = new Map<string, number>();
  for (const { resource, name, code } of await cluster.audit()) {
    if (resource === 'pods' && code === 201 && name) made.set(name, (made.get(name) ?? 0) + 1);
  }
  return made;
}

async function nodeStatus({ controlPlane }: KubernetesSite, name = 'master-1'): Promise<NodeStatus | undefined> {
  return (await controlPlane.client(NodeService).getNode({ bay, name })).node?.status;
}

/** An API server that is away for a minute, while the tests between the first and the last go on with sites of their own. */
interface Outage {
  readonly site: KubernetesSite;
  readonly names: readonly string[];
  readonly sinceMs: number;
}
let outage: Outage | undefined;
test.after.always(() => outage?.site[Symbol.asyncDispose]());
const outageMs = 60_000;

test.serial('the API server stops in the middle of an apply, and what waits for it says so', async (t) => {
  const site = await startKubernetesSite({ cluster: { audit: true }, controlPlane: { args } });
  const names = namesOf('away', 200);
  await apply(site, names);
  await until('some are made', async () => (await inCluster(site)).length > 10);
  await site.cluster.killApiServer();
  outage = { site, names: [...names, 'late'], sinceMs: performance.now() };
  await until('the node says that its cluster does not answer', async () => {
    const status = await nodeStatus(site);
    return status?.phase === NodePhase.NOT_READY && status.reason === 'ClusterUnavailable';
  });
  await apply(site, ['late']);
  await until(
    'what cannot be applied says why',
    async () => (await shown(site)).get('late')?.reason === 'ClusterUnavailable',
  );
  t.is((await shown(site)).size, names.length + 1);
});

test.serial('the agent is killed in the middle of an apply, and of a deletion', async (t) => {
  const site = await startSite(t);
  const names = namesOf('killed', 200);
  await apply(site, names);
  await until('some are made', async () => (await inCluster(site)).length > 10);
  await site.agent.kill9();
  await site.agent.start();
  await allApplied(site, names);
  const pods = site.controlPlane.client(PodService);
  await Promise.all(names.map((name) => pods.deletePod({ bay, name })));
  await until('some are gone', async () => (await inCluster(site)).length < 150);
  await site.agent.kill9();
  await site.agent.start();
  await until(
    'all are gone',
    async () => {
      const left = await inCluster(site);
      const said = await shown(site);
      const [one] = said.values();
      if (left.length + said.size === 0) return true;
      throw new Error(
        `${left.length} in the cluster, ${said.size} shown: ${one?.phase} ${one?.reason} ${one?.message}`,
      );
    },
    { timeoutMs: 60_000 },
  );
  for (const [name, count] of await creations(site)) t.is(count, 1, `${name} was made once`);
});

test.serial('the agent is killed at each step of a replacement', async (t) => {
  const site = await startSite(t);
  const steps = {
    'the dry run of the next one': ({ operation, dryRun }: AdmissionRequest) =>
      operation === 'CREATE' && dryRun === true,
    'the end of the one before': ({ operation }: AdmissionRequest) => operation === 'DELETE',
    'the next one': ({ operation, dryRun }: AdmissionRequest) => operation === 'CREATE' && dryRun !== true,
  };
  let waitsFor: ((request: AdmissionRequest) => boolean) | undefined;
  await using webhook = await startAdmissionWebhook(site.cluster, {
    rules: [{ apiGroups: [''], apiVersions: ['v1'], resources: ['pods'], operations: ['CREATE', 'UPDATE', 'DELETE'] }],
    async review(request) {
      if (waitsFor?.(request)) {
        waitsFor = undefined;
        await site.agent.kill9();
      }
      return { allowed: true };
    },
  });
  await apply(site, ['replaced']);
  await allApplied(site, ['replaced']);
  const pods = site.controlPlane.client(PodService);
  const inTheCluster = async () => {
    const { body } = await site.cluster.request<ClusterPod>('GET', '/api/v1/namespaces/default/pods/replaced');
    return { uid: body.metadata?.uid, command: body.spec?.containers[0]?.command?.[0] };
  };
  for (const [step, isStep] of Object.entries(steps)) {
    const before = await inTheCluster();
    const command = step.replaceAll(' ', '-');
    waitsFor = isStep;
    const manifest = { containers: [{ name: 'main', image: 'busybox:test', command: [command] }] };
    await pods.updatePod({ pod: { ...podOf('replaced'), spec: { manifest } } });
    await until(`the agent is killed at ${step}`, () => !site.agent.program.running);
    await site.agent.start();
    await until(`after ${step} it is as asked`, async () => (await inTheCluster()).command === command, {
      timeoutMs: 40_000,
    });
    t.not((await inTheCluster()).uid, before.uid, 'it is another one');
    await until('and said to be', async () => {
      const { pod } = await pods.getPod({ bay, name: 'replaced' });
      return pod?.status?.delivery?.observedGeneration === pod?.metadata?.generation;
    });
  }
  t.true(webhook.calls > 0);
  t.deepEqual(await inCluster(site), ['replaced']);
});

interface ClusterPod {
  readonly metadata?: { readonly uid: string };
  readonly spec?: { readonly containers: readonly { readonly command?: readonly string[] }[] };
}

test.serial(
  'etcd is restored to an older state: what was deleted since goes again, what was made since is made again',
  async (t) => {
    const site = await startSite(t);
    await apply(site, ['stays', 'deleted']);
    await allApplied(site, ['stays', 'deleted']);
    const snapshot = await site.cluster.etcdSnapshot();
    await site.controlPlane.client(PodService).deletePod({ bay, name: 'deleted' });
    await until('it is gone', async () => !(await shown(site)).has('deleted'));
    await apply(site, ['made']);
    await allApplied(site, ['stays', 'made']);
    await site.cluster.etcdRestore(snapshot);
    await until(
      'the cluster is as asked',
      async () => {
        const there = (await inCluster(site)).join();
        if (there === 'made,stays') return true;
        throw new Error(`there is ${there}`);
      },
      { timeoutMs: 60_000 },
    );
    t.deepEqual([...(await shown(site)).keys()].sort(), ['made', 'stays']);
  },
);

test.serial('the leader is killed: another takes over, and writes nothing that is there', async (t) => {
  const site = await startSite(t, 2);
  const names = namesOf('shared', 50);
  await apply(site, names);
  await allApplied(site, names);
  const statuses = await Promise.all(['master-1', 'master-2'].map((name) => nodeStatus(site, name)));
  t.is(statuses.filter((status) => status?.leader).length, 1, 'one of them leads');
  const leading = statuses[0]?.leader ? 0 : 1;
  const [leader, standby] = [site.agents[leading], site.agents[1 - leading]];
  if (!leader || !standby) throw new Error('two agents');

  const before = (await site.cluster.audit()).length;
  await leader.kill9();
  await apply(site, ['after']);
  await until('the other one applies', async () => (await inCluster(site)).includes('after'), {
    timeoutMs: 60_000,
  });
  await until('and says so', async () => (await nodeStatus(site, standby.name))?.leader === true);
  await allApplied(site, [...names, 'after']);
  const since = (await site.cluster.audit()).slice(before);
  const writes = since.filter(({ verb, resource }) => resource === 'pods' && !['get', 'list', 'watch'].includes(verb));
  t.deepEqual(
    writes.map(({ name }) => name),
    ['after'],
    'nothing is applied twice',
  );

  // Back again, it waits for its turn.
  await leader.start();
  await leader.ready();
  await apply(site, ['again']);
  await allApplied(site, ['again']);
  t.true((await nodeStatus(site, standby.name))?.leader);
});

test.serial('the API server is back after a minute: all is applied, once', async (t) => {
  if (!outage) throw new Error('it has not stopped: this test goes on where the first one ends');
  const { site, names, sinceMs } = outage;
  await new Promise((resolve) => setTimeout(resolve, Math.max(0, sinceMs + outageMs - performance.now())));
  t.is((await nodeStatus(site))?.reason, 'ClusterUnavailable');
  // By now nobody leads, who could say so of what is asked for.
  await until('the agent does not lead any more', async () => (await nodeStatus(site))?.leader === false);
  await apply(site, ['last']);
  const last = (await shown(site)).get('last');
  t.is(last?.reason, 'ClusterUnavailable');
  t.regex(last?.message ?? '', /No agent of its bay leads: .*the API server at/);
  const madeBefore = await creations(site);
  t.true(madeBefore.size < names.length, 'some were not made yet when it stopped');
  await site.cluster.startApiServer();
  await allApplied(site, [...names, 'last']);
  await until('the node is ready again', async () => (await nodeStatus(site))?.phase === NodePhase.READY);
  // Of one that was made as it was killed there may be no line.
  for (const [name, count] of await creations(site)) t.is(count, 1, `${name} was made once`);
});
