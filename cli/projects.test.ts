import { create } from '@bufbuild/protobuf';
import { createClient } from '@connectrpc/connect';
import test from 'ava';
import { BayService } from '../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService, ExecuteResponseSchema } from '../proto/gen/baykeeper/v1/container_service_pb.js';
import { startApi } from '../test/harness/api_fixture.ts';
import { bayctl } from './run_fixture.ts';

test('an admin works in the project that a flag, the environment or the context names, or looks at all', async (t) => {
  await using api = await startApi();
  for (const token of ['red-token', 'blue-token']) {
    const transport = api.transport({ token });
    await createClient(BayService, transport).createBay({ bay: { metadata: { name: 'local' } } });
    await createClient(ContainerService, transport).createContainer({
      container: { metadata: { bay: 'local', name: token.replace('-token', '-web') }, spec: { image: 'busybox' } },
    });
  }
  const admin = (argv: readonly string[], env: Record<string, string> = {}) =>
    bayctl(undefined, ['--server', api.server.url, '--token', 'admin-token', ...argv], { env });
  const names = ['get', 'containers', '-b', 'local', '-o', 'name'];
  t.is((await admin([...names, '--project', 'red'])).stdout, 'container/red-web\n');
  t.is((await admin(names, { BAYKEEPER_PROJECT: 'blue' })).stdout, 'container/blue-web\n');
  t.is((await admin(['whoami', '--project', 'red'])).stdout, `ada, admin in project red, at ${api.server.url}\n`);

  const all = await admin(['get', 'containers', '--all-projects'], { BAYKEEPER_BAY: 'local' });
  t.is(all.status, 0, all.stderr);
  const rows = all.stdout
    .trim()
    .split('\n')
    .map((row) => row.split(/\s{2,}/).slice(0, 3));
  t.deepEqual(rows, [
    ['PROJECT', 'BAY', 'NAME'],
    ['blue', 'local', 'blue-web'],
    ['red', 'local', 'red-web'],
  ]);
  const bays = await admin(['get', 'bays', '--all-projects']);
  t.regex(bays.stdout, /^PROJECT +NAME .*\nred +local .*\nblue +local /);

  const wrong = await admin(['get', 'bays', '--all-projects', '--project', 'red']);
  t.is(wrong.status, 2);
  t.regex(wrong.stderr, /--project or --all-projects, not both/);
  t.is((await admin(['get', 'containers', '--all-projects', '-b', 'local'])).status, 2);

  const member = await bayctl(undefined, [
    '--server',
    api.server.url,
    '--token',
    'red-token',
    ...names,
    '--project',
    'blue',
  ]);
  t.is(member.status, 3);
  t.regex(member.stderr, /rose has role member in project red only/);
});

test('what has its name in one project only is found without naming the project, and ended there', async (t) => {
  await using api = await startApi({
    streams: {
      async *execute({ objectUid }) {
        executed.push(objectUid);
        yield create(ExecuteResponseSchema, { output: { case: 'exitCode', value: 0 } });
      },
    },
  });
  const executed: string[] = [];
  const uids: Record<string, string> = {};
  for (const project of ['blue', 'red']) {
    const transport = api.transport({ token: `${project}-token` });
    const { bay } = await createClient(BayService, transport).createBay({ bay: { metadata: { name: 'local' } } });
    api.placement.node = (await api.addNode(bay?.metadata?.uid ?? '', 'edge-1')).node;
    api.liveness.set(api.placement.node.uid, true);
    for (const name of ['web', `only-${project}`]) {
      const { container } = await createClient(ContainerService, transport).createContainer({
        container: { metadata: { bay: 'local', name }, spec: { image: 'busybox' } },
      });
      uids[name] = container?.metadata?.uid ?? '';
    }
  }
  const everywhere = (...argv: string[]) =>
    bayctl(undefined, ['--server', api.server.url, '--token', 'admin-token', '--all-projects', ...argv]);
  t.is((await everywhere('get', 'container', 'only-red', '-o', 'jsonpath={.metadata.project}')).stdout.trim(), 'red');
  t.regex((await everywhere('describe', 'container', 'only-blue')).stdout, /blue/);
  t.regex((await everywhere('why', 'container/only-blue')).stdout, /accepted/);
  const ran = await everywhere('exec', 'container/only-blue', '--', 'true');
  t.is(ran.status, 0, ran.stderr);
  t.deepEqual(executed, [uids['only-blue']]);

  for (const argv of [
    ['get', 'container', 'web'],
    ['describe', 'container/web'],
    ['why', 'container/web'],
    ['logs', 'container/web'],
    ['exec', 'container/web', '--', 'true'],
    ['delete', 'container', 'web'],
  ]) {
    const { status, stderr } = await everywhere(...argv);
    t.is(status, 5, `${argv.join(' ')}: ${stderr}`);
    t.regex(stderr, /of project blue, container "web" in bay "local" of project red\. .*--project/);
  }

  const gone = await everywhere('delete', 'container/only-red', '--force', '--no-wait');
  t.is(gone.status, 0, gone.stderr);
  t.is(gone.stdout, 'container/only-red deletion asked for\n');
  const ended: string[] = [];
  for await (const { method, project, code } of api.audit.read(undefined))
    if (method.endsWith('DeleteContainer') && code === 'ok') ended.push(project);
  t.deepEqual(ended, ['red']);
  t.is((await everywhere('delete', 'container/only-red')).status, 4);
  const none = await everywhere('delete', 'container/only-red', '--ignore-not-found');
  t.deepEqual([none.status, none.stdout], [0, '']);
  const all = await everywhere('delete', 'containers', '--all');
  t.is(all.status, 2);
  t.regex(all.stderr, /give names, or --project/);
});
