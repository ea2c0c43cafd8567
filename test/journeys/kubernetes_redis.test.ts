import { cp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { type KubernetesSite, startKubernetesSite } from '../harness/kubernetes_site.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';

/**
 * The redis example of Kubernetes' early days, as users had it: a master pod, a service of the sentinels, and two replication controllers. The image is a
 * stand-in that listens on the port which it would have.
 */

const image = { repo: 'kubernetes/redis', tag: 'v1' };
const listens =
  'port=6379; [ -n "$SENTINEL" ] && port=26379; echo "listening on $port"; trap "exit 0" TERM; while :; do nc -l -p $port >/dev/null; done & wait';

let site: KubernetesSite;
test.before(async () => {
  site = await startKubernetesSite({
    cluster: { nodes: ['node-1'], audit: true },
    controlPlane: { args: ['--heartbeat', '1s'] },
    // With what deploy/ says that an agent needs, and no more.
    async kubeconfig(cluster) {
      await cluster.kubectl(['apply', '-f', join(import.meta.dirname, '../../deploy/kubernetes/rbac.yaml')]);
      return cluster.writeKubeconfig({
        user: { tokenFile: (await cluster.serviceAccount('baykeeper', 'baykeeper-agent')).tokenFile },
      });
    },
  });
  const { docker } = site.cluster.nodes[0]?.dockerd ?? {};
  if (!docker) throw new Error('the cluster has no node');
  const made = await docker.createContainer({ Image: 'busybox:test', Cmd: ['sh', '-c', listens] });
  await made.commit({ repo: image.repo, tag: image.tag });
  await made.remove();
});
test.after.always(async () => site?.[Symbol.asyncDispose]());

interface Listed {
  readonly items: readonly {
    readonly metadata: { readonly name: string };
    readonly spec: { readonly replicas?: number };
    readonly status: { readonly phase?: string };
  }[];
}
/** What the cluster itself has of a kind, by name. */
async function inCluster(plural: string): Promise<Listed['items']> {
  return (JSON.parse(await site.cluster.kubectl(['get', plural, '-o', 'json'])) as Listed).items;
}
const names = async (plural: string) => (await inCluster(plural)).map(({ metadata }) => metadata.name).sort();
const ready = (count: number) => async () =>
  (await site.json('get', 'rc', 'redis')).status?.replicasReady === count &&
  (await site.json('get', 'rc', 'redis-sentinel')).status?.replicasReady === count;

test.serial('the redis example is applied, scaled, edited and deleted', async (t) => {
  await using folder = await temporaryFolder('redis');
  await cp(join(import.meta.dirname, 'redis'), folder.path, { recursive: true });

  // The service is a real one, and so is the answer of a dry run about all of it.
  const checked = await site.ctl('apply', '-f', folder.path, '--dry-run=server');
  for (const name of ['pod/redis-master', 'service/redis-sentinel', 'replicationcontroller/redis'])
    t.true(checked.includes(name));
  t.deepEqual(await names('pods'), []);

  // The master first, as in the example: a controller that is there before it, and has made a pod of its own, has one too many then, and ends it.
  await site.ctl('apply', '-f', join(folder.path, 'redis-master.yaml'));
  await until('the master runs', async () => {
    const { status } = await site.json('get', 'pod', 'redis-master');
    return status?.phase === 'POD_PHASE_RUNNING' && status.containersReady === 2 && status.containers === 2;
  });
  const applied = await site.ctl('apply', '-f', folder.path);
  t.is(applied.match(/created/g)?.length, 3, applied);
  t.is(applied.match(/unchanged/g)?.length, 1, applied);
  await until('both controllers have their pod', ready(1), { timeoutMs: 60_000 });
  await until('the service leads to the sentinels', async () => {
    const { status } = await site.json('get', 'service', 'redis-sentinel');
    return status?.endpointsReady?.length >= 1 && /^10\./.test(status?.clusterIp);
  });
  t.regex(await site.ctl('logs', 'pod/redis-master', '-c', 'sentinel'), /listening on 26379/);
  t.is(await site.ctl('exec', 'pod/redis-master', '-c', 'master', '--', 'echo', 'inside'), 'inside\n');
  t.regex(await site.ctl('get', 'pods'), /redis-master +2\/2 +Running/i);
  t.regex(await site.ctl('get', 'nodes'), /node-1/);
  t.is((await site.ctl('apply', '-f', folder.path)).match(/unchanged/g)?.length, 4);

  await site.ctl('scale', 'rc/redis', '--replicas=2');
  await site.ctl('scale', 'rc/redis-sentinel', '--replicas=2');
  await until('both controllers have two pods', ready(2), { timeoutMs: 60_000 });
  t.deepEqual(
    (await inCluster('replicationcontrollers')).map(({ metadata, spec }) => [metadata.name, spec.replicas]),
    [
      ['redis', 2],
      ['redis-sentinel', 2],
    ],
  );

  // Edited in the file: the service gets a second port; the difference is shown before it is made.
  const file = join(folder.path, 'redis-sentinel-service.yaml');
  const service = await readFile(file, 'utf8');
  await writeFile(
    file,
    service.replace(
      '- port: 26379',
      '- name: again\n      port: 26380\n      targetPort: 26379\n    - name: sentinel\n      port: 26379',
    ),
  );
  t.regex(await site.ctl('apply', '-f', file), /configured/);
  await until('the cluster has the new port', async () => {
    const { status } = await site.json('get', 'service', 'redis-sentinel');
    return String(status?.ports).includes('26380');
  });

  // Edited in the cluster: a pod that was deleted by hand is there again.
  await site.cluster.kubectl(['delete', 'pod', 'redis-master', '--grace-period=0', '--force']);
  await until('the master is there again', async () => (await names('pods')).includes('redis-master'), {
    timeoutMs: 10_000,
  });
  t.regex(await site.ctl('why', 'pod/redis-master'), /kubernetes\//);

  // In a namespace that is made for it, and goes after it.
  await site.ctl('apply', '-f', join(folder.path, 'redis-master.yaml'), '-n', 'extra', '--create-namespace');
  await until(
    'it runs there',
    async () => (await site.json('get', 'pod', 'redis-master', '-n', 'extra')).status?.containersReady === 2,
    {
      timeoutMs: 60_000,
    },
  );
  await site.ctl('delete', 'pod', 'redis-master', '-n', 'extra');
  await until('the namespace is gone', async () => !(await names('namespaces')).includes('extra'), {
    timeoutMs: 60_000,
  });

  await site.ctl('delete', '-f', folder.path);
  await until('nothing of it is left', async () => (await names('pods')).length === 0, { timeoutMs: 60_000 });
  t.deepEqual(await names('replicationcontrollers'), []);
  t.deepEqual(await names('services'), ['kubernetes']);
  t.notRegex(await site.ctl('get', 'pods,services,rc'), /redis/);
  const refused = (await site.cluster.audit()).filter(
    ({ user, code }) => user.endsWith(':baykeeper-agent') && code === 403,
  );
  t.deepEqual(
    refused.map(({ verb, uri }) => `${verb} ${uri}`),
    [],
    'the agent has every right that it uses',
  );
});
