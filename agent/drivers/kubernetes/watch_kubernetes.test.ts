import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { type Kubernetes, startKubernetes } from '../../../test/harness/kubernetes/cluster.ts';
import { tcpRelay } from '../../../test/harness/tcp_relay.ts';
import { until } from '../../../test/harness/until.ts';
import { type ClusterObject, resourceTypes, type WatchEvent } from '../cluster_driver.ts';
import { ClusterError } from '../cluster_error.ts';
import { KubernetesDriver, type KubernetesDriverOptions } from './driver.ts';

let cluster: Kubernetes;
const { ConfigMap } = resourceTypes;
const labelSelector = 'watched=yes';

test.before(async () => {
  cluster = await startKubernetes();
});
test.after.always(async () => {
  await cluster?.[Symbol.asyncDispose]();
});
test.afterEach.always(async () => {
  if (!cluster.apiServer.running) await cluster.startApiServer({});
  await cluster.kubectl(['delete', 'configmap', '--all-namespaces', '-l', labelSelector]);
});

interface Seen {
  readonly name: string;
  readonly value: string;
}

/** Follows the objects with the label, as a consumer would: what it holds is what it was told. */
function follow(t: ExecutionContext, options: Partial<KubernetesDriverOptions> = {}) {
  const driver = new KubernetesDriver({ kubeconfig: cluster.kubeconfig, context: '', ...options });
  const abort = new AbortController();
  const held = new Map<string, string>();
  const events: WatchEvent<Seen>['type'][] = [];
  const problems: ClusterError[] = [];
  const transform = ({ metadata, data }: ClusterObject): Seen => ({
    name: metadata.name,
    value: (data as Record<string, string> | undefined)?.value ?? '',
  });
  const reading = (async () => {
    for await (const event of driver.watch(ConfigMap, { signal: abort.signal, labelSelector, transform })) {
      events.push(event.type);
      if (event.type === 'snapshot') {
        held.clear();
        for (const { name, value } of event.items) held.set(name, value);
      } else if (event.type === 'put') held.set(event.item.name, event.item.value);
      else if (event.type === 'delete') held.delete(event.item.name);
      else if (event.type === 'down') problems.push(event.error);
    }
  })();
  t.teardown(async () => {
    abort.abort();
    await reading;
    driver.close();
  });
  const knows = (name: string, value: string | undefined) =>
    until(`it knows that ${name} is ${value}`, () => events.length > 0 && held.get(name) === value, {
      timeoutMs: 30_000,
    });
  return { driver, held, events, problems, knows };
}

/** By somebody else. Waited for: the API server may be on its way up. */
async function put(name: string, value: string): Promise<void> {
  const path = '/api/v1/namespaces/default/configmaps';
  const body = { metadata: { name, labels: { watched: 'yes' } }, data: { value } };
  const { status } = await cluster.request('PUT', `${path}/${name}`, { body });
  if (status === 404) await cluster.request('POST', path, { body });
}

/** A stretch of network before the API server, and a kubeconfig that leads through it. */
async function relayed() {
  const { hostname, port } = new URL(cluster.url);
  const relay = await tcpRelay({ host: hostname, port: Number(port) });
  const { users } = JSON.parse(await readFile(cluster.kubeconfig, 'utf8'));
  const kubeconfig = await cluster.writeKubeconfig({ user: users[0].user, server: `https://127.0.0.1:${relay.port}` });
  return Object.assign(relay, { kubeconfig });
}

const remove = (name: string) => cluster.request('DELETE', `/api/v1/namespaces/default/configmaps/${name}`);

test.serial('changes of others are seen at once, also that an object no longer matches', async (t) => {
  await put('a', '1');
  const { knows, held, events } = follow(t);
  await knows('a', '1');
  await put('b', '1');
  await put('a', '2');
  await knows('b', '1');
  await knows('a', '2');
  await remove('b');
  await knows('b', undefined);
  await cluster.kubectl(['label', 'configmap', 'a', 'watched-']);
  await knows('a', undefined);
  t.is(held.size, 0);
  t.deepEqual(events, ['snapshot', 'put', 'put', 'delete', 'delete']);
  await remove('a');
});

test.serial('many namespaces, and more objects than fit in a chunk', async (t) => {
  await Promise.all(Array.from({ length: 230 }, (_, i) => put(`many-${i}`, String(i))));
  const { held, knows } = follow(t);
  await knows('many-229', '229');
  t.is(held.size, 230);
});

test.serial('a stream that the API server ends in order is replaced without a word', async (t) => {
  const { knows, events } = follow(t, { watch: { lifetimeMs: 600 } });
  for (let i = 0; i < 10; i += 1) {
    await put('ended', String(i));
    await knows('ended', String(i));
    await delay(300);
  }
  t.deepEqual([...new Set(events)], ['snapshot', 'put']);
  t.is(events.filter((type) => type === 'snapshot').length, 1);
});

test.serial('an API server that is killed and comes back: nothing is missed', async (t) => {
  await put('kept', '1');
  await put('lost', '1');
  const { knows, events, problems } = follow(t);
  await knows('lost', '1');
  await cluster.killApiServer();
  await until('it is said to be away', () => events.includes('down'));
  t.like(problems[0], { kind: 'unavailable' });
  await cluster.startApiServer();
  await remove('lost');
  await put('kept', '2');
  await knows('kept', '2');
  await knows('lost', undefined);
});

test.serial('a watch whose version has expired begins anew', async (t) => {
  await put('kept', '1');
  await put('lost', '1');
  await using relay = await relayed();
  const { knows, events, problems } = follow(t, { kubeconfig: relay.kubeconfig });
  await knows('lost', '1');
  // It loses its connection, and takes it up again only when its version is forgotten.
  relay.hold();
  relay.cut();
  await remove('lost');
  await cluster.expireRevisions();
  await put('kept', '2');
  relay.resume();
  await knows('kept', '2');
  await knows('lost', undefined);
  t.deepEqual(problems, []);
  t.deepEqual(events.slice(0, 2), ['snapshot', 'snapshot']);
});

test.serial('a cluster that is put back to an older state is seen as it is', async (t) => {
  await put('old', '1');
  const snapshot = await cluster.etcdSnapshot();
  const { knows } = follow(t);
  await knows('old', '1');
  await put('old', '2');
  await put('new', '1');
  await knows('new', '1');
  await cluster.etcdRestore(snapshot);
  await knows('old', '1');
  await knows('new', undefined);
  await put('after', '1');
  await knows('after', '1');
  t.pass();
});

test.serial('a connection that was forgotten on its way is found out', async (t) => {
  await using relay = await relayed();
  const { driver, knows, events, problems } = follow(t, { kubeconfig: relay.kubeconfig, watch: { idleMs: 1_000 } });
  await put('a', '1');
  await knows('a', '1');
  // Others wait for use, and are forgotten as well.
  await Promise.all(Array.from({ length: 5 }, () => driver.list(ConfigMap)));
  relay.silence();
  await put('a', '2');
  await knows('a', '2');
  t.deepEqual(problems, []);
  t.is(events.filter((type) => type === 'snapshot').length, 1);
});

test.serial('an API server that throttles is a problem with a name, and then none', async (t) => {
  const { knows, events, problems } = follow(t);
  await put('a', '1');
  await knows('a', '1');
  await cluster.killApiServer();
  await cluster.startApiServer({ 'max-requests-inflight': '1', 'enable-priority-and-fairness': 'false' });
  const flood = new KubernetesDriver({ kubeconfig: await cluster.user('flood', ['watchers']), context: '' });
  t.teardown(() => flood.close());
  await cluster.kubectl(['create', 'clusterrolebinding', 'flood', '--clusterrole=cluster-admin', '--user=flood']);
  const outcomes = await Promise.allSettled(Array.from({ length: 200 }, () => flood.list(ConfigMap)));
  const kinds = outcomes.flatMap((one) => (one.status === 'rejected' ? [one.reason as ClusterError] : []));
  t.true(kinds.some(({ kind, retryAfterMs }) => kind === 'throttled' && retryAfterMs === 1_000));
  t.deepEqual(
    kinds.filter(({ kind }) => kind !== 'throttled'),
    [],
  );
  await put('a', '2');
  await knows('a', '2');
  t.true(problems.every(({ kind }) => kind === 'unavailable' || kind === 'throttled'));
  t.is(events[0], 'snapshot');
  await cluster.killApiServer();
  await cluster.startApiServer({});
});

test.serial('whoever may not watch is told, and goes on when the right is given', async (t) => {
  const { events, problems, knows } = follow(t, { kubeconfig: await cluster.user('late') });
  await until('it is refused', () => problems.length > 0);
  t.like(problems[0], { kind: 'forbidden' });
  t.true(problems[0] instanceof ClusterError);
  await put('a', '1');
  await cluster.kubectl(['create', 'clusterrole', 'late', '--verb=list,watch', '--resource=configmaps']);
  await cluster.kubectl(['create', 'clusterrolebinding', 'late', '--clusterrole=late', '--user=late']);
  await knows('a', '1');
  t.is(events.filter((type) => type === 'down').length, 1);
});
