import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import test from 'ava';
import type { ApplyRequest } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { temporaryFolder } from '../../test/harness/temporary_folder.ts';
import { startFixture } from '../control_plane_fixture.ts';
import { bayctl, lastInput } from '../run_fixture.ts';

test('apply tells what became of each, refuses on stderr, and ends with the status for why', async (t) => {
  await using plane = await startFixture();
  await using dir = await temporaryFolder('apply');
  const file = join(dir.path, 'all.yaml');
  const container = (name: string, image: string) =>
    `apiVersion: baykeeper/v1\nkind: Container\nmetadata: {name: ${name}}\nspec: {image: ${image}, restart_policy: on-failure}\n`;
  await writeFile(file, [container('a', 'x'), container('b', 'refused'), container('c', 'y')].join('---\n'));
  const { stdout, stderr, status } = await bayctl(plane, ['apply', '-f', dir.path, '-b', 'local']);
  t.is(stdout, 'container/a created\ncontainer/c created\n');
  t.is(
    stderr,
    `Error: ${file}, document 2: container/b refused: spec.image: this image may not be used (INVALID_ARGUMENT)\n`,
  );
  t.is(status, 8);
  t.is(
    (await bayctl(plane, ['apply', '-f', '-', '-b', 'local', '--dry-run'], { stdin: container('a', 'z') })).stdout,
    'container/a configured (dry run)\n',
  );
  t.is(
    (await bayctl(plane, ['apply', '-f', '-', '-b', 'local'], { stdin: container('a', 'x') })).stdout,
    'container/a unchanged\n',
  );
  t.is(
    (await bayctl(plane, ['delete', '-f', '-', '-b', 'local'], { stdin: container('a', 'x') })).stdout,
    'container/a deleted\n',
  );
  t.is(
    (await bayctl(plane, ['create', '-f', '-', '-b', 'local'], { stdin: container('a', 'x') })).stdout,
    'container/a created\n',
  );
});

const pod =
  'apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec: {containers: [{name: c, image: i}]}\n';

test('apply sends v1 manifests to the cluster, with what the flags say for all of them', async (t) => {
  await using plane = await startFixture();
  const run = (...flags: string[]) => bayctl(plane, ['apply', '-f', '-', '-b', 'edge', ...flags], { stdin: pod });
  t.deepEqual(await run('-n', 'shop', '--create-namespace', '--adopt'), {
    stdout: 'pod/web created\n',
    stderr: '',
    status: 0,
  });
  const [sent] = lastInput<ApplyRequest>(plane).manifests;
  t.like(sent?.object.value, {
    metadata: { bay: 'edge', namespace: 'shop', name: 'web', labels: { app: 'web' } },
    spec: { manifest: { containers: [{ name: 'c', image: 'i' }] }, adopt: true, createNamespace: true },
  });
  t.false(lastInput<ApplyRequest>(plane).validateOnly);
  await run();
  t.like(lastInput<ApplyRequest>(plane).manifests[0]?.object.value, { spec: { adopt: false, createNamespace: false } });
});

test('apply --dry-run asks the server, and shows the verdict of the cluster with the path of the file', async (t) => {
  await using plane = await startFixture();
  const run = (...flags: string[]) => bayctl(plane, ['apply', ...flags, '-f', '-', '-b', 'edge'], { stdin: pod });
  for (const flag of ['--dry-run', '--dry-run=server']) {
    t.is((await run(flag)).stdout, 'pod/web created (dry run)\n', flag);
    t.true(lastInput<ApplyRequest>(plane).validateOnly, flag);
  }
  t.is((await run('--dry-run=none')).stdout, 'pod/web created\n');
  t.false(lastInput<ApplyRequest>(plane).validateOnly);
  const before = plane.calls.length;
  const client = await run('--dry-run=client');
  t.is(client.status, 2);
  t.regex(client.stderr, /Expected server or none: only the control plane and the cluster know/);
  t.is(plane.calls.length, before);

  plane.cluster.dryRun = () => ({
    error: new ConnectError('pod.spec.manifest.containers[0].image: required value', Code.InvalidArgument),
    field: 'pod.spec.manifest.containers[0].image',
  });
  t.deepEqual(await run('--dry-run=server'), {
    stdout: '',
    stderr: 'Error: stdin, document 1: pod/web refused: spec.containers[0].image: required value (INVALID_ARGUMENT)\n',
    status: 8,
  });
  plane.cluster.dryRun = () => ({ error: new ConnectError('bay "edge" is offline', Code.Unavailable) });
  t.is((await run('--dry-run=server')).status, 6);
});

test('create -f makes names where a manifest asks for it, and apply says that it cannot', async (t) => {
  await using plane = await startFixture();
  const stdin = pod.replace('name: web', 'generateName: web-');
  const made = await bayctl(plane, ['create', '-f', '-', '-b', 'edge', '--create-namespace'], { stdin });
  t.regex(made.stdout, /^pod\/web-[a-z0-9]{5} created\n$/);
  t.like(lastInput(plane), { spec: { createNamespace: true } });
  const applied = await bayctl(plane, ['apply', '-f', '-', '-b', 'edge'], { stdin });
  t.is(applied.status, 8);
  t.regex(applied.stderr, /^Error: stdin, document 1: metadata\.generateName: makes a new object each time/);
});

test('delete -f takes away what v1 manifests name', async (t) => {
  await using plane = await startFixture();
  plane.cluster.put('Pod', 'web');
  const run = (...flags: string[]) => bayctl(plane, ['delete', '-f', '-', '-b', 'edge', ...flags], { stdin: pod });
  t.deepEqual(await run(), { stdout: 'pod/web deleted\n', stderr: '', status: 0 });
  t.is(plane.cluster.objects.size, 0);
  t.is((await run()).status, 4);
  t.is((await run('--ignore-not-found')).status, 0);
});
