import { createClient } from '@connectrpc/connect';
import test from 'ava';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { startApi } from '../../test/harness/api_fixture.ts';
import { bayctl } from '../run_fixture.ts';

test('quotas are shown to all, of all projects to admins, and set by them', async (t) => {
  await using api = await startApi({ api: { defaultQuota: { bays: 2 } } });
  await createClient(BayService, api.transport()).createBay({ bay: { metadata: { name: 'local' } } });
  const as = (token: string, ...argv: readonly string[]) =>
    bayctl(undefined, ['--server', api.server.url, '--token', token, 'quota', ...argv]);
  const shown = await as('red-reader-token', 'get');
  t.regex(shown.stdout, /^PROJECT +RESOURCE +USED +LIMIT +FROM\nred +bays +1 +2 +default\n/);
  const set = await as('admin-token', 'set', '--project', 'red', '--pods', '5', '--bays', 'none');
  t.regex(set.stdout, /red +bays +1 +none +project\n/);
  t.regex(set.stdout, /red +pods +0 +5 +project\n/);
  const all = await as('admin-token', 'get', '--all-projects', '-o', 'json');
  t.deepEqual(
    JSON.parse(all.stdout).items.map((item: { project: string }) => item.project),
    ['red'],
  );
  t.is((await as('admin-token', 'set', '--project', 'red', '--reset')).status, 0);
  t.regex((await as('admin-token', 'get', '--project', 'red')).stdout, /bays +1 +2 +default/);
  t.is((await as('admin-token', 'set')).status, 2);
  t.is((await as('admin-token', 'set', '--pods', 'many')).status, 2);
  t.is((await as('red-token', 'set', '--pods', '1')).status, 3);
});
