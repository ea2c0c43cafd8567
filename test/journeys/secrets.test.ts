import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { get } from 'node:https';
import path from 'node:path';
import process from 'node:process';
import { text } from 'node:stream/consumers';
import test from 'ava';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { bayctl as runBayctl } from '../harness/bayctl.ts';
import { type ControlPlane, startControlPlane } from '../harness/control_plane.ts';
import { startDockerd } from '../harness/dockerd.ts';
import { ownProgram, Program, run } from '../harness/program.ts';
import { image } from '../harness/site.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';

/* What is secret is nowhere but where it is kept: canaries are sown, and all that a full run leaves is searched for them. */

/** A command line as a user types it, whose programs may leave core files, as far as they allow it themselves. */
const shell = (line: string): readonly [string, ...string[]] => ['sh', '-c', `ulimit -S -c unlimited; ${line}`];
const quoted = (words: readonly string[]): string => words.map((word) => `'${word}'`).join(' ');

/** What the process list shows, from now on; and the most that a core file of each may take. */
class ProcessList {
  readonly seen = new Set<string>();
  readonly #timer = setInterval(() => this.#look(), 20);
  #look(): void {
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        this.seen.add(readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' '));
      } catch {
        // It has just ended.
      }
    }
  }
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

/** Every file below a folder, by its path from there. One that is renamed meanwhile is there by its other name. */
function filesBelow(folder: string): Map<string, Buffer> {
  const files = new Map<string, Buffer>();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    const file = path.join(entry.parentPath, entry.name);
    if (!entry.isFile()) continue;
    try {
      files.set(path.relative(folder, file), readFileSync(file));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  return files;
}

/** A page of the control plane's, as text. */
async function pageOf({ url, dataDir }: ControlPlane, page: string): Promise<string> {
  const [response] = await once(
    get(`${url}/${page}`, { ca: readFileSync(path.join(dataDir, 'tls', 'ca.pem')) }),
    'response',
  );
  return await text(response);
}

test('no secret is in a log, an answer, a metric, a file or the process list that is not its own', async (t) => {
  await using folder = await temporaryFolder('secrets');
  const dataDir = path.join(folder.path, 'control-plane');
  const agentDir = path.join(folder.path, 'agent');
  const admin = `canary-admin-${'a'.repeat(32)}`;
  await mkdir(dataDir, { mode: 0o700 });
  await writeFile(path.join(dataDir, 'admin.token'), `${admin}\n`, { mode: 0o600 });
  using processes = new ProcessList();
  await using dockerd = await startDockerd();
  await dockerd.importBusybox(image);
  const ofFile = `canary-of-a-token-file-${'b'.repeat(32)}`;
  const tokenFile = path.join(folder.path, 'tokens.yaml');
  const sha256 = createHash('sha256').update(ofFile).digest('hex');
  await writeFile(tokenFile, JSON.stringify([{ sha256, subject: 'ci', project: 'default', role: 'reader' }]));
  await using controlPlane = await startControlPlane({
    dataDir,
    args: ['--log-level', 'trace', '--tls', 'on', '--token-file', tokenFile],
  });
  t.is(controlPlane.token, admin);
  const trusting = { BAYKEEPER_CA_FILE: path.join(dataDir, 'tls', 'ca.pem') };
  /** All that callers were told, but for what gives a secret on purpose. */
  let told = '';
  const bayctl = async (args: readonly string[], options: Parameters<typeof runBayctl>[2] = {}) => {
    const outcome = await runBayctl(controlPlane, [...args, '-v'], {
      ...options,
      env: { ...trusting, ...options.env },
    });
    told += `${outcome.stdout}${outcome.stderr}`;
    return outcome;
  };
  const works = async (...args: Parameters<typeof bayctl>): Promise<void> => {
    const { code, stdout, stderr } = await bayctl(...args);
    t.is(code, 0, `${args[0].join(' ')}: ${stdout}${stderr}`);
  };

  // Tokens that are made by a call and by a file let in; the first is revoked while it has a stream open.
  const made = await runBayctl(controlPlane, ['token', 'create', '--role', 'admin'], { env: trusting });
  const ofCall = made.stdout.trim();
  t.regex(ofCall, /^bk[0-9a-f]{16}\.\S{20,}$/);
  for (const token of [ofCall, ofFile]) await works(['whoami'], { env: { BAYKEEPER_TOKEN: token } });
  const following = bayctl(['audit', '-f'], { env: { BAYKEEPER_TOKEN: ofCall } });
  await works(['token', 'revoke', ofCall.split('.', 1)[0] ?? '']);
  t.not((await following).code, 0);

  // A node joins by the line that a user copies.
  await works(['bay', 'create', 'edge']);
  const { stdout: line } = await runBayctl(controlPlane, ['bay', 'join-command', 'edge', '--uses', '2'], {
    env: trusting,
  });
  const joinSecret = /[0-9a-f]{16}\.([\w-]{20,})/.exec(line)?.[1] ?? '';
  t.not(joinSecret, '');
  const node = ['--data', agentDir, '--docker', dockerd.socketPath, '--log-level', 'debug'];
  const joined = await run(shell(`${line.trim()} ${quoted([...node, '--enroll-only'])}`));
  t.is(joined.code, 0, joined.stderr);
  await using agent = new Program({
    command: shell(`exec ${quoted(ownProgram('agent/main.ts', 'run', ...node))}`),
    readyLine: /"msg":"(connected|session)/,
  });
  await agent.start();

  // What people do, right and wrong.
  const inSpec = 'canary-in-a-spec';
  const manifest = (name: string, more = '') =>
    `apiVersion: baykeeper/v1\nkind: Container\nmetadata: {name: ${name}, bay: edge}\nspec:\n  image: ${image}\n  args: [sleep, "10000"]\n  env: [{name: PASSWORD, value: ${inSpec}}]\n${more}`;
  await works(['apply', '-f', '-', '-b', 'edge'], { input: manifest('web') });
  await works(['wait', 'container/web', '-b', 'edge', '--for', 'phase=Running']);
  t.not((await bayctl(['apply', '-f', '-', '-b', 'edge'], { input: manifest('bad', '  nonsense: 1\n') })).code, 0);
  await works(['apply', '-f', '-', '-b', 'edge'], {
    input: manifest('lost', '  stop_timeout: 0s\n').replace(image, 'nowhere:1'),
  });
  const typed = 'canary-typed-into-a-command';
  await works(['exec', '-i', 'container/web', '-b', 'edge', '--', 'sh', '-c', 'read word; test -n "$word"'], {
    input: `${typed}\n`,
  });
  for (const args of [
    ['get', 'containers', '-b', 'edge'],
    ['why', 'container/web', '-b', 'edge'],
    ['why', 'container/lost', '-b', 'edge'],
    ['describe', 'node', '-b', 'edge'],
    ['token', 'list', '-o', 'json'],
    ['logs', 'container/web', '-b', 'edge'],
    ['audit', '--effects', '--limit', '1000', '-o', 'json'],
    ['whoami', '-o', 'json'],
  ]) {
    await works(args);
  }
  const wrongToken = 'canary-wrong-token-of-somebody';
  t.not((await bayctl(['get', 'bays'], { env: { BAYKEEPER_TOKEN: wrongToken } })).code, 0);
  const wrongJoin = 'canary0wrong0join0token0secret00';
  const turnedAway = await run(
    shell(`${line.trim().replace(joinSecret, wrongJoin)} ${quoted(['--data', `${agentDir}-2`, '--enroll-only'])}`),
  );
  t.not(turnedAway.code, 0);
  told += joined.stdout + joined.stderr + turnedAway.stdout + turnedAway.stderr;
  await agent.kill();
  await agent.start();
  await controlPlane.kill9();
  await controlPlane.start();
  // Meant for nats-server, which opens its log anew; Node.js would open a debugger to all users of the machine.
  for (const { pid } of [controlPlane.program, agent]) process.kill(pid, 'SIGUSR1');
  await until('the node is back', async () => {
    const { containers } = await controlPlane.client(ContainerService).listContainers({ bay: 'edge' });
    return containers.some(
      ({ metadata, status }) => metadata?.name === 'web' && status?.phase === ContainerPhase.RUNNING,
    );
  });
  for (const page of ['metrics', 'healthz', 'readyz', '']) told += await pageOf(controlPlane, page);

  for (const pid of [controlPlane.program.pid, agent.pid, await controlPlane.brokerPid()]) {
    t.regex(readFileSync(`/proc/${pid}/limits`, 'utf8'), /^Max core file size +0 +/m, `of ${pid}`);
    told += readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  }
  const logs = controlPlane.program.output + agent.output;
  t.true(logs.length > 5_000, 'there is something to search');
  t.notRegex(logs, /Debugger listening/);
  const files = filesBelow(folder.path);
  const seeds = [...files].filter(([, content]) => /^S[A-Z0-9]{20,}\s*$/.test(content.toString('latin1')));
  t.true(seeds.length >= 4, 'operator, accounts, the control plane itself and the agent have keys');
  // The second line of a key in PEM, in a file or in JSON: the first is the same in all.
  const pems = [...files].flatMap(([file, content]) =>
    [
      ...content.toString('latin1').matchAll(/BEGIN PRIVATE KEY-----(?:\r?\n|\\n)[^\n\\]+(?:\r?\n|\\n)([^\r\n\\]+)/g),
    ].map(([, line = '']) => [`the key in ${file}`, line, new RegExp(`^${file}$`)] as const),
  );
  t.true(pems.length >= 2, 'the authority and the server have keys');
  const signing = 'control-plane/signing/keys.json';
  const [signingKey] = JSON.parse(files.get(signing)?.toString() ?? '[]') as { seed: string }[];
  t.truthy(signingKey?.seed);
  /** Each secret, and the only files that may hold it. */
  const secrets: readonly (readonly [string, string, RegExp | undefined])[] = [
    ['the admin token', admin, /^control-plane\/admin\.token$/],
    ['the join token', joinSecret, undefined],
    ['a token that was made', ofCall.split('.')[1] ?? '', undefined],
    ['a token of the file', ofFile, undefined],
    ['a wrong token', wrongToken, undefined],
    ['a wrong join token', wrongJoin, undefined],
    ['what was typed', typed, undefined],
    // Whoever may read the object may read that; it is no business of logs.
    ['a value in a spec', inSpec, /^(control-plane\/store\.db|agent\/)/],
    ['the key that messages are signed with', signingKey?.seed ?? '', new RegExp(`^${signing}$`)],
    ...pems,
    ...seeds.map(
      ([file, content]) => [`the key in ${file}`, content.toString('latin1').trim(), new RegExp(`^${file}$`)] as const,
    ),
  ];
  const commands = [...processes.seen].filter((command) => !command.startsWith('sh -c')).join('\n');
  for (const [what, secret, kept] of secrets) {
    t.false(logs.includes(secret), `${what} is in a log`);
    t.false(told.includes(secret), `${what} was told`);
    t.false(
      commands.includes(secret),
      `${what} is in the process list: ${commands.split('\n').find((c) => c.includes(secret))}`,
    );
    for (const [file, content] of files) {
      if (!kept?.test(file)) t.false(content.includes(secret), `${what} is in ${file}`);
    }
  }
});
