import test from 'ava';
import { startControlPlane } from '../test/harness/control_plane.ts';

test('the metrics show the store, the nodes, what is sent and what is open', async (t) => {
  await using controlPlane = await startControlPlane();
  await controlPlane.createBay('edge');
  const text = await (await fetch(`${controlPlane.url}/metrics`)).text();
  const value = (name: string) => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1]);
  t.true(value('baykeeper_store_revision') >= 1);
  t.is(value('baykeeper_store_changes_total'), value('baykeeper_store_revision'));
  t.true(value('baykeeper_store_commit_writes_count') >= 1);
  t.true(value('baykeeper_store_commit_duration_seconds_sum') > 0);
  for (const name of [
    'store_commit_failures_total',
    'api_watches',
    'nodes',
    'nodes_fresh',
    'sessions',
    'streams',
    'objects_unplaced',
    'report_objects_total',
  ]) {
    t.is(value(`baykeeper_${name}`), 0, name);
  }
});

test('one that listens everywhere says where it can be found', async (t) => {
  const args = ['--host', '0.0.0.0', '--advertise', '127.0.0.1', '--nats-host', '127.0.0.1'];
  await using controlPlane = await startControlPlane({ args });
  const { port, program } = controlPlane;
  t.is(program.ready?.input, `ready https://127.0.0.1:${port} (listening on 0.0.0.0:${port})`);
  await controlPlane.createBay('edge');
});
