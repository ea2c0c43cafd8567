import { createClient } from '@connectrpc/connect';
import test from 'ava';
import { BayService } from '../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../proto/gen/baykeeper/v1/container_service_pb.js';
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
