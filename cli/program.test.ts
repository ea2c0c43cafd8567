import { mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import test from 'ava';
import { BayPhase, BaySchema } from '../proto/gen/baykeeper/v1/bay_pb.js';
import { startFixture } from './control_plane_fixture.ts';
import { bayctl } from './run_fixture.ts';

async function folder(): Promise<AsyncDisposable & { path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'bayctl-test-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true }) };
}

test('exit status follows the code, and errors go to stderr with the request id at -v', async (t) => {
  await using plane = await startFixture();
  const get = ['get', 'container', 'web', '-b', 'local'];
  for (const [code, status] of [
    [Code.Unauthenticated, 3],
    [Code.PermissionDenied, 3],
    [Code.NotFound, 4],
    [Code.FailedPrecondition, 5],
    [Code.InvalidArgument, 8],
    [Code.Internal, 1],
    [Code.DeadlineExceeded, 7],
  ] as const) {
    plane.failures.set('getContainer', new ConnectError('so it is', code));
    const result = await bayctl(plane, get);
    t.is(result.status, status, Code[code]);
    t.regex(result.stderr, /^Error: .*so it is/);
    t.is(result.stdout, '');
  }
  const unknown = await bayctl(plane, [...get, '-v'], { env: { BAYKEEPER_TOKEN: 'wrong' } });
  t.is(unknown.status, 3);
  t.regex(unknown.stderr, /request id: r-401/);
  t.is((await bayctl(plane, ['get', 'containers'])).status, 2);
  t.is((await bayctl(plane, ['get', 'container', 'web', '--nonsense'])).status, 2);
  t.is((await bayctl(plane, ['nonsense'])).status, 2);
});

test('a read is tried again while the server is unavailable, a write is not', async (t) => {
  await using plane = await startFixture();
  plane.put('web');
  plane.failures.set('getContainer', new ConnectError('starting', Code.Unavailable));
  t.is((await bayctl(plane, ['get', 'container', 'web', '-b', 'local'])).status, 0);
  plane.failures.set('createContainer', new ConnectError('starting', Code.Unavailable));
  t.is((await bayctl(plane, ['run', 'x', '-b', 'local', '--image', 'y'])).status, 6);
});

test('a control plane that is not there, or does not answer, is said in one sentence and in time', async (t) => {
  const closed = await bayctl(undefined, ['get', 'bays', '--server', 'http://127.0.0.1:1']);
  t.is(closed.status, 6);
  t.regex(
    closed.stderr,
    /^Error: no control plane answers at http:\/\/127\.0\.0\.1:1 \(connection refused\): start one with `npm start`.*\n$/,
  );

  const silent = createServer(() => {});
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const address = silent.address();
  const port = typeof address === 'object' ? address?.port : 0;
  const late = await bayctl(undefined, [
    'get',
    'bays',
    '--server',
    `http://127.0.0.1:${port}`,
    '--request-timeout',
    '300ms',
  ]);
  t.is(late.status, 7, late.stderr);
  const watching = await bayctl(undefined, [
    'get',
    'bays',
    '--watch',
    '--server',
    `http://127.0.0.1:${port}`,
    '--request-timeout',
    '300ms',
  ]);
  t.is(watching.status, 7, watching.stderr);
  const http1 = createHttpServer((_request, response) => response.end('hello'));
  await new Promise<void>((resolve) => http1.listen(0, '127.0.0.1', resolve));
  const { port: httpPort } = http1.address() as AddressInfo;
  const other = await bayctl(undefined, ['get', 'bays', '--server', `http://127.0.0.1:${httpPort}`]);
  t.is(other.status, 6);
  t.regex(other.stderr, /does not speak HTTP\/2/);
  http1.close();
  silent.close();
});

test('every command has help with an example', async (t) => {
  const top = await bayctl(undefined, ['--help']);
  t.is(top.status, 0);
  t.regex(top.stdout, /Exit status:/);
  const names = [...top.stdout.matchAll(/^ {2}([a-z]+) /gm)]
    .map((match) => match[1] ?? '')
    .filter((name) => name !== 'bayctl' && name !== 'help' && name !== 'exec');
  t.true(names.length >= 20);
  for (const name of new Set(names)) {
    const help = await bayctl(undefined, [name, '--help']);
    t.is(help.status, 0, name);
    t.regex(help.stdout, /Examples:\n {2}\S/, name);
    t.is((await bayctl(undefined, ['help', name])).stdout, help.stdout, name);
  }
  for (const words of [
    ['bay', 'create'],
    ['bay', 'join-command'],
    ['container', 'pause'],
    ['config', 'use-context'],
    ['token', 'revoke'],
    ['node', 'cordon'],
    ['top', 'nodes'],
    ['exec'],
  ]) {
    t.regex((await bayctl(undefined, [...words, '--help'])).stdout, /Examples:\n {2}\S/, words.join(' '));
  }
});

test('contexts: made, used, changed and forgotten, in a file for the owner only', async (t) => {
  await using plane = await startFixture();
  await using dir = await folder();
  const file = join(dir.path, 'sub', 'config.yaml');
  const options = { env: { BAYCTL_CONFIG: file, BAYKEEPER_SERVER: '', BAYKEEPER_TOKEN: '' }, home: dir.path };
  plane.bays.set('edge', create(BaySchema, { metadata: { name: 'edge' }, status: { phase: BayPhase.READY } }));
  t.is(
    (
      await bayctl(
        undefined,
        ['config', 'set-context', 'work', '--server', plane.url, '--token', 'test-token', '--bay', 'local'],
        options,
      )
    ).stdout,
    'context work made\n',
  );
  t.is((await stat(file)).mode & 0o777, 0o600);
  t.is((await bayctl(undefined, ['config', 'current-context'], options)).stdout, 'work\n');
  t.is((await bayctl(undefined, ['get', 'bays', '-o', 'name'], options)).stdout, 'bay/edge\n');
  t.notRegex((await bayctl(undefined, ['config', 'view'], options)).stdout, /test-token/);
  await bayctl(undefined, ['config', 'set-context', 'other', '--server', 'http://127.0.0.1:1'], options);
  t.is((await bayctl(undefined, ['get', 'bays', '--context', 'other'], options)).status, 6);
  t.is((await bayctl(undefined, ['config', 'use-context', 'other'], options)).status, 0);
  t.regex(
    (await bayctl(undefined, ['config', 'get-contexts'], options)).stdout,
    /^\* +other +http:\/\/127\.0\.0\.1:1/m,
  );
  t.is((await bayctl(undefined, ['config', 'delete-context', 'other'], options)).status, 0);
  t.is((await bayctl(undefined, ['config', 'use-context', 'other'], options)).status, 2);
  // The token of one server is not sent to another.
  const elsewhere = await bayctl(
    undefined,
    ['get', 'bays', '--context', 'work', '--server', plane.url.replace('127.0.0.1', 'localhost')],
    options,
  );
  t.is(elsewhere.status, 3);
  t.regex(elsewhere.stderr, /was not sent/);
  const clear = await bayctl(
    undefined,
    ['get', 'bays', '--server', 'http://192.0.2.1:1', '--token', 'secret'],
    options,
  );
  t.regex(clear.stderr, /will not send a token in clear/);
  await writeFile(file, 'contexts: [');
  t.regex((await bayctl(undefined, ['get', 'bays'], options)).stderr, /config\.yaml is not YAML/);
  for (const broken of ['seeded-secret: x', '*seeded-secret', '"" seeded-secret']) {
    await writeFile(file, `contexts:\n  work:\n    token: ${broken}\n`);
    const { stderr } = await bayctl(undefined, ['-v', 'get', 'bays'], options);
    t.regex(stderr, /config\.yaml is not YAML: (\w+ in line 3|aliases are not taken)/);
    t.notRegex(stderr, /seeded-secret/);
  }
});

test('the control plane of npm start is the context local', async (t) => {
  await using plane = await startFixture();
  await using dir = await folder();
  const home = join(dir.path, 'home');
  await mkdir(home);
  await writeFile(join(home, 'admin.token'), 'test-token\n');
  const options = { env: { BAYKEEPER_HOME: home }, home: dir.path };
  t.regex((await bayctl(undefined, ['config', 'view'], options)).stdout, /server: http:\/\/127\.0\.0\.1:7480/);
  await writeFile(join(home, 'bayctl.yaml'), `server: ${plane.url}\ntoken_file: admin.token\n`);
  t.is((await bayctl(undefined, ['whoami'], options)).status, 0);
  t.is((await bayctl(undefined, ['config', 'current-context'], options)).stdout, 'local\n');
  t.is((await bayctl(undefined, ['get', 'containers'], options)).status, 0);
});
