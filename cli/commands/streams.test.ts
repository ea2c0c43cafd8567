import test from 'ava';
import { startFixture } from '../control_plane_fixture.ts';
import { bayctl, lastInput } from '../run_fixture.ts';

test('logs keep stdout and stderr apart', async (t) => {
  await using plane = await startFixture();
  plane.put('web');
  plane.logs.push(['stdout', 'out\n'], ['stderr', 'err\n']);
  t.deepEqual(await bayctl(plane, ['logs', 'container/web', '-b', 'local', '--tail', '5', '--since', '1h']), {
    stdout: 'out\n',
    stderr: 'err\n',
    status: 0,
  });
  t.like(lastInput(plane), { tailLines: 5n, follow: false });
  t.is((await bayctl(plane, ['logs', 'web', '-b', 'local'])).stdout, 'out\n');
});

test('exec passes on output, input and exit status', async (t) => {
  await using plane = await startFixture();
  t.is(
    (await bayctl(plane, ['exec', 'container/web', '-b', 'local', '--', 'ls', '-l'])).stdout,
    'ran ls -l tty=false size=0x0\r\n',
  );
  const ended = await bayctl(plane, ['exec', 'container/web', '-b', 'local', '--', 'exit', '42']);
  t.deepEqual(ended, { stdout: '', stderr: 'ending\n', status: 42 });
  const fed = await bayctl(plane, ['exec', '-i', 'container/web', '-b', 'local', '--', 'cat'], { stdin: 'hello' });
  t.is(fed.stdout, 'ran cat tty=false size=0x0\r\ngot "hello"\r\n');
  t.is(fed.status, 0);
});
