import { setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { ManifestSchema, ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { PodPhase } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { PodService } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import type { Kubernetes } from '../harness/kubernetes/cluster.ts';
import { bay, type KubernetesSite, startKubernetesSite } from '../harness/kubernetes_site.ts';
import { until } from '../harness/until.ts';
import { cpuSeconds, ms, percentile, type Row, residentMb } from './measure.ts';

/** As many as the agent works on at a time. */
const callers = 32;
const podCount = 1_000;
const rounds = 8;
const singles = 200;

/** A Kubernetes bay against the cluster alone: a real API server, without nodes, so that nothing but the API is in the measurement. */
export async function kubernetes(): Promise<Row[]> {
  await using site = await startKubernetesSite({
    cluster: { audit: true },
    controlPlane: { args: ['--log-level', 'warn'] },
  });
  const { cluster, agent } = site;
  const rows: Row[] = [];
  await delay(10_000);
  const idle = Math.round(await residentMb(agent.program.pid));
  rows.push({ what: 'memory of an idle agent of a Kubernetes bay', measured: `${idle} MB`, target: '85 MB' });

  const rawSingle = await rawSingles(cluster);
  const ourSingle = await ourSingles(site);
  rows.push({
    what: 'one pod: from the call of Apply until the API server has it, median',
    measured: `${ms(ourSingle)}; a create at the API server itself ${ms(rawSingle)}`,
    target: '20 ms above the cluster’s own',
  });

  const took = { raw: 0, ours: 0 };
  const used = { agent: 0, controlPlane: 0, apiServer: 0 };
  // One after the other, as the API server takes longer or not from one second to the next: it collects its garbage.
  for (let round = 0; round < rounds; round += 1) {
    took.raw += await rawMany(cluster, `raw-${round}`);
    const before = await cpuOf(site);
    took.ours += await ourMany(site, `many-${round}`);
    const after = await cpuOf(site);
    for (const part of Object.keys(used) as (keyof typeof used)[]) used[part] += after[part] - before[part];
    await settled(site, podCount * (round + 1) + singles);
    if (round > 0) continue;
    const busy = Math.round(await residentMb(agent.program.pid));
    await delay(15_000);
    const watching = Math.round(await residentMb(agent.program.pid));
    rows.push({
      what: `memory of an agent that watches ${podCount + singles} pods`,
      measured: `${watching} MB; ${busy} MB when it had just applied them`,
      target: '110 MB for 1,000',
    });
  }
  const pods = podCount * rounds;
  const rate = (ms: number) => `${Math.round((pods / ms) * 1_000)}/s`;
  const ratio = Math.round((took.raw / took.ours) * 100);
  rows.push({
    what: `pods applied a second, ${podCount} at once (${callers} at a time), ${rounds} times`,
    measured: `${rate(took.ours)}; server-side apply at the API server itself ${rate(took.raw)}: ${ratio} %`,
    target: '60 %',
  });
  const each = (part: keyof typeof used) => ms((used[part] / pods) * 1_000);
  rows.push({
    what: 'processor time for each of them',
    measured: `agent ${each('agent')}, control plane ${each('controlPlane')}, API server ${each('apiServer')}`,
    target: '',
  });

  await agent.stop();
  const written = await writesOf(cluster);
  await agent.start();
  await agent.ready();
  await settled(site, pods + singles);
  await delay(5_000);
  rows.push({
    what: `writes of an agent that restarts over ${pods + singles} unchanged pods`,
    measured: `${(await writesOf(cluster)) - written}`,
    target: '0',
  });
  return rows;
}

const manifest = { containers: [{ name: 'main', image: 'busybox:test', command: ['sleep', '1000'] }] };
const applyBody = (name: string) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'default', labels: { app: 'bench' } },
  spec: manifest,
});

async function rawApply(cluster: Kubernetes, name: string): Promise<void> {
  const path = `/api/v1/namespaces/default/pods/${name}?fieldManager=bench&force=true`;
  const contentType = 'application/apply-patch+yaml';
  const { status } = await cluster.request('PATCH', path, { body: applyBody(name), contentType });
  if (status !== 201) throw new Error(`the API server answered ${status}`);
}

/** Median of one after the other, in milliseconds. */
async function rawSingles(cluster: Kubernetes): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < singles; i += 1) {
    const start = performance.now();
    await rawApply(cluster, `raw-single-${i}`);
    times.push(performance.now() - start);
  }
  return median(times);
}

/** Median of the times from the call until the object was made, by a watch of the API server's own. */
async function ourSingles({ cluster, controlPlane }: KubernetesSite): Promise<number> {
  const pods = controlPlane.client(PodService);
  const times: number[] = [];
  for (let i = 0; i < singles; i += 1) {
    const name = `single-${i}`;
    const start = performance.now();
    await pods.createPod({ pod: podOf(name) });
    // The look itself takes about 2 ms: what is measured is so much too long at most.
    for (;;) {
      const { status } = await cluster.request('GET', `/api/v1/namespaces/default/pods/${name}`);
      if (status === 200) break;
    }
    times.push(performance.now() - start);
  }
  return median(times);
}

const podOf = (name: string) => ({ metadata: { bay, name, labels: { app: 'bench' } }, spec: { manifest } });

/** Milliseconds for all of them. */
async function rawMany(cluster: Kubernetes, prefix: string): Promise<number> {
  const names = Array.from({ length: podCount }, (_, i) => `${prefix}-${i}`);
  const start = performance.now();
  const caller = async () => {
    for (let name = names.pop(); name !== undefined; name = names.pop()) await rawApply(cluster, name);
  };
  await Promise.all(Array.from({ length: callers }, caller));
  return performance.now() - start;
}

/**
 * Milliseconds from the call until the API server has answered for the last of them: by its own audit log, as to ask it time and again would slow it
 * down.
 */
async function ourMany({ cluster, controlPlane }: KubernetesSite, prefix: string): Promise<number> {
  const manifests = Array.from({ length: podCount }, (_, i) =>
    create(ManifestSchema, { object: { case: 'pod', value: podOf(`${prefix}-${i}`) } }),
  );
  const before = await count(cluster);
  const startMs = Date.now();
  const { results } = await controlPlane.client(ManifestService).apply({ manifests });
  const refused = results.find(({ error }) => error)?.error;
  if (refused) throw new Error(`a pod was refused: ${refused.message}`);
  await until('every pod is in the cluster', async () => (await count(cluster)) >= before + podCount, {
    timeoutMs: 120_000,
    intervalMs: 250,
  });
  const made = (await cluster.audit()).filter(({ name, code }) => name.startsWith(`${prefix}-`) && code === 201);
  if (made.length !== podCount) throw new Error(`${podCount} pods were applied, and ${made.length} were made`);
  return Math.max(...made.map(({ answeredMs }) => answeredMs)) - startMs;
}

/** Seconds so far. */
const cpuOf = async ({ agent, controlPlane, cluster }: KubernetesSite) => ({
  agent: await cpuSeconds(agent.program.pid),
  controlPlane: await cpuSeconds(controlPlane.program.pid),
  apiServer: await cpuSeconds(cluster.apiServer.pid),
});

/** How many pods there are, whoever made them. To list them time and again would keep the API server busy, which is what is measured. */
async function count(cluster: Kubernetes): Promise<number> {
  const { body } = await cluster.request<PodCount>('GET', '/api/v1/namespaces/default/pods?limit=1');
  return body.items.length + (body.metadata.remainingItemCount ?? 0);
}

interface PodCount {
  readonly items: readonly unknown[];
  readonly metadata: { readonly remainingItemCount?: number };
}

/** Until the control plane has heard of all of them. */
async function settled({ controlPlane }: KubernetesSite, expected: number): Promise<void> {
  const pods = controlPlane.client(PodService);
  await until(
    'every pod is reported',
    async () => {
      let seen = 0;
      let pageToken = '';
      do {
        const page = await pods.listPods({ bay, pageSize: 1000, pageToken });
        seen += page.pods.filter(({ status }) => status?.clusterUid && status.phase !== PodPhase.UNKNOWN).length;
        pageToken = page.nextPageToken;
      } while (pageToken);
      return seen >= expected;
    },
    { timeoutMs: 120_000 },
  );
}

/** Of pods, services, controllers and namespaces, by anybody; the Lease is written all the time. */
async function writesOf(cluster: Kubernetes): Promise<number> {
  const events = await cluster.audit();
  return events.filter(({ verb, resource }) => !['get', 'list', 'watch'].includes(verb) && resource !== 'leases')
    .length;
}

const median = (values: readonly number[]): number =>
  percentile(
    [...values].sort((a, b) => a - b),
    0.5,
  );
