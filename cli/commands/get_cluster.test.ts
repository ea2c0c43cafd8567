import test from 'ava';
import { PodPhase } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { ReplicationControllerPhase } from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ServicePhase } from '../../proto/gen/baykeeper/v1/service_pb.js';
import { startFixture } from '../control_plane_fixture.ts';
import { clusterNode } from '../node_fixture.ts';
import { bayctl } from '../run_fixture.ts';

test('pods, services and controllers have the columns of kubectl, by their short names', async (t) => {
  await using plane = await startFixture();
  const { cluster } = plane;
  cluster.put('Pod', 'web', ({ spec, status }) => {
    Object.assign(spec ?? {}, { manifest: { containers: [{ name: 'a' }, { name: 'b' }] } });
    Object.assign(status ?? {}, {
      containers: 2,
      containersReady: 1,
      restarts: 4,
      podIp: '10.1.0.5',
      clusterNode: 'worker-1',
    });
  });
  cluster.put('Pod', 'taken', ({ status }) =>
    Object.assign(status ?? {}, {
      phase: PodPhase.FAILED,
      reason: 'Conflict',
      message: 'kubectl owns it',
      manifest: undefined,
      containersReady: 0,
    }),
  );
  cluster.put('Service', 'web', ({ status }) => {
    status?.endpointsReady.push('10.1.0.5:80', '10.1.0.6:80', '10.1.0.7:80', '10.1.0.8:80');
    status?.endpointsNotReady.push('10.1.0.9:80');
  });
  cluster.put('Service', 'new', (service) => {
    service.status = undefined;
  });
  cluster.put('ReplicationController', 'web', ({ status }) =>
    Object.assign(status ?? {}, { replicasWanted: 3, replicas: 2, replicasReady: 1 }),
  );
  const get = async (...words: string[]) => {
    const { stdout, stderr } = await bayctl(plane, ['get', ...words, '-b', 'edge']);
    t.is(stderr, '');
    const rows = stdout.split('\n').map((line) => line.split(/ {2,}/).slice(0, words.includes('wide') ? 99 : 5));
    // How old they are by now is the machine's to say.
    return rows.map((cells) => cells.map((cell) => (/^\d+s$/.test(cell) ? 'some seconds' : cell)));
  };
  t.deepEqual(await get('po'), [
    ['NAME', 'READY', 'STATUS', 'RESTARTS', 'AGE'],
    ['web', '1/2', 'Running', '4', 'some seconds'],
    ['taken', '0/1', 'Conflict', '0', 'some seconds'],
    [''],
  ]);
  t.deepEqual((await get('pods', '-o', 'wide'))[1]?.slice(5, 7), ['10.1.0.5', 'worker-1']);
  t.is((await get('pods', '-o', 'wide'))[2]?.at(-1), 'kubectl owns it');
  t.deepEqual(await get('svc'), [
    ['NAME', 'CLUSTER-IP', 'PORT(S)', 'ENDPOINTS', 'AGE'],
    ['web', '10.0.0.1', '80/TCP', '10.1.0.5:80,10.1.0.6:80,10.1.0.7:80 + 1 more, 1 not ready', 'some seconds'],
    ['new', '<pending>', '80/TCP', '<none>', 'some seconds'],
    [''],
  ]);
  t.deepEqual(await get('rc'), [
    ['NAME', 'DESIRED', 'CURRENT', 'READY', 'AGE'],
    ['web', '3', '2', '1', 'some seconds'],
    [''],
  ]);
});

test('what is too old to be believed is not shown as if it were so', async (t) => {
  await using plane = await startFixture();
  plane.cluster.put('Pod', 'p', ({ status }) =>
    Object.assign(status ?? {}, { phase: PodPhase.UNKNOWN, lastKnownPhase: PodPhase.RUNNING }),
  );
  plane.cluster.put('Service', 's', ({ status }) =>
    Object.assign(status ?? {}, { phase: ServicePhase.UNKNOWN, endpointsReady: ['10.1.0.5:80'] }),
  );
  plane.cluster.put('ReplicationController', 'r', ({ status }) =>
    Object.assign(status ?? {}, {
      phase: ReplicationControllerPhase.UNKNOWN,
      lastKnownPhase: ReplicationControllerPhase.RUNNING,
      replicasReady: 1,
    }),
  );
  const get = async (kind: string) => (await bayctl(plane, ['get', kind, '-b', 'edge', '--no-headers'])).stdout;
  t.regex(await get('pods'), /^p +\?\/1 +Unknown/);
  t.regex(await get('svc'), /^s +10\.0\.0\.1 +80\/TCP +<unknown>/);
  t.regex(await get('rc'), /^r +1 +<unknown> +<unknown> +\d+s +was RUNNING/);
});

test('the nodes of a cluster have roles and versions, and say which agent leads', async (t) => {
  await using plane = await startFixture();
  plane.nodes.set('master-1', clusterNode('master-1', { agent: true }));
  plane.nodes.set('worker-1', clusterNode('worker-1'));
  const { stdout } = await bayctl(plane, ['get', 'no', '-b', 'edge']);
  t.regex(stdout, /^NAME +STATUS +ROLES +AGE +VERSION +AGENT +REASON\n/);
  t.regex(stdout, /^master-1 +READY +control-plane +60m +v1\.20\.2 +0\.1\.0 \(leader\)$/m);
  t.regex(stdout, /^worker-1 +READY +worker +60m +v1\.20\.2 +<none>$/m);
  const wide = (await bayctl(plane, ['get', 'nodes', '-b', 'edge', '-o', 'wide'])).stdout;
  t.regex(wide, /CONTAINER-RUNTIME/);
  t.regex(wide, /docker:\/\/20\.10\.24/);
});

test('get -A shows namespaces, and a watch of pods their words', async (t) => {
  await using plane = await startFixture();
  plane.cluster.put('Pod', 'web');
  t.regex(
    (await bayctl(plane, ['get', 'po', '-A', '-b', 'edge'])).stdout,
    /^NAMESPACE +NAME +READY .*\ndefault +web +1\/1/,
  );
  const ending = new AbortController();
  const watching = bayctl(plane, ['get', 'pods', '-w', '-b', 'edge'], {
    signal: ending.signal,
    onStdout(text) {
      if (text.includes('CrashLoopBackOff')) ending.abort();
    },
  });
  while (!plane.calls.some((call) => call.method === 'watchPods')) await new Promise(setImmediate);
  plane.cluster.put('Pod', 'web', ({ status }) =>
    Object.assign(status ?? {}, {
      manifest: { phase: 'Running', containerStatuses: [{ state: { waiting: { reason: 'CrashLoopBackOff' } } }] },
    }),
  );
  t.regex((await watching).stdout, /^web +1\/1 +CrashLoopBackOff/m);
});
