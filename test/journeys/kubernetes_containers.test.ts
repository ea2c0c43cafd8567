import test from 'ava';
import { bayctl } from '../harness/bayctl.ts';
import { startDockerd } from '../harness/dockerd.ts';
import { bay, startKubernetesSite } from '../harness/kubernetes_site.ts';
import { until } from '../harness/until.ts';

/** Containers of a Kubernetes bay go to the Docker engine of its master, where there is one. */

test.serial('a container runs beside the cluster', async (t) => {
  await using dockerd = await startDockerd();
  await dockerd.importBusybox('busybox:test');
  await using site = await startKubernetesSite({
    controlPlane: { args: ['--heartbeat', '1s'] },
    dockerSocket: () => dockerd.socketPath,
  });
  const command = ['--', 'sh', '-c', 'echo hello; trap "exit 0" TERM; sleep 1000 & wait'];
  await site.ctl('run', 'web', '--image', 'busybox:test', ...command);
  await site.ctl('wait', 'container/web', '--for=phase=RUNNING');
  const running = await dockerd.docker.listContainers();
  t.deepEqual(
    running.flatMap(({ Names }) => Names),
    ['/web'],
  );
  t.is(await site.ctl('logs', 'container/web'), 'hello\n');
  t.is(await site.ctl('exec', 'container/web', '--', 'echo', 'inside'), 'inside\n');
  await dockerd.docker.getContainer(running[0]?.Id ?? '').remove({ force: true });
  await until('it is there again', async () => (await dockerd.docker.listContainers()).length === 1);
  t.regex(await site.ctl('why', 'container/web'), /docker\/master-1/);
  await site.ctl('delete', 'container', 'web');
  await until('it is gone', async () => (await dockerd.docker.listContainers({ all: true })).length === 0);
});

test.serial('without an engine the call says so', async (t) => {
  await using site = await startKubernetesSite();
  const { code, stderr } = await bayctl(site.controlPlane, ['run', 'web', '-b', bay, '--image', 'busybox:test']);
  t.not(code, 0);
  t.regex(stderr, /Kubernetes bay without a Docker engine/);
});
