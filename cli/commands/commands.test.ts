import { Code, ConnectError, createClient } from '@connectrpc/connect';
import test from 'ava';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import {
  type Container,
  ContainerPhase,
  PortProtocol,
  RestartPolicy,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { startApi } from '../../test/harness/api_fixture.ts';
import { startFixture } from '../control_plane_fixture.ts';
import { readyNode } from '../node_fixture.ts';
import { bayctl, lastInput } from '../run_fixture.ts';

test('get nodes shows a table that lines up', async (t) => {
  await using plane = await startFixture();
  plane.nodes.set('node-1', readyNode('node-1'));
  const { stdout, status } = await bayctl(plane, ['get', 'nodes', '-b', 'local']);
  t.is(status, 0);
  t.is(
    stdout,
    'NAME     STATUS   CONTAINERS   VERSION   ENGINE         AGE   REASON\nnode-1   READY           1/2   0.1.0     docker 20.10   60m\n',
  );
});

test('get reads every page, and takes kinds by short name, plural, KIND/NAME and flags before the command', async (t) => {
  await using plane = await startFixture();
  for (let index = 0; index < 8; index++) plane.put(`c${index}`);
  for (const kind of ['c', 'ctr', 'container', 'containers', 'Containers']) {
    const { stdout } = await bayctl(plane, ['get', kind, '-b', 'local', '-o', 'name']);
    t.is(stdout.trim().split('\n').length, 8, kind);
  }
  t.is((await bayctl(plane, ['-b', 'local', 'get', 'container/c3', '-o', 'name'])).stdout, 'container/c3\n');
  t.is((await bayctl(plane, ['get', 'c', '-b', 'local', '--limit', '4', '-o', 'name'])).stdout.split('\n').length, 5);
  const both = await bayctl(plane, ['get', 'container', 'c1', 'missing', '-b', 'local', '-o', 'name']);
  t.is(both.stdout, 'container/c1\n');
  t.regex(both.stderr, /Error: there is no container "missing"/);
  t.is(both.status, 4);
});

test('get -o json of one is the object with everything in it, of many a list; enums are names, 64-bit numbers strings', async (t) => {
  await using plane = await startFixture();
  plane.put('web');
  const one = JSON.parse((await bayctl(plane, ['get', 'container', 'web', '-b', 'local', '-o', 'json'])).stdout);
  t.is(one.kind, 'Container');
  t.is(one.metadata.name, 'web');
  t.is(one.metadata.generation, '1');
  t.is(one.status.phase, 'CONTAINER_PHASE_RUNNING');
  t.is(one.status.restarts, 0);
  t.deepEqual(one.spec.args, []);
  const many = JSON.parse((await bayctl(plane, ['get', 'containers', '-b', 'local', '-o', 'json'])).stdout);
  t.is(many.items.length, 1);
});

test('what get -o yaml shows, apply takes back as unchanged', async (t) => {
  await using plane = await startFixture();
  plane.put('web', (container) => {
    if (container.metadata) container.metadata.annotations = { note: 'two\nlines: "quoted"\u001b[31m' };
  });
  const { stdout } = await bayctl(plane, ['get', 'container', 'web', '-b', 'local', '-o', 'yaml']);
  t.false(stdout.includes('\u001b'));
  const {
    stdout: applied,
    stderr,
    status,
  } = await bayctl(plane, ['apply', '-f', '-', '-b', 'local'], { stdin: stdout });
  t.is(stderr, '');
  t.is(applied, 'container/web unchanged\n');
  t.is(status, 0);
  const sent = plane.calls.find((call) => call.method === 'apply')?.input as {
    manifests: { object: { value: Container } }[];
  };
  t.is(sent.manifests[0]?.object.value.metadata?.annotations.note, 'two\nlines: "quoted"\u001b[31m');
});

test('get -o jsonpath fills templates', async (t) => {
  await using plane = await startFixture();
  plane.put('a');
  plane.put('b');
  const get = async (template: string) =>
    (await bayctl(plane, ['get', 'c', '-b', 'local', '-o', `jsonpath=${template}`])).stdout;
  t.is(await get('{.items[*].metadata.name}'), 'a b');
  t.is(
    await get('{range .items[*]}{.metadata.name}{"\\t"}{.status.phase}{"\\n"}{end}'),
    'a\tCONTAINER_PHASE_RUNNING\nb\tCONTAINER_PHASE_RUNNING\n',
  );
});

test('get all skips kinds that are not built yet, and names objects with their kind', async (t) => {
  await using plane = await startFixture();
  plane.put('web');
  const { stdout, stderr, status } = await bayctl(plane, ['get', 'all', '-b', 'local']);
  t.regex(stdout, /^container\/web +RUNNING/m);
  t.is(stderr, '');
  t.is(status, 0);
  t.is((await bayctl(plane, ['get', 'pods', '-b', 'local'])).status, 9);
});

test('an empty list says so on stderr, and is an empty list in JSON', async (t) => {
  await using plane = await startFixture();
  const table = await bayctl(plane, ['get', 'containers', '-b', 'local']);
  t.deepEqual(table, { stdout: '', stderr: 'No containers found in bay local, namespace default.\n', status: 0 });
  t.deepEqual(JSON.parse((await bayctl(plane, ['get', 'containers', '-b', 'local', '-o', 'json'])).stdout).items, []);
});

test('label selectors become a CEL filter', async (t) => {
  await using plane = await startFixture();
  await bayctl(plane, [
    'get',
    'c',
    '-b',
    'local',
    '-l',
    'tier in (web,api),!old,env!=dev',
    '--filter',
    'status.phase == "FAILED"',
  ]);
  t.is(
    lastInput<{ filter: string }>(plane).filter,
    '(("tier" in labels && labels["tier"] in ["web", "api"]) && !("old" in labels) && !("env" in labels && labels["env"] == "dev")) && (status.phase == "FAILED")',
  );
});

test('a table shortens to the terminal, and shows control characters instead of obeying them', async (t) => {
  await using plane = await startFixture();
  plane.put('web', (container) => {
    if (container.spec) container.spec.image = 'registry.example.com/a/very/long/name/of/an/image/indeed:1.2.3';
    if (container.status)
      Object.assign(container.status, { phase: ContainerPhase.FAILED, reason: 'Bad\u001b]0;title\u0007' });
  });
  const { stdout } = await bayctl(plane, ['get', 'c', '-b', 'local'], { columns: 70, env: { NO_COLOR: '1' } });
  for (const line of stdout.trimEnd().split('\n')) t.true(line.length <= 70, line);
  t.regex(stdout, /…/);
  t.false(stdout.includes('\u001b') || stdout.includes('\u0007'));
  const coloured = await bayctl(plane, ['get', 'c', '-b', 'local'], { columns: 200 });
  t.true(coloured.stdout.includes('\u001b[31mFAILED'));
});

test('run makes the container that was meant', async (t) => {
  await using plane = await startFixture();
  const { stdout, stderr, status } = await bayctl(plane, [
    ...[
      'run',
      'web',
      '-b',
      'local',
      '--image',
      'nginx',
      '--env',
      'A=B=C',
      '--port',
      '127.0.0.1:8080:80/udp',
      '--volume',
      '/srv:/data:ro',
    ],
    ...[
      '--restart',
      'on-failure',
      '--cpu',
      '500m',
      '--memory',
      '64Mi',
      '--label',
      'tier=web',
      '--',
      'CMD',
      '-x',
      '--',
      'ARG',
    ],
  ]);
  t.is(stderr, '');
  t.is(stdout, 'container/web created\n');
  t.is(status, 0);
  const { spec, metadata } = lastInput<Container>(plane);
  t.is(metadata?.bay, 'local');
  t.deepEqual(metadata?.labels, { tier: 'web' });
  t.deepEqual(spec?.args, ['CMD', '-x', '--', 'ARG']);
  t.deepEqual(spec?.command, []);
  t.like(spec?.env[0], { name: 'A', value: 'B=C' });
  t.like(spec?.ports[0], { hostIp: '127.0.0.1', hostPort: 8080, containerPort: 80, protocol: PortProtocol.UDP });
  t.like(spec?.mounts[0], { source: '/srv', target: '/data', readOnly: true });
  t.is(spec?.restartPolicy, RestartPolicy.ON_FAILURE);
  t.like(spec?.resources, { cpuMillis: 500n, memoryBytes: 64n * 1024n * 1024n });
  await bayctl(plane, ['run', 'other', '-b', 'local', '--image', 'x', '--command', '--', 'sh']);
  t.deepEqual(lastInput<Container>(plane).spec?.command, ['sh']);
  const twice = await bayctl(plane, ['run', 'web', '-b', 'local', '--image', 'nginx']);
  t.is(twice.status, 5);
  t.is(twice.stderr, 'Error: there is a container "web" already\n');
});

test('run --wait ends when it runs, and fails with the reason when it cannot', async (t) => {
  await using plane = await startFixture();
  const waiting = bayctl(plane, ['run', 'web', '-b', 'local', '--image', 'nginx', '--wait', '--dry-run']);
  t.is((await waiting).stdout, 'container/web created (dry run)\n');
  t.regex((await bayctl(plane, ['run', 'web', '-b', 'local', '--image', 'nginx', '--wait'])).stdout, /is running/);
});

test('why shows the chain and the sentence', async (t) => {
  await using plane = await startFixture();
  const { stdout } = await bayctl(plane, ['why', 'container/web', '-b', 'local']);
  t.regex(stdout, /✓ +accepted +\S+Z +\d+s ago +control-plane/);
  t.regex(stdout, /✗ +applied .*refused: ImageNotFound: no such image/);
  t.regex(stdout, /… +observed .*waiting/);
  t.regex(stdout, /correct its name\.\n$/);
});

test('delete waits until it is gone, and says when it is not in time', async (t) => {
  await using plane = await startFixture();
  plane.put('web');
  t.deepEqual(await bayctl(plane, ['delete', 'container', 'web', '-b', 'local']), {
    stdout: 'container/web deleted\n',
    stderr: '',
    status: 0,
  });
  t.is((await bayctl(plane, ['delete', 'container', 'web', '-b', 'local'])).status, 4);
  t.is((await bayctl(plane, ['delete', 'container', 'web', '-b', 'local', '--ignore-not-found'])).status, 0);

  plane.put('slow');
  plane.slowDelete = true;
  const late = await bayctl(plane, ['delete', 'container/slow', '-b', 'local', '--timeout', '300ms']);
  t.is(late.status, 7);
  t.regex(late.stderr, /container\/slow is not gone after \d+s: RUNNING, its deletion is asked for/);
  const deletions = () => plane.calls.filter((call) => call.method === 'deleteContainer').length;
  const before = deletions();
  const waiting = bayctl(plane, ['delete', 'container/slow', '-b', 'local']);
  while (deletions() === before) await new Promise(setImmediate);
  plane.remove('slow');
  t.is((await waiting).stdout, 'container/slow deleted\n');
  plane.put('unwaited');
  t.is(
    (await bayctl(plane, ['delete', 'c', '--all', '-b', 'local', '--wait=false'])).stdout,
    'container/unwaited deletion asked for\n',
  );
});

test('bay create, join-command and tokens', async (t) => {
  await using plane = await startFixture();
  t.is((await bayctl(plane, ['bay', 'create', 'edge-1'])).stdout, 'bay/edge-1 created\n');
  const { stdout, stderr } = await bayctl(plane, ['bay', 'join-command', 'edge-1', '--ttl', '2h', '--uses', '3']);
  t.is(stdout, 'baykeeper-agent join --token tok0.secret\n');
  t.is(stderr, '');
  t.like(lastInput(plane), { bay: 'edge-1', maxUses: 3, ttl: { seconds: 7200n } });
  t.regex((await bayctl(plane, ['bay', 'join-token', 'list'])).stdout, /tok0 +edge-1 +READY +0\/3/);
  t.is((await bayctl(plane, ['bay', 'join-token', 'revoke', 'tok0'])).stdout, 'token/tok0 revoked\n');
  t.regex((await bayctl(plane, ['bay', 'join-token', 'list'])).stdout, /REVOKED/);
  t.is((await bayctl(plane, ['bay', 'join-token', 'revoke', 'nope'])).status, 4);
});

test('bay revoke takes back the join tokens, and then the trust in each agent', async (t) => {
  await using plane = await startFixture();
  await bayctl(plane, ['bay', 'create', 'edge-1']);
  for (const _ of [1, 2]) await bayctl(plane, ['bay', 'join-command', 'edge-1']);
  await bayctl(plane, ['bay', 'join-token', 'revoke', 'tok0']);
  plane.nodes.set('n', readyNode('n'));
  const [gone, worker] = [readyNode('gone'), readyNode('worker')];
  if (gone.spec) gone.spec.revoked = true;
  if (worker.spec) worker.spec.publicKey = '';
  plane.nodes.set('gone', gone).set('worker', worker);
  const { stdout, status } = await bayctl(plane, ['bay', 'revoke', 'edge-1']);
  t.is(stdout, 'token/tok1 revoked\nnode/n revoked\n');
  t.is(status, 0);
  t.like(lastInput(plane), { bay: 'edge-1', name: 'n' });
  t.is((await bayctl(plane, ['bay', 'revoke', 'nope'])).status, 4);
});

test('bay revoke ends the trust in agents whatever becomes of a join token, and in all of them at once', async (t) => {
  await using plane = await startFixture();
  await bayctl(plane, ['bay', 'create', 'edge-1']);
  await bayctl(plane, ['bay', 'join-command', 'edge-1']);
  plane.nodes.set('n', readyNode('n'));
  plane.failures.set('revokeJoinToken', new ConnectError('no', Code.PermissionDenied));
  const one = await bayctl(plane, ['bay', 'revoke', 'edge-1']);
  t.is(one.stdout, 'node/n revoked\n');
  t.not(one.status, 0);

  await using api = await startApi();
  const { bay } = await createClient(BayService, api.transport()).createBay({ bay: { metadata: { name: 'big' } } });
  const count = 50;
  for (let i = 0; i < count; i += 1) await api.addNode(bay?.metadata?.uid ?? '', `n${i}`);
  // A broker that takes its time, and tells all that wait at once.
  const told = Promise.withResolvers<void>();
  let waiting = 0;
  api.access.revoke = async () => {
    waiting += 1;
    if (waiting === count) told.resolve();
    await told.promise;
  };
  const args = ['bay', 'revoke', 'big', '--server', api.server.url, '--token', 'red-token'];
  const { stdout, stderr, status } = await bayctl(undefined, [...args, '--request-timeout', '5s']);
  t.is(status, 0, stderr);
  t.is(stdout.trimEnd().split('\n').length, count);
});

test('container verbs, node verbs, top, describe, label, whoami, version', async (t) => {
  await using plane = await startFixture();
  plane.put('web');
  plane.nodes.set('n', readyNode('n'));
  for (const verb of ['start', 'stop', 'pause', 'unpause', 'reboot']) {
    t.is((await bayctl(plane, ['container', verb, 'web', '-b', 'local'])).stdout, `container/web asked to ${verb}\n`);
  }
  t.is((await bayctl(plane, ['node', 'cordon', 'n', '-b', 'local'])).stdout, 'node/n cordoned\n');
  t.like(lastInput(plane), { paths: ['spec.unschedulable'] });
  t.is((await bayctl(plane, ['node', 'revoke', 'node/n', '-b', 'local'])).stdout, 'node/n revoked\n');
  t.regex((await bayctl(plane, ['top', 'nodes', '-b', 'local'])).stdout, /n +READY +13% +2 +2Gi +25%/);
  t.regex((await bayctl(plane, ['describe', 'node', 'n', '-b', 'local'])).stdout, /Conditions:\n {2}TYPE +STATUS/);
  t.regex((await bayctl(plane, ['describe', 'container/web', '-b', 'local'])).stdout, /Image: +busybox/);
  t.is((await bayctl(plane, ['label', 'container', 'web', 'a=b', '-b', 'local'])).stdout, 'container/web labelled\n');
  t.is((await bayctl(plane, ['label', 'container', 'web', 'a=c', '-b', 'local'])).status, 5);
  t.is((await bayctl(plane, ['label', 'container', 'web', 'a-', '-b', 'local'])).stdout, 'container/web labelled\n');
  t.is((await bayctl(plane, ['annotate', 'container/web', 'x=y', '-b', 'local'])).stdout, 'container/web annotated\n');
  t.regex((await bayctl(plane, ['whoami'])).stdout, /^admin, admin in project default/);
  t.regex((await bayctl(plane, ['version'])).stdout, /Server: 9\.9\.9/);
  t.regex((await bayctl(undefined, ['version', '--client'])).stdout, /^Client: \d/);
});

test('wait for phase, condition, jsonpath and deletion', async (t) => {
  await using plane = await startFixture();
  plane.nodes.set('n', readyNode('n'));
  plane.put('web', (container) => Object.assign(container.status ?? {}, { phase: ContainerPhase.PULLING }));
  const waiting = bayctl(plane, ['wait', '--for=phase=RUNNING', 'container/web', '-b', 'local', '--timeout', '20s']);
  while (!plane.calls.some((call) => call.method === 'watchContainers')) await new Promise(setImmediate);
  plane.put('web', (container) => Object.assign(container.status ?? {}, { phase: ContainerPhase.RUNNING }));
  t.deepEqual(await waiting, { stdout: 'container/web is in phase RUNNING\n', stderr: '', status: 0 });
  t.is((await bayctl(plane, ['wait', '--for=condition=Ready', 'node/n', '-b', 'local'])).status, 0);
  t.is((await bayctl(plane, ['wait', '--for=condition=Ready', 'c', 'web', '-b', 'local'])).status, 0);
  t.is(
    (await bayctl(plane, ['wait', '--for=jsonpath={.status.restarts}=0', 'container/web', '-b', 'local'])).status,
    0,
  );
  t.is(
    (
      await bayctl(plane, [
        'wait',
        '--for=jsonpath={.status.restarts}=1',
        'container/web',
        '-b',
        'local',
        '--timeout',
        '0',
      ])
    ).status,
    7,
  );
  t.is((await bayctl(plane, ['wait', '--for=delete', 'container/gone', '-b', 'local'])).status, 0);
  t.is((await bayctl(plane, ['wait', '--for=phase=RUNNING', 'container/gone', '-b', 'local'])).status, 4);
  t.is((await bayctl(plane, ['wait', '--for=nonsense', 'container/web', '-b', 'local'])).status, 2);
});
