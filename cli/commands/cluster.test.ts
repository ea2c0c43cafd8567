import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import test from 'ava';
import { PodPhase } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import type { ReplicationController } from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { startFixture } from '../control_plane_fixture.ts';
import { clusterNode, readyNode } from '../node_fixture.ts';
import { bayctl, lastInput } from '../run_fixture.ts';

const minuteMs = 60_000;

test('scale changes how many replicas are asked for, and nothing else', async (t) => {
  await using plane = await startFixture();
  const { cluster } = plane;
  const manifest = { selector: { name: 'redis' }, template: { spec: { containers: [] } } };
  cluster.put('ReplicationController', 'redis', ({ spec }) =>
    Object.assign(spec ?? {}, { manifest: { ...manifest, replicas: 1 }, adopt: true }),
  );
  cluster.put('ReplicationController', 'other');
  const asked = (name: string) =>
    (cluster.objects.get(`ReplicationController/default/${name}`) as ReplicationController).spec;
  const run = (...words: string[]) => bayctl(plane, ['scale', ...words, '-b', 'edge']);
  t.deepEqual(await run('rc/redis', '--replicas=2'), {
    stdout: 'replicationcontroller/redis scaled\n',
    stderr: '',
    status: 0,
  });
  t.like(asked('redis'), { manifest: { ...manifest, replicas: 2 }, adopt: true });
  t.deepEqual(lastInput<{ paths: string[] }>(plane).paths, ['spec.manifest']);
  t.is((await run('rc', 'redis', '--replicas=2')).stdout, 'replicationcontroller/redis unchanged\n');

  const wrong = await run('rc/redis', '--replicas=5', '--current-replicas=3');
  t.is(wrong.stderr, 'Error: replicationcontroller/redis is asked for 2 replicas, and not for 3\n');
  t.is(wrong.status, 5);
  t.is((await run('rc/redis', '--replicas=3', '--current-replicas=2')).status, 0);

  // Somebody was faster: it is read again.
  plane.failures.set('updateReplicationController', new ConnectError('it was changed by somebody else', Code.Aborted));
  t.is(
    (await run('rc', '--all', '--replicas=0')).stdout,
    'replicationcontroller/redis scaled\nreplicationcontroller/other scaled\n',
  );
  t.is(asked('other')?.manifest?.replicas, 0);
  t.is((await run('rc/none', '--replicas=1')).status, 4);
  t.regex((await run('pod/web', '--replicas=1')).stderr, /a pod cannot be scaled, a replicationcontroller can/);
  t.is((await run('rc/redis', '--replicas=-1')).status, 2);
  t.is((await run('rc/redis')).status, 2);
});

test('wait knows the conditions of pods, and when controllers and services are ready', async (t) => {
  await using plane = await startFixture();
  const { cluster } = plane;
  const run = (...words: string[]) => bayctl(plane, ['wait', ...words, '-b', 'edge', '--timeout', '0']);
  const conditions = (ready: string) => [
    { type: 'Ready', status: ready },
    { type: 'example.com/Gate', status: 'True' },
  ];
  const put = (ready: string, more = {}) =>
    cluster.put('Pod', 'web', ({ status }) =>
      Object.assign(status ?? {}, { manifest: { phase: 'Running', conditions: conditions(ready) }, ...more }),
    );
  put('False', { containersReady: 0 });
  const late = await run('--for=condition=Ready', 'pod/web');
  t.is(late.status, 7);
  t.regex(late.stderr, /pod\/web is not in condition Ready=True after \d+s: RUNNING, 0\/1 ready/);
  t.is((await run('--for=condition=ready=false', 'pod/web')).status, 0);
  t.is((await run('--for=condition=example.com/gate', 'pod/web')).status, 0);
  t.is((await run('--for=phase=Running', 'pod/web')).status, 0);
  const watches = () => plane.calls.filter(({ method }) => method === 'watchPods').length;
  const before = watches();
  const waiting = bayctl(plane, ['wait', '--for=condition=Ready', 'pod/web', '-b', 'edge', '--timeout', '20s']);
  while (watches() === before) await new Promise(setImmediate);
  put('True');
  t.is((await waiting).stdout, 'pod/web is in condition Ready=True\n');
  put('True', { phase: PodPhase.FAILED, reason: 'Invalid' });
  t.regex((await run('--for=condition=Ready', 'pod/web')).stderr, /FAILED, Invalid, 0\/1 ready/);
  put('True', { phase: PodPhase.UNKNOWN });
  t.is((await run('--for=condition=Ready', 'pod/web')).status, 7);
  put('True', { phase: PodPhase.RUNNING });
  cluster.put('Pod', 'web', ({ metadata }) => Object.assign(metadata ?? {}, { generation: 2n }));
  t.is((await run('--for=condition=Ready', 'pod/web')).status, 7, 'that speaks of the generation before');

  cluster.put('ReplicationController', 'rc', ({ status }) =>
    Object.assign(status ?? {}, { replicasWanted: 2, replicasReady: 1 }),
  );
  t.regex((await run('--for=condition=Ready', 'rc/rc')).stderr, /RUNNING, 1\/2 ready/);
  t.is((await run("--for=jsonpath='{.status.replicasReady}'=1", 'rc/rc')).status, 0);
  cluster.put('ReplicationController', 'rc', ({ status }) => Object.assign(status ?? {}, { replicasReady: 2 }));
  t.is((await run('--for=condition=Ready', 'rc/rc')).status, 0);
  cluster.put('Service', 's');
  t.is((await run('--for=condition=Ready', 'svc/s')).status, 7);
  cluster.put('Service', 's', ({ status }) => Object.assign(status ?? {}, { endpointsReady: ['10.1.0.5:80'] }));
  t.is((await run('--for=condition=Ready', 'svc/s')).status, 0);
  t.is((await run('--for=condition=Available', 'rc/rc')).status, 2);
});

test('describe shows the containers of a pod, its conditions, its events, and the manifest as it was written', async (t) => {
  await using plane = await startFixture();
  const now = Date.now();
  const at = (ms: number) => new Date(now - ms).toISOString();
  plane.cluster.put('Pod', 'web', ({ spec, status }) => {
    Object.assign(spec ?? {}, {
      manifest: {
        containers: [
          { name: 'main', image: 'nginx:1' },
          { name: 'side', image: 'busybox' },
        ],
        restartPolicy: 'Always',
      },
    });
    Object.assign(status ?? {}, {
      restarts: 3,
      manifest: {
        phase: 'Running',
        conditions: [
          { type: 'Ready', status: 'False', reason: 'ContainersNotReady', lastTransitionTime: at(5 * minuteMs) },
        ],
        containerStatuses: [
          {
            name: 'main',
            restartCount: 3,
            state: { waiting: { reason: 'CrashLoopBackOff', message: 'back-off 10s\u001b[31m' } },
            lastState: { terminated: { exitCode: 1, reason: 'Error', finishedAt: at(minuteMs) } },
          },
          { name: 'side', ready: true, state: { running: { startedAt: at(30 * minuteMs) } } },
        ],
      },
    });
    status?.events.push({
      $typeName: 'baykeeper.v1.ClusterEvent',
      type: 'Warning',
      reason: 'BackOff',
      message: 'Back-off restarting failed container',
      source: 'kubelet',
      count: 12,
      firstTime: timestampFromMs(now - 60 * minuteMs),
      lastTime: timestampFromMs(now - 5 * minuteMs),
    });
  });
  const { stdout, stderr } = await bayctl(plane, ['describe', 'pod', 'web', '-b', 'edge'], { nowMs: () => now });
  t.is(stderr, '');
  t.regex(stdout, /Asked for:\n {2}Manifest:\n {4}containers:\n {6}- name: main\n {8}image: nginx:1\n/);
  t.regex(stdout, /^State:\n {2}CrashLoopBackOff$/m);
  t.regex(stdout, /^ {2}main:\n {4}Image: +nginx:1\n {4}State: +Waiting, CrashLoopBackOff: back-off 10s\\e\[31m\n/m);
  t.regex(stdout, /Last state: +Terminated, Error, exit code 1, \S+Z \(\S+ ago\)\n/);
  t.regex(stdout, /^ {2}side:\n {4}Image: +busybox\n {4}State: +Running since \S+Z \(\S+ ago\)\n/m);
  t.regex(stdout, /^Conditions:\n {2}TYPE +STATUS .*\n {2}Ready +False +ContainersNotReady +\S+Z \(\S+ ago\)$/m);
  t.regex(
    stdout,
    /^Events:\n {2}TYPE +REASON +AGE +FROM +MESSAGE\n {2}Warning +BackOff +\S+ \(x12 over \S+\) +kubelet +Back-off/m,
  );
  t.false(/fields|containerStatuses/.test(stdout));
  plane.cluster.put('Service', 's');
  t.regex((await bayctl(plane, ['describe', 'svc/s', '-b', 'edge'])).stdout, /^Events:\n {2}<none>$/m);
});

test('why shows the events of the cluster behind its chain', async (t) => {
  await using plane = await startFixture();
  const events = [
    {
      type: 'Warning',
      reason: 'FailedScheduling',
      message: '0/1 nodes are available',
      source: 'default-scheduler',
      count: 1,
    },
  ];
  plane.whyEvents = events;
  const { stdout } = await bayctl(plane, ['why', 'pod/web', '-b', 'edge']);
  t.regex(
    stdout,
    /\nEvents in the cluster:\nTYPE +REASON +.*\nWarning +FailedScheduling +<unknown> +default-scheduler +0\/1 nodes are available\n\nThe image/,
  );
  plane.whyEvents = [];
  t.false((await bayctl(plane, ['why', 'pod/web', '-b', 'edge'])).stdout.includes('Events'));
});

test('top shows of a node of the cluster what its metrics say, and nothing more', async (t) => {
  await using plane = await startFixture();
  plane.nodes.set('worker-1', clusterNode('worker-1'));
  plane.nodes.set('docker-1', readyNode('docker-1'));
  const { stdout } = await bayctl(plane, ['top', 'nodes', '-b', 'edge']);
  t.regex(stdout, /^worker-1 +READY +25% +4 +1Gi +25% +<none> +<none> +<none> +<none> +\d+s ago$/m);
  t.regex(stdout, /^docker-1 +READY +13% +2 +2Gi +25% +1Gi +10% +0\.25 +1\/2 +/m);
});

test('a Kubernetes bay is made with --engine, and its join command comes with a hint', async (t) => {
  await using plane = await startFixture();
  t.is((await bayctl(plane, ['bay', 'create', 'kube', '--engine', 'kubernetes'])).stdout, 'bay/kube created\n');
  t.like(lastInput(plane), { spec: { containerEngine: 1, bayModel: '' } });
  const { stdout, stderr } = await bayctl(plane, ['bay', 'join-command', 'kube']);
  t.is(stdout, 'baykeeper-agent join --token tok0.secret\n');
  t.regex(stderr, /with --kubeconfig FILE behind it/);
  await bayctl(plane, ['create', 'bay', 'plain']);
  t.like(lastInput(plane), { spec: { containerEngine: 0 } });
  t.is((await bayctl(plane, ['bay', 'create', 'x', '--engine', 'podman'])).status, 2);
});
