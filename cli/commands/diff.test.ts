import type { JsonObject } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import test from 'ava';
import type { ApplyRequest } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { startFixture } from '../control_plane_fixture.ts';
import { bayctl, lastInput } from '../run_fixture.ts';

const manifest = 'apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 81}]}\n';

function inCluster(port: number, more: JsonObject = {}): JsonObject {
  return {
    status: { loadBalancer: {} },
    spec: { type: 'ClusterIP', ports: [{ protocol: 'TCP', port }], clusterIP: '10.0.0.7' },
    kind: 'Service',
    apiVersion: 'v1',
    metadata: {
      name: 'web',
      namespace: 'default',
      uid: 'c-1',
      resourceVersion: String(port),
      generation: port,
      creationTimestamp: '2026-11-22T11:46:05Z',
      managedFields: [{ manager: 'baykeeper' }],
      labels: { 'baykeeper.io/uid': 'u-1', 'baykeeper.io/bay': 'b-1' },
      annotations: { 'baykeeper.io/applied': `hash-${port}` },
      ...more,
    },
  };
}

test('diff shows what would change in the cluster, and nothing that the server alone writes', async (t) => {
  await using plane = await startFixture();
  plane.cluster.dryRun = () => ({ live: inCluster(80), merged: inCluster(81) });
  const run = (more: readonly string[] = [], options = {}) =>
    bayctl(plane, ['diff', '-f', '-', '-b', 'edge', ...more], { stdin: manifest, ...options });
  const { stdout, stderr, status } = await run();
  t.is(stderr, '');
  t.is(
    stdout,
    `--- live/service/default/web
+++ merged/service/default/web
@@ -9,6 +9,6 @@
 spec:
   clusterIP: 10.0.0.7
   ports:
-    - port: 80
+    - port: 81
       protocol: TCP
   type: ClusterIP
`,
  );
  t.is(status, 1);
  t.true(lastInput<ApplyRequest>(plane).validateOnly);
  t.is(plane.cluster.objects.size, 0);

  const coloured = await run([], { columns: 120 });
  t.true(coloured.stdout.includes('\u001b[31m-    - port: 80\u001b[39m'));
  t.true(coloured.stdout.includes('\u001b[32m+    - port: 81\u001b[39m'));

  plane.cluster.dryRun = () => ({ live: inCluster(80), merged: { ...inCluster(80), status: { x: 1 } } });
  t.deepEqual(await run(), { stdout: '', stderr: '', status: 0 });
});

test('diff shows all of what is not there yet, and a change of owner', async (t) => {
  await using plane = await startFixture();
  plane.cluster.dryRun = () => ({ merged: inCluster(81) });
  const fresh = await bayctl(plane, ['diff', '-f', '-', '-b', 'edge'], { stdin: manifest });
  t.regex(fresh.stdout, /^--- live.*\n\+\+\+ merged.*\n@@ -0,0 \+1,\d+ @@\n\+apiVersion: v1\n/);
  t.false(/baykeeper\.io\/uid|hash-|^-[^-]/m.test(fresh.stdout));
  t.is(fresh.status, 1);
  plane.cluster.dryRun = () => ({ live: inCluster(81, { labels: {} }), merged: inCluster(81) });
  const adopted = await bayctl(plane, ['diff', '-f', '-', '-b', 'edge', '--adopt'], { stdin: manifest });
  t.regex(adopted.stdout, /\+ {4}baykeeper\.io\/uid: u-1/);
  t.like(lastInput<ApplyRequest>(plane).manifests[0]?.object.value, { spec: { adopt: true } });
});

test('diff ends with more than 1 when it cannot tell, and says why for each', async (t) => {
  await using plane = await startFixture();
  plane.cluster.dryRun = () => ({ error: new ConnectError('bay "edge" is offline', Code.Unavailable) });
  const offline = await bayctl(plane, ['diff', '-f', '-', '-b', 'edge'], { stdin: manifest });
  t.is(offline.stderr, 'Error: stdin, document 1: service/web refused: bay "edge" is offline (UNAVAILABLE)\n');
  t.is(offline.status, 6);
  const refusals = [Code.Unavailable, Code.InvalidArgument];
  plane.cluster.dryRun = () => ({ error: new ConnectError('no', refusals.pop()) });
  const two = await bayctl(plane, ['diff', '-f', '-', '-b', 'edge'], { stdin: `${manifest}---\n${manifest}` });
  t.is(two.status, 2);
  t.is((await bayctl(plane, ['diff', '-f', '/nonexistent/x.yaml', '-b', 'edge'])).status, 2);
  t.is((await bayctl(plane, ['diff', '-b', 'edge'])).status, 2);
});

test('on a Docker bay diff compares with what the control plane has', async (t) => {
  await using plane = await startFixture();
  const container = (image: string) =>
    `apiVersion: baykeeper/v1\nkind: Container\nmetadata: {name: web}\nspec: {image: ${image}}\n`;
  plane.put('web');
  const changed = await bayctl(plane, ['diff', '-f', '-', '-b', 'local'], { stdin: container('nginx') });
  t.regex(changed.stdout, /^-\s+image: busybox\n\+\s+image: nginx$/m);
  t.is(changed.status, 1);
  const fresh = await bayctl(plane, ['diff', '-f', '-', '-b', 'local'], {
    stdin: container('x').replace('web', 'new'),
  });
  t.regex(fresh.stdout, /^\+ {2}image: x$/m);
  t.is((await bayctl(plane, ['diff', '-f', '-', '-b', 'local'], { stdin: container('busybox') })).status, 0);
});
