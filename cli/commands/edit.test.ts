import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import test from 'ava';
import type { ApplyRequest } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import type { Pod } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { temporaryFolder } from '../../test/harness/temporary_folder.ts';
import { startFixture } from '../control_plane_fixture.ts';
import { bayctl, lastInput } from '../run_fixture.ts';

test('edit sends what the editor left, guarded by the etag, and comes back with the error', async (t) => {
  await using plane = await startFixture();
  await using dir = await temporaryFolder('edit');
  plane.put('web');
  const script = join(dir.path, 'editor.sh');
  const editor = { EDITOR: `sh ${script}` };
  await writeFile(script, 'sed -i "s/busybox/nginx/" "$1"\n');
  t.is(
    (await bayctl(plane, ['edit', 'container/web', '-b', 'local'], { env: editor })).stdout,
    'container/web edited\n',
  );
  t.is(plane.containers.get('default/web')?.spec?.image, 'nginx');
  t.is(
    (await bayctl(plane, ['edit', 'container/web', '-b', 'local'], { env: { EDITOR: 'true' } })).stderr,
    'Edit cancelled, nothing changed.\n',
  );

  // First a typing error; the second time the comment is there and the mistake is mended.
  await writeFile(
    script,
    `if grep -q "unknown field" "$1"; then sed -i "s/imagee: nginx/image: caddy/" "$1"; else sed -i "s/image: nginx/imagee: nginx/" "$1"; fi; cp "$1" ${dir.path}/last\n`,
  );
  t.is(
    (await bayctl(plane, ['edit', 'container/web', '-b', 'local'], { env: editor })).stdout,
    'container/web edited\n',
  );
  t.is(plane.containers.get('default/web')?.spec?.image, 'caddy');
  t.regex(await readFile(join(dir.path, 'last'), 'utf8'), /# your text, document 1: spec\.imagee: unknown field/);

  plane.failures.set('updateContainer', new ConnectError('it was changed by somebody else', Code.Aborted));
  await writeFile(script, 'sed -i "s/^  image: caddy/  image: again/" "$1"\n');
  t.is((await bayctl(plane, ['edit', 'container/web', '-b', 'local'], { env: editor })).status, 0);
  t.is(plane.containers.get('default/web')?.spec?.image, 'again');
});

test('what Kubernetes has is edited as the v1 manifest that it is; what is not in the text stays', async (t) => {
  await using plane = await startFixture();
  await using dir = await temporaryFolder('edit');
  plane.cluster.put('Pod', 'web', ({ metadata, spec }) => {
    Object.assign(metadata ?? {}, { labels: { on: 'yes' } });
    Object.assign(spec ?? {}, {
      manifest: { containers: [{ name: 'c', image: 'busybox', args: ['0644', 'line\n  two\n', 'no'], port: 80 }] },
      metadata: { finalizers: ['example.com/hold'] },
      adopt: true,
    });
  });
  const script = join(dir.path, 'editor.sh');
  const env = { EDITOR: `sh ${script}` };
  await writeFile(script, `cp "$1" ${dir.path}/shown; sed -i "s/busybox/nginx/; s/hold/keep/" "$1"\n`);
  t.deepEqual(await bayctl(plane, ['edit', 'po/web', '-b', 'edge'], { env }), {
    stdout: 'pod/web edited\n',
    stderr: '',
    status: 0,
  });
  const shown = await readFile(join(dir.path, 'shown'), 'utf8');
  t.is(
    shown.replace(/^#.*\n/gm, ''),
    `apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: default
  labels:
    "on": "yes"
  finalizers:
    - example.com/hold
spec:
  containers:
    - name: c
      image: busybox
      args:
        - "0644"
        - |
          line
            two
        - "no"
      port: 80
`,
  );
  t.deepEqual(lastInput<{ paths: string[] }>(plane).paths, [
    'metadata.labels',
    'metadata.annotations',
    'spec.manifest',
    'spec.metadata',
  ]);
  const edited = plane.cluster.objects.get('Pod/default/web') as Pod;
  t.deepEqual(edited.metadata?.labels, { on: 'yes' });
  t.like(edited.spec, {
    manifest: { containers: [{ name: 'c', image: 'nginx', args: ['0644', 'line\n  two\n', 'no'], port: 80 }] },
    metadata: { finalizers: ['example.com/keep'] },
    adopt: true,
  });

  // Taking the last finalizer away empties what is there.
  await writeFile(script, 'sed -i "/finalizers/d; /keep/d" "$1"\n');
  t.is((await bayctl(plane, ['edit', 'po/web', '-b', 'edge'], { env })).status, 0);
  t.is(edited.spec?.metadata, undefined);
  await writeFile(script, 'sed -i "s/name: web/name: other/" "$1"\n');
  const renamed = await bayctl(plane, ['edit', 'po/web', '-b', 'edge'], { env });
  t.regex(renamed.stderr, /metadata\.name cannot change from "web" to "other"/);
  t.is(renamed.status, 8);
});

test('get -o manifest gives what apply takes', async (t) => {
  await using plane = await startFixture();
  plane.cluster.put('Pod', 'a', ({ metadata }) =>
    Object.assign(metadata ?? {}, { annotations: { note: 'off', esc: '\u001b[31m' } }),
  );
  plane.cluster.put('Pod', 'b');
  const { stdout, status } = await bayctl(plane, ['get', 'pods', '-b', 'edge', '-o', 'manifest']);
  t.is(status, 0);
  t.is(stdout.split('---\n').length, 2);
  t.false(stdout.includes('\u001b'));
  const applied = await bayctl(plane, ['apply', '-f', '-', '-b', 'edge'], { stdin: stdout });
  t.is(applied.stdout, 'pod/a configured\npod/b configured\n');
  const [first] = lastInput<ApplyRequest>(plane).manifests;
  t.like(first?.object.value, { metadata: { annotations: { note: 'off', esc: '\u001b[31m' } } });
  plane.put('web');
  const container = await bayctl(plane, ['get', 'c', '-b', 'local', '-o', 'manifest']);
  t.is(container.status, 2);
  t.regex(container.stderr, /container\/web has no v1 manifest/);
  t.regex(
    (await bayctl(plane, ['whoami', '-o', 'manifest'])).stderr,
    /unknown output "manifest"; known are wide, json, yaml, name, jsonpath=/,
  );
});
