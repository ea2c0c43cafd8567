import test from 'ava';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { bayctl } from '../harness/bayctl.ts';
import { type Site, startSite } from '../harness/site.ts';
import { until } from '../harness/until.ts';

let site: Site;
test.before(async () => {
  site = await startSite({ args: ['--heartbeat', '1s'] });
});
test.after.always(async () => site?.[Symbol.asyncDispose]());

/** Runs bayctl, and returns what it printed. Fails when it fails. */
async function ctl(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await bayctl(site.controlPlane, args);
  if (code !== 0) throw new Error(`bayctl ${args.join(' ')} ended with ${code}:\n${stdout}${stderr}`);
  return stdout;
}

const run = (name: string, ...command: string[]) =>
  ctl('run', name, '-b', 'local', '--image', site.image, '--', ...command);

/** Runs until it is told to end, and ends then: as process 1, `sleep` alone would have to be killed after the ten seconds of grace. */
const untilTerm = 'trap "exit 0" TERM; sleep 10000 & wait';
const steady = ['sh', '-c', untilTerm];

test.serial('a container goes the whole way: run, see, read, enter, explain, delete', async (t) => {
  t.regex(await ctl('get', 'nodes', '-b', 'local'), /node-1 +READY/);
  await run('web', 'sh', '-c', `echo hello; echo oops >&2; ${untilTerm}`);
  await site.inPhase('web', ContainerPhase.RUNNING);
  t.deepEqual(await site.onEngine(), ['web']);

  const shown = JSON.parse(await ctl('get', 'container', 'web', '-b', 'local', '-o', 'json'));
  t.is(shown.metadata.name, 'web');
  t.is(shown.metadata.bay, 'local');
  t.true(Date.parse(shown.status.delivery.trustUntil) > Date.now());
  const logs = await bayctl(site.controlPlane, ['logs', 'container/web', '-b', 'local']);
  t.is(logs.stdout, 'hello\n');
  t.is(logs.stderr, 'oops\n');
  t.is(await ctl('exec', 'container/web', '-b', 'local', '--', 'echo', 'inside'), 'inside\n');
  t.is(
    (await bayctl(site.controlPlane, ['exec', 'container/web', '-b', 'local', '--', 'sh', '-c', 'exit 42'])).code,
    42,
  );
  const piped = await bayctl(site.controlPlane, ['exec', '-i', 'container/web', '-b', 'local', '--', 'cat'], {
    input: 'x'.repeat(3_000_000),
  });
  t.is(piped.stdout.length, 3_000_000);
  const why = await ctl('why', 'container/web', '-b', 'local');
  for (const stage of ['accepted', 'published', 'received', 'applied', 'observed'])
    t.regex(why.toLowerCase(), new RegExp(stage));

  await ctl('delete', 'container', 'web', '-b', 'local');
  await site.gone('web');
  t.deepEqual(await site.onEngine(), []);
});

test.serial('power is desired state', async (t) => {
  await run('power', ...steady);
  await site.inPhase('power', ContainerPhase.RUNNING);
  const started = async () => (await site.dockerd.docker.getContainer('power').inspect()).State;
  const first = await started();
  await ctl('container', 'pause', 'power', '-b', 'local');
  await site.inPhase('power', ContainerPhase.PAUSED);
  await ctl('container', 'unpause', 'power', '-b', 'local');
  await site.inPhase('power', ContainerPhase.RUNNING);
  await ctl('container', 'reboot', 'power', '-b', 'local');
  await site.inPhase('power', ContainerPhase.RUNNING);
  await until('it was started anew', async () => (await started()).StartedAt !== first.StartedAt);
  await ctl('container', 'stop', 'power', '-b', 'local');
  await site.inPhase('power', ContainerPhase.STOPPED);
  t.false((await started()).Running);
  await ctl('container', 'start', 'power', '-b', 'local');
  await site.inPhase('power', ContainerPhase.RUNNING);
  await ctl('delete', 'container/power', '-b', 'local');
  await site.gone('power');
});

test.serial('what somebody does by hand is mended within two seconds', async (t) => {
  await run('mended', ...steady);
  await site.inPhase('mended', ContainerPhase.RUNNING);
  const { docker } = site.dockerd;
  const running = async () => {
    const { State } = await docker.getContainer('mended').inspect();
    return State.Running && !State.Paused;
  };
  const hands = {
    stop: () => docker.getContainer('mended').stop({ t: 0 }),
    kill: () => docker.getContainer('mended').kill(),
    pause: () => docker.getContainer('mended').pause(),
    'rm -f': () => docker.getContainer('mended').remove({ force: true }),
  };
  for (const [what, act] of Object.entries(hands)) {
    await act();
    await until(`mended after ${what}`, running, { timeoutMs: 2_000 });
  }
  await ctl('delete', 'container/mended', '-b', 'local');
  await site.gone('mended');
  t.deepEqual(await site.onEngine(), []);
});

test.serial('a foreign container with the same name is a conflict, and is left alone', async (t) => {
  const foreign = await site.dockerd.docker.createContainer({ name: 'taken', Image: site.image, Cmd: ['sleep', '1'] });
  await run('taken', ...steady);
  await site.inPhase('taken', ContainerPhase.FAILED);
  t.regex(await ctl('why', 'container/taken', '-b', 'local'), /NameConflict/);
  await ctl('delete', 'container/taken', '-b', 'local');
  await site.gone('taken');
  t.is((await foreign.inspect()).Id, foreign.id);
  await foreign.remove();
});

test.serial('an image that is not there is said, and does not hold up others', async (t) => {
  await ctl('run', 'lost', '-b', 'local', '--image', 'no-such-image:1', '--', 'true');
  await run('other', ...steady);
  await site.inPhase('other', ContainerPhase.RUNNING);
  await until('the reason is there', async () => {
    const shown = JSON.parse(await ctl('get', 'container', 'lost', '-b', 'local', '-o', 'json'));
    return shown.status.reason !== undefined && shown.status.message?.includes('no-such-image');
  });
  await ctl('delete', 'container', 'lost', 'other', '-b', 'local');
  await site.gone('lost');
  await site.gone('other');
  t.deepEqual(await site.onEngine(), []);
});

test.serial('a manifest is applied, changed and applied again', async (t) => {
  const manifest = (env: string) => `
apiVersion: baykeeper/v1
kind: Container
metadata:
  name: applied
  labels: {tier: web}
spec:
  image: ${site.image}
  args: [sh, -c, '${untilTerm}']
  env: [{name: COLOUR, value: ${env}}]
`;
  const apply = (env: string) =>
    bayctl(site.controlPlane, ['apply', '-b', 'local', '-f', '-'], { input: manifest(env) });
  t.regex((await apply('red')).stdout, /container\/applied created/);
  await site.inPhase('applied', ContainerPhase.RUNNING);
  t.regex((await apply('red')).stdout, /unchanged/);
  t.regex((await apply('blue')).stdout, /configured/);
  await site.inPhase('applied', ContainerPhase.RUNNING);
  t.is(await ctl('exec', 'container/applied', '-b', 'local', '--', 'sh', '-c', 'echo $COLOUR'), 'blue\n');
  t.is((await ctl('get', 'containers', '-b', 'local', '-l', 'tier=web', '-o', 'name')).trim(), 'container/applied');
  t.is((await ctl('get', 'containers', '-b', 'local', '-l', 'tier=db', '-o', 'name')).trim(), '');
  await ctl('delete', 'containers', '-l', 'tier=web', '-b', 'local');
  await site.gone('applied');
  t.deepEqual(await site.onEngine(), []);
});

test.serial('bays are made, and nodes get a line to join with', async (t) => {
  await ctl('bay', 'create', 'edge-1');
  const line = await ctl('bay', 'join-command', 'edge-1');
  t.regex(line, /^BAYKEEPER_AGENT_TOKEN=\S+\.\S+ \S.* join --server http:\/\/127\.0\.0\.1:\d+ .*\n$/);
  t.is(line.trim().split('\n').length, 1);
  t.regex(await ctl('get', 'bays'), /edge-1/);
  await ctl('delete', 'bay', 'edge-1');
});
