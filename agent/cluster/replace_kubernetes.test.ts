import test, { type ExecutionContext } from 'ava';
import { PodPhase, type PodStatus } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import type { ServiceStatus } from '../../proto/gen/baykeeper/v1/service_pb.js';
import { ClusterBed } from '../../test/harness/cluster_bed.ts';
import { type Kubernetes, startKubernetes } from '../../test/harness/kubernetes/cluster.ts';
import { until } from '../../test/harness/until.ts';
import type { ClusterDriver, ClusterObject } from '../drivers/cluster_driver.ts';
import { ClusterError } from '../drivers/cluster_error.ts';

/** What the cluster will not change in place, and an agent that is killed at every step of it. */

let cluster: Kubernetes;
test.before(async () => {
  cluster = await startKubernetes({ audit: true });
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

// biome-ignore lint/suspicious/noExplicitAny: whatever kind of object the test looks at.
type Any = any;
const get = async (kind: 'pods' | 'services' | 'replicationcontrollers', name: string): Promise<Any> => {
  const { status, body } = await cluster.request<ClusterObject>('GET', `/api/v1/namespaces/default/${kind}/${name}`);
  return status === 200 ? body : undefined;
};
const pod = (value: string, extra = {}) => ({
  containers: [{ name: 'web', image: 'busybox:test', env: [{ name: 'A', value }], ...extra }],
  terminationGracePeriodSeconds: 0,
});
const service = (extra = {}) => ({ selector: { app: 'web' }, ports: [{ port: 80 }], ...extra });

test('a change of a pod makes another one in its place', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Pod', 'changed', pod('1'));
  await bed.applied(uid);
  const before = await get('pods', 'changed');
  bed.change(uid, pod('2'));
  const status = (await bed.applied(uid)) as PodStatus;
  const after = await get('pods', 'changed');
  t.not(after.metadata.uid, before.metadata.uid);
  t.is(status.clusterUid, after.metadata.uid);
  t.is(after.spec.containers[0].env[0].value, '2');
  t.is(status.phase, PodPhase.PENDING);
});

test('what may be changed in place is', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Pod', 'in-place', pod('1'));
  await bed.applied(uid);
  const before = await get('pods', 'in-place');
  bed.change(uid, pod('1', { image: 'busybox:next' }), { labels: { a: 'b' } });
  await bed.applied(uid);
  const after = await get('pods', 'in-place');
  t.is(after.metadata.uid, before.metadata.uid);
  t.is(after.spec.containers[0].image, 'busybox:next');
});

test('where the next one is not valid the one before it stays as it is', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Pod', 'guarded', pod('1'));
  await bed.applied(uid);
  const before = await get('pods', 'guarded');
  bed.change(uid, pod('2', { ports: [{ containerPort: 0 }] }));
  const status = await bed.shows<PodStatus>(uid, 'a refusal', ({ reason }) => reason === 'Invalid');
  t.regex(status.message, /containerPort/);
  t.is(status.delivery?.observedGeneration, 2n);
  t.is(status.delivery?.appliedGeneration, 1n);
  t.deepEqual(await get('pods', 'guarded'), before);
  // And goes on from there.
  bed.change(uid, pod('3'));
  await bed.applied(uid);
  t.is((await get('pods', 'guarded')).spec.containers[0].env[0].value, '3');
});

test('a service that is replaced keeps the address and the ports that the cluster gave it', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const balanced = (healthCheckNodePort: number, extra = {}) =>
    service({ type: 'LoadBalancer', externalTrafficPolicy: 'Local', healthCheckNodePort, ...extra });
  const uid = bed.put('Service', 'moved', balanced(31_001));
  const before = (await bed.applied(uid)) as ServiceStatus;
  const { spec } = await get('services', 'moved');
  bed.change(uid, balanced(31_002));
  const after = (await bed.applied(uid)) as ServiceStatus;
  t.not(after.clusterUid, before.clusterUid);
  t.is(after.clusterIp, before.clusterIp);
  const live = await get('services', 'moved');
  t.is(live.spec.ports[0].nodePort, spec.ports[0].nodePort);
  t.is(live.spec.healthCheckNodePort, 31_002);
  // That it was given these is no reason to replace it once more.
  bed.change(uid, balanced(31_002, { sessionAffinity: 'ClientIP' }));
  t.is(((await bed.applied(uid)) as ServiceStatus).clusterUid, after.clusterUid);
  t.is((await get('services', 'moved')).spec.sessionAffinity, 'ClientIP');
  // That the address is taken is found out when the next one is tried: by the one that is to go.
  bed.change(uid, balanced(31_003, { clusterIP: after.clusterIp }));
  const chosen = (await bed.applied(uid)) as ServiceStatus;
  t.not(chosen.clusterUid, after.clusterUid);
  t.is(chosen.clusterIp, after.clusterIp);
});

// Alone, as it needs many ports of the nodes, and the others choose some.
test.serial('of many services that are replaced at once each keeps its own address and ports', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const balanced = (extra = {}) => service({ type: 'LoadBalancer', externalTrafficPolicy: 'Local', ...extra });
  // More than are worked on at a time.
  const names = Array.from({ length: 48 }, (_, number) => `many-${number}`);
  const uids = names.map((name) => bed.put('Service', name, balanced()));
  for (const uid of uids) await bed.applied(uid);
  const given = async () => await Promise.all(names.map((name) => get('services', name)));
  const kept = ({ spec }: Any) => [spec.clusterIP, spec.ports[0].nodePort];
  const before = await given();
  const taken = new Set(before.flatMap(({ spec }) => [spec.ports[0].nodePort, spec.healthCheckNodePort]));
  const free = Array.from({ length: 2_768 }, (_, index) => 30_000 + index).filter((port) => !taken.has(port));
  for (const [index, uid] of uids.entries()) bed.change(uid, balanced({ healthCheckNodePort: free[index] }));
  for (const uid of uids) await bed.applied(uid);
  for (const [index, after] of (await given()).entries()) {
    t.not(after.metadata.uid, before[index].metadata.uid, names[index]);
    t.deepEqual(kept(after), kept(before[index]), names[index]);
    t.is(after.spec.healthCheckNodePort, free[index], names[index]);
  }
  const lease = `/apis/coordination.k8s.io/v1/namespaces/baykeeper/leases/baykeeper-${bed.bayUid}-kept`;
  await until('nothing is kept any more', async () => {
    const { body } = await cluster.request<ClusterObject>('GET', lease);
    return Object.keys(body.metadata.annotations ?? {}).length === 0;
  });
  for (const uid of uids) bed.delete(uid);
  for (const uid of uids) await bed.removed(uid);
});

test('a service that is to have no address, or one again, is replaced', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Service', 'headless', service({ clusterIP: 'None' }));
  t.is(((await bed.applied(uid)) as ServiceStatus).clusterIp, 'None');
  bed.change(uid, service());
  t.regex(((await bed.applied(uid)) as ServiceStatus).clusterIp, /^10\./);
  bed.change(uid, service({ clusterIP: 'None' }));
  t.is(((await bed.applied(uid)) as ServiceStatus).clusterIp, 'None');
});

test('the grace period of the one before it is honoured, and is told of', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Pod', 'slow-to-end', pod('1'), { metadata: { finalizers: ['example.com/hold'] } });
  await bed.applied(uid);
  bed.change(uid, pod('2'), { metadata: {} });
  const status = await bed.shows<PodStatus>(uid, 'it waits', ({ reason }) => reason === 'Replacing');
  t.regex(status.message, /has to end first: waiting .*example\.com\/hold/);
  await cluster.kubectl(['patch', 'pod', 'slow-to-end', '--type=merge', '-p', '{"metadata":{"finalizers":null}}']);
  await bed.applied(uid);
  t.is((await get('pods', 'slow-to-end')).spec.containers[0].env[0].value, '2');
});

type Call = 'apply' | 'create' | 'delete';
/** Calls of a replacement, in their order; the last apply makes the next one. */
const steps: readonly { readonly call: Call; readonly nth: number }[] = [
  { call: 'apply', nth: 1 },
  { call: 'create', nth: 1 },
  { call: 'delete', nth: 1 },
  { call: 'apply', nth: 2 },
];

/** Kills the agent before or after a call, once it is armed. */
class Killer {
  armed = false;
  killed = false;
  #count = 0;
  readonly #step: (typeof steps)[number];
  readonly #when: 'before' | 'after';
  kill: () => void = () => undefined;
  constructor(step: (typeof steps)[number], when: 'before' | 'after') {
    this.#step = step;
    this.#when = when;
  }
  wrap(driver: ClusterDriver): ClusterDriver {
    return new Proxy(driver, {
      get: (target, property) => {
        const value: unknown = Reflect.get(target, property, target);
        if (typeof value !== 'function') return value;
        const method = value.bind(target);
        return property === this.#step.call ? (...args: unknown[]) => this.#around(() => method(...args)) : method;
      },
    });
  }
  async #around(call: () => Promise<unknown>): Promise<unknown> {
    if (!this.armed || this.killed) return await call();
    this.#count += 1;
    if (this.#count !== this.#step.nth) return await call();
    // The cluster has taken it, or refused it; the agent does not come to know.
    if (this.#when === 'after') await call().catch(() => undefined);
    this.killed = true;
    this.kill();
    throw new ClusterError('cancelled', 'killed');
  }
}

const killedAt = async (
  t: ExecutionContext,
  killer: Killer,
  kind: 'Pod' | 'Service' | 'ReplicationController',
  name: string,
  from: Parameters<ClusterBed['put']>[2],
  to: Parameters<ClusterBed['put']>[2],
) => {
  const bed = new ClusterBed(t, cluster, { wrap: (driver) => killer.wrap(driver) });
  killer.kill = () => bed.crash();
  const uid = bed.put(kind, name, from);
  await bed.applied(uid);
  killer.armed = true;
  bed.change(uid, to);
  await until('it is killed', () => killer.killed);
  await bed.stop();
  bed.reports.latest.clear();
  await bed.restart();
  await bed.applied(uid);
};

/** A load balancer: what of it the cluster will not change in place is the port of its health check. */
const balanced = (healthCheckNodePort: number) =>
  service({ type: 'LoadBalancer', externalTrafficPolicy: 'Local', healthCheckNodePort });

for (const [index, { step, when }] of (
  [
    { step: { call: 'delete', nth: 1 }, when: 'after' },
    { step: { call: 'apply', nth: 2 }, when: 'before' },
    { step: { call: 'apply', nth: 2 }, when: 'after' },
  ] as const
).entries()) {
  test(`whoever goes on after an agent that was killed ${when} ${step.call} ${step.nth} gives a service the address that it had`, async (t) => {
    const name = `address-${index}`;
    const port = 31_100 + 2 * index;
    const killer = new Killer(step, when);
    const bed = new ClusterBed(t, cluster, { wrap: (driver) => killer.wrap(driver) });
    killer.kill = () => bed.crash();
    const uid = bed.put('Service', name, balanced(port));
    await bed.applied(uid);
    const before = await get('services', name);
    killer.armed = true;
    bed.change(uid, balanced(port + 1));
    await until('it is killed', () => killer.killed);
    t.deepEqual(Object.keys(await leaseAnnotations(bed)), [`kept.baykeeper.io/${uid}`]);
    t.is((await lease(bed, '')).metadata.annotations, undefined, 'the lease of the leader is left alone');
    await bed.stop();
    bed.reports.latest.clear();
    await bed.restart();
    await bed.applied(uid);
    const after = await get('services', name);
    t.not(after.metadata.uid, before.metadata.uid);
    t.is(after.spec.clusterIP, before.spec.clusterIP);
    t.is(after.spec.ports[0].nodePort, before.spec.ports[0].nodePort);
    t.is(after.spec.healthCheckNodePort, port + 1);
    await until('nothing is kept any more', async () => Object.keys(await leaseAnnotations(bed)).length === 0);
  });
}

test('a service whose address was given to another meanwhile gets one of its own', async (t) => {
  const killer = new Killer({ call: 'delete', nth: 1 }, 'after');
  const bed = new ClusterBed(t, cluster, { wrap: (driver) => killer.wrap(driver) });
  killer.kill = () => bed.crash();
  const uid = bed.put('Service', 'robbed', balanced(31_110));
  await bed.applied(uid);
  const { clusterIP } = (await get('services', 'robbed')).spec;
  killer.armed = true;
  bed.change(uid, balanced(31_111));
  await until('it is killed', () => killer.killed);
  await bed.stop();
  await cluster.kubectl(['create', 'service', 'clusterip', 'robber', `--clusterip=${clusterIP}`, '--tcp=80']);
  await bed.restart();
  await until('it is made', () => get('services', 'robbed'));
  t.not((await get('services', 'robbed')).spec.clusterIP, clusterIP);
});

const lease = async ({ bayUid }: ClusterBed, suffix: string): Promise<Any> => {
  const path = `/apis/coordination.k8s.io/v1/namespaces/baykeeper/leases/baykeeper-${bayUid}${suffix}`;
  return (await cluster.request('GET', path)).body;
};
const leaseAnnotations = async (bed: ClusterBed): Promise<Record<string, string>> =>
  (await lease(bed, '-kept')).metadata.annotations ?? {};

for (const step of steps) {
  for (const when of ['before', 'after'] as const) {
    const at = `${when}-${step.call}-${step.nth}`;
    test(`an agent is killed ${when} ${step.call} ${step.nth} of a replacement of a pod, and the next one brings it to its end`, async (t) => {
      const name = `killed-${at}`;
      await killedAt(t, new Killer(step, when), 'Pod', name, pod('1'), pod('2'));
      const live = await get('pods', name);
      t.is(live.spec.containers[0].env[0].value, '2');
      t.is(live.metadata.deletionTimestamp, undefined);
    });
    test(`an agent is killed ${when} ${step.call} ${step.nth} of a replacement of a service, and the next one brings it to its end`, async (t) => {
      const name = `killed-${at}`;
      await killedAt(t, new Killer(step, when), 'Service', name, service({ clusterIP: 'None' }), service());
      t.regex((await get('services', name)).spec.clusterIP, /^10\./);
    });
  }
}
