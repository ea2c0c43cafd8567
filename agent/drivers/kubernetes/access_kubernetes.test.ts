import { once } from 'node:events';
import { appendFile, chmod, copyFile, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { type Kubernetes, startKubernetes } from '../../../test/harness/kubernetes/cluster.ts';
import { until } from '../../../test/harness/until.ts';
import { resourceTypes } from '../cluster_driver.ts';
import { ClusterError } from '../cluster_error.ts';
import { KubernetesDriver, type KubernetesDriverOptions } from './driver.ts';

let cluster: Kubernetes;
const { Pod } = resourceTypes;

test.before(async () => {
  cluster = await startKubernetes();
});
test.after.always(async () => {
  await cluster?.[Symbol.asyncDispose]();
});

function connectDriver(t: ExecutionContext, options: Partial<KubernetesDriverOptions>): KubernetesDriver {
  const driver = new KubernetesDriver({ kubeconfig: '', context: '', ...options });
  t.teardown(() => driver.close());
  return driver;
}

/** Lets a user read pods. */
async function allow(user: string): Promise<void> {
  const name = user.replaceAll(/[^a-z0-9]/g, '-');
  await cluster.kubectl(['create', 'clusterrole', name, '--verb=get,list,watch', '--resource=pods']);
  await cluster.kubectl(['create', 'clusterrolebinding', name, `--clusterrole=${name}`, `--user=${user}`]);
}

test.serial("a pod's service account: its token is replaced, and nothing is noticed", async (t) => {
  const account = await cluster.serviceAccount('agents', 'agent');
  await allow(account.user);
  const { hostname, port } = new URL(cluster.url);
  const env = { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port };
  const driver = connectDriver(t, { env, serviceAccountDir: account.folder });
  await driver.list(Pod);
  const old = await readFile(account.tokenFile, 'utf8');
  await account.rotate();
  const outdated = connectDriver(t, { kubeconfig: await cluster.writeKubeconfig({ user: { token: old } }) });
  // All the while it is used, also in the moment when the old one stops being good.
  await until('the old token is refused', async () => {
    await driver.list(Pod);
    return await outdated.list(Pod).then(
      () => false,
      (error: ClusterError) => error.kind === 'unauthorized',
    );
  });
  await driver.list(Pod);
  t.pass();
});

test.serial(
  'a client certificate in files is replaced, and the new one is used when the old one is refused',
  async (t) => {
    const issue = (commonName: string) => cluster.certificate({ commonName });
    const file = (name: string) => join(cluster.folder, name);
    const put = async ({ certFile, keyFile }: { readonly certFile: string; readonly keyFile: string }) => {
      await copyFile(certFile, file('rotated.crt'));
      await copyFile(keyFile, file('rotated.key'));
    };
    await allow('renamed');
    await put(await issue('before'));
    const driver = connectDriver(t, {
      kubeconfig: await cluster.writeKubeconfig({
        user: { 'client-certificate': file('rotated.crt'), 'client-key': file('rotated.key') },
      }),
      refreshMs: 200,
    });
    await t.throwsAsync(driver.list(Pod), { instanceOf: ClusterError, message: /User "before" cannot list/ });
    await put(await issue('renamed'));
    await until('the new one is used', async () => {
      await driver.list(Pod);
      return true;
    });
    t.pass();
  },
);

test.serial('a credential plugin whose token runs out is run again; also with a certificate', async (t) => {
  const account = await cluster.serviceAccount('agents', 'plugged');
  await allow(account.user);
  await allow('certified');
  const { cert, key } = await cluster.certificate({ commonName: 'certified' });
  const plugin = join(cluster.folder, 'plugin');
  const runs = join(cluster.folder, 'plugin-runs');
  const says = join(cluster.folder, 'plugin-says');
  await writeFile(plugin, `#!/bin/sh\necho "$1" >> ${runs}\ncat ${says}\n`);
  await chmod(plugin, 0o755);
  const apiVersion = 'client.authentication.k8s.io/v1beta1';
  const say = (status: object) => writeFile(says, JSON.stringify({ apiVersion, kind: 'ExecCredential', status }));
  const kubeconfig = await cluster.writeKubeconfig({ user: { exec: { apiVersion, command: plugin, args: ['run'] } } });

  const expirationTimestamp = new Date(Date.now() + 60_000).toISOString();
  await say({ token: await readFile(account.tokenFile, 'utf8'), expirationTimestamp });
  const driver = connectDriver(t, { kubeconfig });
  await Promise.all(Array.from({ length: 5 }, () => driver.list(Pod)));
  t.is(await readFile(runs, 'utf8'), 'run\n');
  await account.rotate();
  await say({ token: await readFile(account.tokenFile, 'utf8'), expirationTimestamp });
  await until('the old token is refused', async () => {
    await driver.list(Pod);
    return (await readFile(runs, 'utf8')) === 'run\nrun\n';
  });

  await say({ clientCertificateData: cert, clientKeyData: key });
  await connectDriver(t, { kubeconfig }).list(Pod);
  t.pass();
});

test.serial('the API server has to prove who it is', async (t) => {
  const { cert: ca } = await cluster.certificate({ commonName: 'somebody else' });
  const admin = JSON.parse(await readFile(cluster.kubeconfig, 'utf8'));
  const variant = async (name: string, change: object) => {
    const [{ cluster: one }] = admin.clusters;
    const path = join(cluster.folder, name);
    await writeFile(path, JSON.stringify({ ...admin, clusters: [{ name: 'test', cluster: { ...one, ...change } }] }));
    return connectDriver(t, { kubeconfig: path });
  };
  const other = {
    'certificate-authority': undefined,
    'certificate-authority-data': Buffer.from(ca).toString('base64'),
  };
  const refused = await t.throwsAsync((await variant('other-ca', other)).ping(), { instanceOf: ClusterError });
  t.like(refused, { kind: 'unavailable', reason: 'Certificate' });
  t.regex(refused?.message ?? '', /^the certificate of the API server at 127\.0\.0\.1:\d+ is not good: /);
  await (
    await variant('no-check', { ...other, 'certificate-authority-data': undefined, 'insecure-skip-tls-verify': true })
  ).list(Pod);

  await (await variant('name', { 'tls-server-name': 'kubernetes.default.svc' })).list(Pod);
  const misnamed = (await variant('wrong-name', { 'tls-server-name': 'elsewhere' })).list(Pod);
  t.regex((await t.throwsAsync(misnamed))?.message ?? '', /does not match certificate's altnames/);
});

test.serial(
  'an authority that is replaced on disk is trusted as soon as the old one does not fit any more',
  async (t) => {
    const { cert } = await cluster.certificate({ commonName: 'old authority' });
    const folder = (await cluster.serviceAccount('agents', 'moved')).folder;
    await writeFile(join(folder, 'ca.crt'), cert);
    const { hostname, port } = new URL(cluster.url);
    const env = { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port };
    const driver = connectDriver(t, { env, serviceAccountDir: folder });
    await t.throwsAsync(driver.ping(), { message: /is not good/ });
    await writeFile(join(folder, 'ca.crt'), cluster.ca);
    // Not more often than once a second.
    await delay(1_100);
    await driver.ping();
    t.pass();
  },
);

test.serial('a proxy is gone through, by everything', async (t) => {
  const connects: string[] = [];
  const proxy = createServer().on('connect', ({ url = '', headers }, near) => {
    connects.push(`${url} ${headers['proxy-authorization'] ?? ''}`);
    const { hostname, port } = new URL(`http://${url}`);
    const far = connect(Number(port), hostname, () => near.write('HTTP/1.1 200 OK\r\n\r\n'));
    near.pipe(far).pipe(near);
    near.on('error', () => far.destroy());
    far.on('error', () => near.destroy());
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  t.teardown(() => proxy.close());
  const { port } = proxy.address() as AddressInfo;
  const config = JSON.parse(await readFile(cluster.kubeconfig, 'utf8'));
  config.clusters[0].cluster['proxy-url'] = `http://me:secret@127.0.0.1:${port}`;
  const path = join(cluster.folder, 'proxied');
  await writeFile(path, JSON.stringify(config));
  const driver = connectDriver(t, { kubeconfig: path });
  await driver.list(Pod);
  const { host } = new URL(cluster.url);
  const through = `${host} Basic ${Buffer.from('me:secret').toString('base64')}`;
  t.deepEqual(connects, [through]);
  // A pod that looks as if it ran, on a node that there is not: only the change of protocol finds that out.
  const pods = '/api/v1/namespaces/default/pods';
  const containers = [{ name: 'c', image: 'i' }];
  await cluster.request('POST', pods, {
    body: { metadata: { name: 'far' }, spec: { nodeName: 'nowhere', containers } },
  });
  const status = { containerStatuses: [{ name: 'c', state: { running: {} } }] };
  const contentType = 'application/merge-patch+json';
  await cluster.request('PATCH', `${pods}/far/status`, { body: { status }, contentType });
  const pod = { namespace: 'default', name: 'far', container: '' };
  for (const stdin of [false, true]) {
    const error = await t.throwsAsync(driver.exec(pod, { command: ['true'], tty: false, stdin, size: undefined }));
    t.regex(error?.message ?? '', /"nowhere" not found/);
  }
  t.deepEqual(connects, [through, through, through]);
});

test.serial('a kubeconfig is mended while the agent runs', async (t) => {
  const path = join(cluster.folder, 'mended');
  const driver = connectDriver(t, { kubeconfig: path });
  await t.throwsAsync(driver.ping(), { message: `cannot read the kubeconfig ${path}: there is no such file` });
  await copyFile(cluster.kubeconfig, path);
  await driver.ping();
  await appendFile(path, '\n');
  await driver.list(Pod);
});

test.serial('a connection that was closed meanwhile is no error', async (t) => {
  const driver = connectDriver(t, { kubeconfig: cluster.kubeconfig });
  await driver.list(Pod);
  await cluster.stopApiServer();
  await cluster.startApiServer();
  await driver.list(Pod);
  t.pass();
});
