import { globSync } from 'node:fs';
import { readdir, readFile, readlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'ava';
import { startAdmissionWebhook } from '../harness/kubernetes/admission_webhook.ts';
import { apiClient } from '../harness/kubernetes/api_client.ts';
import type { Flags } from '../harness/kubernetes/api_server.ts';
import { type Kubernetes, startKubernetes } from '../harness/kubernetes/cluster.ts';
import { image } from '../harness/kubernetes/node_engine.ts';
import { until } from '../harness/until.ts';

/** What tests of Kubernetes bays stand on: a real cluster that does as it is told, and leaves nothing. */

const configMap = (name: string, more: object = {}) => ({ metadata: { name, ...more } });
const configMaps = '/api/v1/namespaces/default/configmaps';

async function statusOf(cluster: Kubernetes, name: string): Promise<number> {
  return (await cluster.request('GET', `${configMaps}/${name}`)).status;
}

test.serial('pods run, with logs, exec and a service account, and nothing is left of them', async (t) => {
  const before = await machine();
  const names: string[] = [];
  {
    await using cluster = await startKubernetes({ nodes: ['node-1', 'node-2'] });
    names.push(cluster.folder, ...cluster.nodes.flatMap(({ dockerd }) => [dockerd.dir, dockerd.bridge]));
    const { kubectl } = cluster;
    const nodes = JSON.parse(await kubectl(['get', 'nodes', '--output', 'json']));
    t.deepEqual(
      nodes.items.map((node: { metadata: { name: string } }) => node.metadata.name),
      ['node-1', 'node-2'],
    );
    const container = {
      name: 'main',
      image,
      command: ['sh', '-c', 'echo hello from $HOSTNAME; trap exit TERM; sleep 1000 & wait'],
    };
    const pod = (name: string, nodeName: string) => ({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name },
      // Longer than anybody waits here: it ends when its container does.
      spec: { nodeName, containers: [container], terminationGracePeriodSeconds: 600 },
    });
    const controller = {
      apiVersion: 'v1',
      kind: 'ReplicationController',
      metadata: { name: 'many' },
      spec: {
        replicas: 2,
        selector: { app: 'many' },
        template: { metadata: { labels: { app: 'many' } }, spec: { containers: [container] } },
      },
    };
    const list = { apiVersion: 'v1', kind: 'List', items: [pod('one', 'node-1'), pod('two', 'node-2'), controller] };
    await kubectl(['apply', '--filename', '-'], { input: JSON.stringify(list) });
    await kubectl(['wait', '--for=condition=Ready', 'pod/one', 'pod/two', '--timeout=60s']);
    for (const name of ['one', 'two']) t.is(await kubectl(['logs', name]), `hello from ${name}\n`);
    t.is(await kubectl(['exec', 'one', '--', 'sh', '-c', 'echo said inside']), 'said inside\n');
    const account = '/var/run/secrets/kubernetes.io/serviceaccount';
    t.is(await kubectl(['exec', 'two', '--', 'cat', `${account}/namespace`]), 'default');
    t.is(await kubectl(['exec', 'two', '--', 'cat', `${account}/ca.crt`]), cluster.ca);
    await until('both replicas are ready', async () => {
      const { body } = await cluster.request<{ status: { readyReplicas?: number } }>(
        'GET',
        '/api/v1/namespaces/default/replicationcontrollers/many',
      );
      return body.status.readyReplicas === 2;
    });
    await kubectl(['delete', 'pod', 'one', '--timeout=50s']);
    const there = await traces(names);
    for (const what of [/kubelet/, /overlay/, /tmpfs.*secret/, /^veth/, /sys.fs.cgroup/]) {
      t.true(
        there.some((trace) => what.test(trace)),
        `${what}`,
      );
    }
    names.push(...there.flatMap((trace) => /^(veth\w+) /.exec(trace)?.[1] ?? []));
  }
  t.deepEqual(await machine(), before);
  t.deepEqual(await traces(names), []);
});

test.serial('the control plane crashes, goes back in time and forgets when told to', async (t) => {
  await using cluster = await startKubernetes();
  const create = (name: string) => cluster.request('POST', configMaps, { body: { metadata: { name } } });
  const watchFrom = async (resourceVersion: string) => {
    const path = `${configMaps}?watch=1&timeoutSeconds=1&resourceVersion=${resourceVersion}`;
    return JSON.stringify((await cluster.request('GET', path)).body);
  };
  const currentVersion = async () => {
    const { body } = await cluster.request<{ metadata: { resourceVersion: string } }>('GET', configMaps);
    return body.metadata.resourceVersion;
  };

  t.is((await create('early')).status, 201);
  const snapshot = await cluster.etcdSnapshot();
  await create('late');
  await cluster.killApiServer();
  await t.throwsAsync(cluster.request('GET', configMaps), { message: /ECONNREFUSED/ });
  await cluster.startApiServer();
  t.is(await statusOf(cluster, 'late'), 200);

  await cluster.etcdRestore(snapshot);
  t.is(await statusOf(cluster, 'early'), 200);
  t.is(await statusOf(cluster, 'late'), 404);

  const old = await currentVersion();
  t.notRegex(await watchFrom(old), /"code":410/);
  await cluster.expireRevisions();
  t.regex(await watchFrom(old), /"code":410/);
  t.notRegex(await watchFrom(await currentVersion()), /"code":410/);

  await cluster.stopApiServer();
  t.false(cluster.apiServer.running);
  // Without a cache of its own the API server knows what etcd knows.
  await cluster.startApiServer({ 'watch-cache': 'false' });
  const uncached = await currentVersion();
  await cluster.compact();
  t.regex(await watchFrom(uncached), /"code":410/);
});

test.serial('users have their own rights, by certificate, token and plugin', async (t) => {
  await using cluster = await startKubernetes({ audit: true });
  const { kubectl } = cluster;
  const alice = await cluster.user('alice', ['readers']);
  const whileRefused = { message: /User "alice" cannot list resource "configmaps"/ };
  await t.throwsAsync(kubectl(['get', 'configmaps'], { kubeconfig: alice }), whileRefused);
  await kubectl(['create', 'clusterrole', 'reader', '--verb=list', '--resource=configmaps']);
  await kubectl(['create', 'clusterrolebinding', 'readers', '--clusterrole=reader', '--group=readers']);
  await until('she may', async () => kubectl(['get', 'configmaps'], { kubeconfig: alice }).then(() => true));

  const account = await cluster.serviceAccount('agents', 'agent');
  t.deepEqual((await readdir(account.folder)).sort(), ['ca.crt', 'namespace', 'token']);
  await kubectl(['create', 'clusterrolebinding', 'agent', '--clusterrole=reader', '--serviceaccount=agents:agent']);
  const byFile = await cluster.writeKubeconfig({ user: { tokenFile: account.tokenFile } });
  const first = await readFile(account.tokenFile, 'utf8');
  const byFirst = await cluster.writeKubeconfig({ user: { token: first } });
  await until('the account may', async () => kubectl(['get', 'configmaps'], { kubeconfig: byFile }).then(() => true));
  await account.rotate();
  t.not(await readFile(account.tokenFile, 'utf8'), first);
  await kubectl(['get', 'configmaps'], { kubeconfig: byFile });
  const refused = () => kubectl(['get', 'configmaps'], { kubeconfig: byFirst }).catch(({ message }: Error) => message);
  await until('the old token is refused', async () => /Unauthorized/.test(await refused()));

  const plugin = path.join(cluster.folder, 'plugin');
  const credential = { apiVersion: 'client.authentication.k8s.io/v1beta1', kind: 'ExecCredential' };
  const status = { token: await readFile(account.tokenFile, 'utf8') };
  await writeFile(plugin, `#!/bin/sh\necho '${JSON.stringify({ ...credential, status })}'\n`, { mode: 0o755 });
  const exec = { apiVersion: credential.apiVersion, command: plugin };
  await kubectl(['get', 'configmaps'], { kubeconfig: await cluster.writeKubeconfig({ user: { exec } }) });

  const events = await cluster.audit();
  const lists = events.filter(
    ({ resource, userAgent }) => resource === 'configmaps' && userAgent.startsWith('kubectl/'),
  );
  t.deepEqual([...new Set(lists.map(({ verb, user }) => `${user} ${verb}`))], ['alice list', `${account.user} list`]);
  t.deepEqual([...new Set(lists.map(({ code }) => code))], [403, 200]);
});

test.serial('webhooks refuse and change what is written, until they are gone', async (t) => {
  await using cluster = await startKubernetes();
  const rules = [{ apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['configmaps'] }];
  {
    await using refusing = await startAdmissionWebhook(cluster, {
      rules,
      review: ({ object }) =>
        object.metadata.name === 'bad' ? { allowed: false, message: 'not this one', code: 403 } : { allowed: true },
    });
    await using _labelling = await startAdmissionWebhook(cluster, {
      kind: 'Mutating',
      rules,
      review: () => ({
        allowed: true,
        patch: [{ op: 'add', path: '/metadata/labels', value: { injected: 'yes' } }],
      }),
    });
    const bad = await cluster.request<{ message: string }>('POST', configMaps, { body: configMap('bad') });
    t.is(bad.status, 403);
    t.regex(bad.body.message, /admission webhook .* denied the request: not this one/);
    const good = await cluster.request<{ metadata: object }>('POST', configMaps, { body: configMap('good') });
    t.like(good, { status: 201, body: { metadata: { labels: { injected: 'yes' } } } });
    t.is(refusing.calls, 2);
  }
  t.is((await cluster.request('POST', configMaps, { body: configMap('bad') })).status, 201);
});

test.serial('clusters run beside each other, and throttle when told to', async (t) => {
  await using stack = new AsyncDisposableStack();
  const slow: Flags = { 'max-requests-inflight': '1', 'enable-priority-and-fairness': 'false' };
  const [one, two] = await Promise.all(
    [{}, slow].map(async (apiServerFlags) => stack.use(await startKubernetes({ apiServerFlags }))),
  );
  if (!one || !two) throw new Error('there are two');
  await one.request('POST', configMaps, { body: configMap('here') });
  t.is(await statusOf(two, 'here'), 404);
  // Members of system:masters are not held back.
  const { cert, key } = await two.certificate({ commonName: 'bob', organizations: ['readers'] });
  await two.kubectl(['create', 'clusterrole', 'reader', '--verb=list', '--resource=configmaps']);
  await two.kubectl(['create', 'clusterrolebinding', 'readers', '--clusterrole=reader', '--group=readers']);
  using bob = apiClient({ url: two.url, ca: two.ca, cert, key });
  await until('bob may', async () => (await bob.request('GET', configMaps)).status === 200);
  const answers = await Promise.all(Array.from({ length: 100 }, () => bob.request('GET', configMaps)));
  t.deepEqual([...new Set(answers.map(({ status }) => status))].sort(), [200, 429]);
});

/** What a cluster must not change of the machine. */
async function machine(): Promise<object> {
  const settings = [
    'vm/overcommit_memory',
    'vm/panic_on_oom',
    'kernel/panic',
    'kernel/panic_on_oops',
    'kernel/keys/root_maxkeys',
  ];
  const values = settings.map(async (name) => [name, await readFile(`/proc/sys/${name}`, 'utf8')]);
  return {
    settings: Object.fromEntries(await Promise.all(values)),
    logs: globSync('/var/log/{pods,containers}/**'),
    kubelet: globSync([
      '/var/{lib,run}/{kubelet,dockershim*}/**',
      '/sys/fs/cgroup/{,*/}kubepods',
      '/usr/libexec/kubernetes/**',
    ]),
  };
}

/** What of a cluster's engines and kubelets, by their folders and bridges, is on the machine outside of their folders. */
async function traces(names: readonly string[]): Promise<string[]> {
  const isOurs = (text: string) => names.some((name) => text.includes(name));
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const processes = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')));
  const mounts = (await readFile('/proc/self/mounts', 'utf8')).split('\n');
  const devices = await Promise.all(
    (await readdir('/sys/class/net')).map(async (name) => `${name} ${await masterOf(name)}`),
  );
  const folders = globSync([`${tmpdir()}/*`, '/sys/fs/cgroup/{,*/}*']);
  return [...processes, ...mounts, ...devices, ...folders].filter(isOurs);
}

/** The bridge that a network device is on. */
const masterOf = (device: string) => readlink(`/sys/class/net/${device}/master`).catch(() => '');
