import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process';
import { access, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { type ControlPlaneFixture, fixtureToken, startFixture } from './control_plane_fixture.ts';

const launcher = fileURLToPath(new URL('./bayctl', import.meta.url));

interface Running {
  readonly child: ChildProcessWithoutNullStreams;
  output(): string;
  errors(): string;
  /** Resolves when the output has this text; rejects when the process ends first. */
  has(text: string): Promise<void>;
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

function environment(plane: ControlPlaneFixture, more: Record<string, string> = {}): NodeJS.ProcessEnv {
  return {
    ...process.env,
    BAYKEEPER_SERVER: plane.url,
    BAYKEEPER_TOKEN: fixtureToken,
    BAYKEEPER_BAY: 'local',
    BAYCTL_CONFIG: '/nonexistent/config.yaml',
    ...more,
  };
}

function start(command: string, args: readonly string[], env: NodeJS.ProcessEnv): Running {
  const child = spawn(command, args, { env });
  let output = '';
  let errors = '';
  const watchers = new Set<() => void>();
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString('utf8');
    for (const look of watchers) look();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString('utf8');
  });
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
  return {
    child,
    output: () => output,
    errors: () => errors,
    ended,
    has(text) {
      return new Promise((resolve, reject) => {
        const look = (): void => {
          if (!output.includes(text)) return;
          watchers.delete(look);
          resolve();
        };
        watchers.add(look);
        look();
        void ended.then(() =>
          reject(new Error(`ended without ${JSON.stringify(text)}: ${JSON.stringify(output + errors)}`)),
        );
      });
    },
  };
}

/** In a terminal of its own. */
function startInTerminal(t: ExecutionContext, command: string, env: NodeJS.ProcessEnv): Running {
  const running = start('script', ['-qec', command, '/dev/null'], { ...env, TERM: 'xterm', SHELL: '/bin/sh' });
  t.teardown(() => running.child.kill('SIGKILL'));
  return running;
}

test('the launcher finds its program through links, from any folder', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'bayctl-link-'));
  await symlink(launcher, join(dir, 'first'));
  await symlink('first', join(dir, 'bayctl'));
  const output = execFileSync('bayctl', ['version', '--client'], {
    cwd: '/',
    env: { ...process.env, PATH: `${dir}:${process.env.PATH}` },
  });
  t.regex(output.toString(), /^Client: /);
  await rm(dir, { recursive: true });
});

test('a reader that goes away, as head does, ends it without a word', async (t) => {
  await using plane = await startFixture();
  plane.put('web');
  for (let line = 0; line < 2000; line++) plane.logs.push(['stdout', `${'x'.repeat(200)}\n`]);
  const running = start('sh', ['-c', `"$1" logs web -f | head -n 1`, 'sh', launcher], environment(plane));
  t.like(await running.ended, { code: 0 });
  t.is(running.errors(), '');
  t.is(running.output(), `${'x'.repeat(200)}\n`);
});

test('a watch ends soon after its reader, also when nothing happens any more', async (t) => {
  await using plane = await startFixture();
  plane.put('web');
  const running = start('sh', ['-c', `"$1" get containers --watch | head -n 2`, 'sh', launcher], environment(plane));
  await running.has('web');
  t.like(await running.ended, { code: 0 });
  t.is(running.errors(), '');
});

test('Ctrl-C ends a watch at once with 130 and without a trace', async (t) => {
  await using plane = await startFixture();
  plane.put('web');
  const running = start(launcher, ['get', 'containers', '--watch'], environment(plane));
  await running.has('web');
  running.child.kill('SIGINT');
  t.like(await running.ended, { code: 130 });
  t.is(running.errors(), '');
});

test('exec -it: keys go raw, the size of the terminal and its changes are told, the exit status comes back, and the terminal is given back', async (t) => {
  await using plane = await startFixture();
  const dir = await mkdtemp(join(tmpdir(), 'bayctl-tty-'));
  const flag = join(dir, 'resize');
  const script = join(dir, 'session.sh');
  await writeFile(
    script,
    `stty cols 90 rows 30 < /dev/tty
(while [ ! -e ${flag} ]; do sleep 0.05; done; stty cols 100 rows 33 < /dev/tty) &
${launcher} exec -it web -- sh
echo "status=$?"
stty -a < /dev/tty | grep -o -- '-\\?icanon'
`,
  );
  const running = startInTerminal(t, `sh ${script}`, environment(plane));
  await running.has('ran sh tty=true size=90x30');
  await writeFile(flag, '');
  await running.has('resized 100x33');
  running.child.stdin.write('a');
  await running.has('got "a"');
  // Ctrl-C is a key like any other here.
  running.child.stdin.write('\x03');
  await running.has('got "\\u0003"');
  running.child.stdin.write('\x04');
  await running.ended;
  t.regex(running.output(), /status=7\r?\n/);
  t.regex(running.output(), /(?<!-)icanon/);
  await access(flag);
  await rm(dir, { recursive: true });
});

test('exec -it gives the terminal back when the server goes away, and when it is killed', async (t) => {
  await using plane = await startFixture();
  const command = `sh -c '${launcher} exec -it web -- sh; echo "status=$?"; stty -a < /dev/tty | grep -o -- "-\\?icanon"'`;
  const dropped = startInTerminal(t, command, environment(plane));
  await dropped.has('ran sh tty=true');
  plane.dropConnections();
  await dropped.ended;
  t.regex(dropped.output(), /Error: the connection to \S+ broke/);
  t.regex(dropped.output(), /status=6/);
  t.regex(dropped.output(), /(?<!-)icanon/);

  const dir = await mkdtemp(join(tmpdir(), 'bayctl-kill-'));
  const pidFile = join(dir, 'pid');
  const killed = startInTerminal(
    t,
    `sh -c 'sh -c "echo \\$\\$ > ${pidFile}; exec ${launcher} exec -it web -- sh"; echo "status=$?"; stty -a < /dev/tty | grep -o -- "-\\?icanon"'`,
    environment(plane),
  );
  await killed.has('ran sh tty=true');
  process.kill(Number(await readFile(pidFile, 'utf8')), 'SIGTERM');
  await killed.ended;
  t.regex(killed.output(), /status=143/);
  t.regex(killed.output(), /(?<!-)icanon/);
  await rm(dir, { recursive: true });
});

test('waiting shows its progress on a terminal and takes it away; elsewhere it writes nothing', async (t) => {
  await using plane = await startFixture();
  plane.put('web');
  const running = startInTerminal(
    t,
    `${launcher} wait --for=phase=STOPPED container/web --timeout 1s`,
    environment(plane),
  );
  await running.ended;
  t.regex(running.output(), /[⠋⠙⠹⠸] container\/web: waiting to be in phase STOPPED; now RUNNING/);
  t.true(running.output().includes('\r\u001b[K'));
  const plain = start(
    launcher,
    ['wait', '--for=phase=STOPPED', 'container/web', '--timeout', '500ms'],
    environment(plane),
  );
  t.like(await plain.ended, { code: 7 });
  t.regex(plain.errors(), /^Error: container\/web is not in phase STOPPED/);
});

test('a large log comes through whole', async (t) => {
  await using plane = await startFixture();
  plane.put('web');
  const chunk = 'y'.repeat(64 * 1024);
  for (let index = 0; index < 512; index++) plane.logs.push(['stdout', chunk]);
  const running = start('sh', ['-c', `"$1" logs web | wc -c`, 'sh', launcher], environment(plane));
  t.like(await running.ended, { code: 0 });
  t.is(Number(running.output()), 512 * 64 * 1024);
});

test('bash completes commands, flags, kinds and the names of objects', async (t) => {
  await using plane = await startFixture();
  plane.put('web');
  plane.put('worker');
  const env = environment(plane);
  const functions = start(launcher, ['completion', 'bash'], env);
  await functions.ended;
  const complete = async (line: string): Promise<string[]> => {
    const script = `source <(printf '%s' "$3")
COMP_LINE=$2; COMP_POINT=\${#COMP_LINE}
read -ra COMP_WORDS <<< "\${COMP_LINE//=/ = }"
[[ $COMP_LINE == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
COMP_WORDS[0]=$1
_bayctl
printf '%s\\n' "\${COMPREPLY[@]}"`;
    const running = start('bash', ['-c', script, 'bash', launcher, line, functions.output()], env);
    await running.ended;
    t.is(running.errors(), '', line);
    return running.output().trim().split('\n');
  };
  t.true((await complete('bayctl ')).includes('join-command') === false);
  t.deepEqual(await complete('bayctl de'), ['describe', 'delete']);
  t.deepEqual(await complete('bayctl bay '), ['create', 'join-command', 'join-token', 'revoke']);
  t.true((await complete('bayctl get cont')).includes('containers'));
  t.deepEqual(await complete('bayctl get containers w'), ['web', 'worker']);
  t.deepEqual(await complete('bayctl logs -f we'), ['web']);
  t.deepEqual(await complete('bayctl delete container/wo'), ['container/worker']);
  t.deepEqual(await complete('bayctl get c --sort'), ['--sort-by']);
  t.deepEqual(await complete('bayctl get c -o js'), ['json', 'jsonpath=']);
  t.deepEqual(await complete('bayctl get c --output=js'), ['json', 'jsonpath=']);
  t.deepEqual(await complete('bayctl exec web -- w'), ['']);
  plane.cluster.put('Pod', 'redis-master', ({ spec }) =>
    Object.assign(spec ?? {}, { manifest: { containers: [{ name: 'master' }, { name: 'sentinel' }] } }),
  );
  plane.cluster.put('ReplicationController', 'redis');
  t.deepEqual(await complete('bayctl logs -b edge po'), ['pod/redis-master']);
  t.deepEqual(await complete('bayctl exec -b edge pod/redis-master -c s'), ['sentinel']);
  t.deepEqual(await complete('bayctl scale -b edge rc/'), ['rc/redis']);
  t.deepEqual(await complete('bayctl get -b edge svc,po x'), ['']);
  t.deepEqual(await complete('bayctl apply --dry-run=s'), ['server']);
});

test('the completion of objects does not complain when there is no server', async (t) => {
  const running = start(launcher, ['__complete', '--', 'get', 'containers', 'w'], {
    ...process.env,
    BAYKEEPER_SERVER: 'http://127.0.0.1:1',
    BAYKEEPER_BAY: 'local',
    BAYCTL_CONFIG: '/nonexistent/x',
  });
  t.like(await running.ended, { code: 0 });
  t.is(running.output() + running.errors(), '');
});

test('the scripts of completion are ones that their shells can read', async (t) => {
  for (const shell of ['bash', 'zsh', 'fish']) {
    const running = start(launcher, ['completion', shell], process.env);
    t.like(await running.ended, { code: 0 });
    t.true(running.output().includes('__complete'));
    const installed = start('sh', ['-c', `command -v ${shell}`], process.env);
    if ((await installed.ended).code !== 0) {
      t.log(`${shell} is not installed: its script was not run`);
      continue;
    }
    const check = start(shell, ['-n', '-c', running.output()], process.env);
    t.like(await check.ended, { code: 0 }, check.errors());
  }
});
