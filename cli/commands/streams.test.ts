import test from 'ava';
import { startFixture } from '../control_plane_fixture.ts';
import type { ExecRequest } from '../exec_fixture.ts';
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

test('logs of a pod go to stdout, of the container and the run that are meant', async (t) => {
  await using plane = await startFixture();
  plane.cluster.put('Pod', 'web');
  plane.cluster.logs = ['one\n', 'two\n'];
  const run = (...words: string[]) => bayctl(plane, ['logs', ...words, '-b', 'edge']);
  t.deepEqual(await run('pod/web', '-c', 'main', '--previous', '--tail', '3', '--timestamps'), {
    stdout: 'one\ntwo\n',
    stderr: '',
    status: 0,
  });
  t.like(lastInput(plane), {
    bay: 'edge',
    name: 'web',
    container: 'main',
    previous: true,
    tailLines: 3n,
    timestamps: true,
    follow: false,
  });
  t.is((await run('web', '-p')).stdout, 'one\ntwo\n');
  t.is((await run('po/none')).status, 4);
  const wrong: [string[], RegExp][] = [
    [['rc/web'], /a replicationcontroller has no logs: name a container, or a pod/],
    [['container/web', '-c', 'x'], /--container and --previous are for pods: write pod\/NAME/],
    [['pod/web', '--stderr'], /Kubernetes keeps both outputs of a pod in one/],
  ];
  for (const [words, expected] of wrong) {
    const { stderr, status } = await run(...words);
    t.regex(stderr, expected);
    t.is(status, 2);
  }
});

test('exec runs in a container of a pod as it does in a container', async (t) => {
  await using plane = await startFixture();
  const { execute } = plane.cluster;
  const starts: ExecRequest[] = [];
  plane.cluster.execute = async function* (requests, context) {
    const seen = async function* () {
      for await (const request of requests) {
        if (request.input.case === 'start') starts.push(request);
        yield request;
      }
    };
    yield* execute(seen(), context);
  };
  const run = (words: string[], stdin?: string) =>
    bayctl(plane, ['exec', '-b', 'edge', ...words], stdin === undefined ? {} : { stdin });
  t.is((await run(['pod/web', '-c', 'main', '--', 'ls', '-l'])).stdout, 'ran ls -l tty=false size=0x0\r\n');
  t.like(starts[0]?.input.value, { bay: 'edge', name: 'web', container: 'main', stdin: false });
  t.deepEqual(await run(['pod/web', '--', 'exit', '42']), { stdout: '', stderr: 'ending\n', status: 42 });
  t.is((await run(['-i', 'po/web', '--', 'cat'], 'hello')).stdout, 'ran cat tty=false size=0x0\r\ngot "hello"\r\n');
  t.is((await run(['-c', 'main', 'web', '--', 'ls'])).status, 0);
  t.regex((await run(['pod/web', '--user', 'x', '--', 'ls'])).stderr, /--user is for containers/);
  t.regex((await run(['svc/web', '--', 'ls'])).stderr, /a service runs no commands/);
});
