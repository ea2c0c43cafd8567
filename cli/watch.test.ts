import test from 'ava';
import { ContainerPhase } from '../proto/gen/baykeeper/v1/container_pb.js';
import { startFixture } from './control_plane_fixture.ts';
import { bayctl } from './run_fixture.ts';

/** Runs `get --watch` until `until` is in its output, doing each of `steps` when what is before it is there. */
async function watching(
  plane: Awaited<ReturnType<typeof startFixture>>,
  argv: readonly string[],
  steps: readonly (readonly [string, () => void])[],
) {
  const stop = new AbortController();
  const left = [...steps];
  const result = await bayctl(plane, argv, {
    signal: stop.signal,
    onStdout(text) {
      for (let [next] = left; next && text.includes(next[0]); [next] = left) {
        left.shift();
        setImmediate(next[1]);
        if (left.length === 0) setImmediate(() => stop.abort());
      }
    },
  });
  return result;
}

test('a watch shows the snapshot as a table, then a row for each change', async (t) => {
  await using plane = await startFixture();
  plane.put('db');
  plane.put('web');
  const { stdout } = await watching(
    plane,
    ['get', 'containers', '-b', 'local', '-w'],
    [
      [
        'web',
        () => plane.put('web', (container) => Object.assign(container.status ?? {}, { phase: ContainerPhase.STOPPED })),
      ],
      ['STOPPED', () => plane.remove('db')],
      ['DELETED', () => {}],
    ],
  );
  const lines = stdout
    .trimEnd()
    .split('\n')
    .map((line) => line.split(/ +/).slice(0, 2).join(' '));
  t.deepEqual(lines, ['NAME STATUS', 'db RUNNING', 'web RUNNING', 'web STOPPED', 'db DELETED']);
});

test('a watch that drops goes on after the last event, without doubles and without gaps', async (t) => {
  await using plane = await startFixture();
  plane.put('a');
  const { stdout, stderr } = await watching(
    plane,
    ['get', 'containers', '-b', 'local', '-w', '-o', 'name'],
    [
      ['container/a', () => plane.put('b')],
      [
        'container/b',
        () => {
          plane.dropConnections();
          plane.put('c');
          plane.put('d');
        },
      ],
      ['container/d', () => plane.put('e')],
      ['container/e', () => {}],
    ],
  );
  t.is(stdout, 'container/a\ncontainer/b\ncontainer/c\ncontainer/d\ncontainer/e\n');
  t.regex(stderr, /trying again/);
  const since = plane.calls
    .filter((call) => call.method === 'watchContainers')
    .map((call) => (call.input as { sinceRevision: bigint }).sinceRevision);
  t.is(since[0], 0n);
  t.true((since[1] ?? 0n) > 0n);
});

test('a watch whose revision is no longer kept begins again, and shows only what differs', async (t) => {
  await using plane = await startFixture();
  plane.put('a');
  plane.put('b');
  const { stdout } = await watching(
    plane,
    ['get', 'containers', '-b', 'local', '-w', '-o', 'json', '--output-watch-events'],
    [
      ['"b"', () => plane.put('mark')],
      [
        '"mark"',
        () => {
          plane.dropConnections();
          plane.remove('a');
          plane.put('c');
          plane.oldestRevision = plane.revision() + 1n;
        },
      ],
      ['DELETED', () => {}],
    ],
  );
  const events = stdout
    .trimEnd()
    .split('\n')
    .map((line) => {
      const { type, object } = JSON.parse(line) as { type: string; object: { metadata: { name: string } } };
      return `${type} ${object.metadata.name}`;
    });
  t.deepEqual(events, ['ADDED a', 'ADDED b', 'ADDED mark', 'ADDED c', 'DELETED a']);
});

test('--watch-only leaves the snapshot out', async (t) => {
  await using plane = await startFixture();
  plane.put('a');
  const timer = setInterval(() => {
    if (plane.calls.some((call) => call.method === 'watchContainers')) {
      clearInterval(timer);
      plane.put('b');
    }
  }, 5);
  const { stdout } = await watching(
    plane,
    ['get', 'containers', '-b', 'local', '--watch-only', '-o', 'name'],
    [['container/b', () => {}]],
  );
  t.is(stdout, 'container/b\n');
});

test('what cannot get better by waiting ends a watch', async (t) => {
  await using plane = await startFixture();
  t.is((await bayctl(plane, ['get', 'container', 'missing', '-b', 'local', '-w'])).status, 4);
  t.is(
    (await bayctl(plane, ['get', 'containers', '-w', '-b', 'local'], { env: { BAYKEEPER_TOKEN: 'wrong' } })).status,
    3,
  );
  t.is((await bayctl(plane, ['get', 'c,po', '-w', '-b', 'local'])).status, 2);
});
