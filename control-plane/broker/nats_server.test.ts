import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { everyUpSubject, upSubject } from '../../proto/subjects.ts';
import { connectAgentClient, createAgentKey } from '../../test/harness/agent_client.ts';
import { freePort } from '../../test/harness/free_port.ts';
import { temporaryFolder } from '../../test/harness/temporary_folder.ts';
import { until } from '../../test/harness/until.ts';
import { FileError } from '../private_file.ts';
import { type Broker, type BrokerOptions, startBroker } from './broker.ts';
import { BrokerError } from './broker_error.ts';
import type { ConnectionEvent } from './port.ts';

const log = pino({ level: process.env.BROKER_LOG ?? 'silent' });
const alice = { bayUid: 'bay-1', nodeUid: 'node-1' };

async function dataFolder(t: ExecutionContext): Promise<string> {
  const folder = await temporaryFolder('nats');
  t.teardown(() => folder[Symbol.asyncDispose]());
  return folder.path;
}

async function start(t: ExecutionContext, options: Partial<BrokerOptions> & { dataDir: string }): Promise<Broker> {
  const broker = await startBroker({ log, ...options });
  t.teardown(() => broker.close());
  return broker;
}

/** A dead process that nobody has reaped has no command line. */
const isAlive = (pid: number) =>
  readFile(`/proc/${pid}/cmdline`, 'utf8')
    .then((line) => line !== '')
    .catch(() => false);

interface Other {
  readonly process: ChildProcess;
  readonly natsPid: number;
}

/** A control plane in a process of its own, that can be killed. */
async function otherControlPlane(t: ExecutionContext, dataDir: string): Promise<Other> {
  const program = `
    import { startBroker } from ${JSON.stringify(new URL('./broker.ts', import.meta.url).href)};
    import { pino } from 'pino';
    const broker = await startBroker({ dataDir: ${JSON.stringify(dataDir)}, log: pino({ level: 'silent' }) });
    console.log(broker.server.pid);
    setInterval(() => undefined, 1000);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
    cwd: import.meta.dirname,
  });
  t.teardown(() => void child.kill('SIGKILL'));
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
  return { process: child, natsPid: Number(line) };
}

async function kill(child: ChildProcess): Promise<void> {
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
}

test('a control plane killed with -9: the next one takes over its nats-server, and agents notice nothing', async (t) => {
  const dataDir = await dataFolder(t);
  const key = createAgentKey();
  const first = await start(t, { dataDir });
  const { userJwt } = await first.access.issue({ ...alice, publicKey: key.publicKey, name: 'a' });
  await first.close();

  const other = await otherControlPlane(t, dataDir);
  const url = first.access.urls[0] ?? '';
  const client = await connectAgentClient({ url, userJwt, seed: key.seed, address: alice });
  t.teardown(() => client.close());
  await kill(other.process);
  t.true(await isAlive(other.natsPid));

  const broker = await start(t, { dataDir });
  t.true(broker.server?.adopted);
  t.is(broker.server?.pid, other.natsPid);
  t.deepEqual(broker.access.urls, [url]);
  const events: ConnectionEvent[] = [];
  broker.access.onConnection((event) => void events.push(event));
  const heard: string[] = [];
  broker.bus.subscribe(everyUpSubject('report'), (message) => void heard.push(message.subject));
  await until('a message of the agent that was connected all the time', () => {
    client.publish(upSubject(alice, 'report'));
    return heard.length > 0;
  });
  await broker.access.revoke([key.publicKey]);
  await client.closed();
  await until('its end', () => events.some((event) => !event.connected && event.publicKey === key.publicKey));

  process.kill(other.natsPid, 'SIGKILL');
  await until('a server of its own', () => broker.server?.pid !== undefined && broker.server.pid !== other.natsPid);
  t.false(broker.server?.adopted);
  await until('the bus', () => broker.bus.connected);
  await broker.close();
  await t.throwsAsync(connectAgentClient({ url, userJwt, seed: key.seed, address: alice }));
});

test('who is connected is told when a nats-server is taken over', async (t) => {
  const dataDir = await dataFolder(t);
  const key = createAgentKey();
  const first = await start(t, { dataDir });
  const { userJwt } = await first.access.issue({ ...alice, publicKey: key.publicKey, name: 'a' });
  const url = first.access.urls[0] ?? '';
  await first.close();
  const other = await otherControlPlane(t, dataDir);
  const client = await connectAgentClient({ url, userJwt, seed: key.seed, address: alice });
  t.teardown(() => client.close());
  await kill(other.process);
  const broker = await startBroker({ dataDir, log });
  t.teardown(() => broker.close());
  const events: ConnectionEvent[] = [];
  broker.access.onConnection((event) => void events.push(event));
  await until('the agent', () => events.length > 0);
  t.like(events[0], { publicKey: key.publicKey, connected: true });
  await client.close();
  await until('its end', () => events.some((event) => !event.connected));
  t.is(events.at(-1)?.connectionId, events[0]?.connectionId);
});

test('a nats-server that is taken over has been told who is revoked before the start is done', async (t) => {
  const dataDir = await dataFolder(t);
  const key = createAgentKey();
  const first = await start(t, { dataDir });
  const { userJwt } = await first.access.issue({ ...alice, publicKey: key.publicKey, name: 'a' });
  const options = { url: first.access.urls[0] ?? '', userJwt, seed: key.seed, address: alice };
  await first.close();
  const other = await otherControlPlane(t, dataDir);
  const client = await connectAgentClient(options);
  t.teardown(() => client.close());
  await kill(other.process);
  const broker = await start(t, { dataDir, revokedKeys: async () => [key.publicKey] });
  t.true(broker.server?.adopted);
  await t.throwsAsync(connectAgentClient(options), { message: /authoriz/i });
  await client.closed();
});

test('a nats-server that was left behind and does not fit is replaced', async (t) => {
  const dataDir = await dataFolder(t);
  const other = await otherControlPlane(t, dataDir);
  await kill(other.process);
  const broker = await start(t, { dataDir, natsServer: { maxPayloadBytes: 512 * 1024 } });
  t.false(broker.server?.adopted);
  t.false(await isAlive(other.natsPid));
  t.is(broker.bus.maxPayloadBytes, 512 * 1024);
});

test('a nats-server that was left behind and hangs is replaced', async (t) => {
  const dataDir = await dataFolder(t);
  const other = await otherControlPlane(t, dataDir);
  await kill(other.process);
  process.kill(other.natsPid, 'SIGSTOP');
  const broker = await start(t, { dataDir, natsServer: { stopTimeoutMs: 200 } });
  t.false(broker.server?.adopted);
  t.false(await isAlive(other.natsPid));
});

test('what can be made anew in the data folder is healed when it is broken', async (t) => {
  const dataDir = await dataFolder(t);
  const folder = join(dataDir, 'broker');
  const first = await start(t, { dataDir });
  const [url = ''] = first.access.urls;
  const key = createAgentKey();
  const { userJwt } = await first.access.issue({ ...alice, publicKey: key.publicKey, name: 'a' });
  await first.close();
  t.deepEqual((await readdir(folder)).sort(), ['accounts', 'keys', 'nats-server.conf', 'nats-server.log', 'port']);
  for (const name of await readdir(join(folder, 'accounts')))
    await writeFile(join(folder, 'accounts', name), 'garbage');
  await writeFile(join(folder, 'accounts', 'x.jwt'), 'garbage');
  for (const name of ['nats-server.log', 'port']) await writeFile(join(folder, name), '\0garbage\n'.repeat(100));

  for (const name of ['port', 'keys']) await writeFile(join(folder, `${name}.0123456789ab.tmp`), 'left over');

  const second = await start(t, { dataDir });
  t.false((await readdir(folder)).some((name) => name.endsWith('.tmp')));
  t.deepEqual(second.access.urls, [url], 'the port is known from the configuration');
  await second.close();
  await writeFile(join(folder, 'nats-server.conf'), '{ garbage');
  const third = await start(t, { dataDir });
  t.deepEqual(third.access.urls, [url], 'the port is known from its own file');
  await (await connectAgentClient({ url, userJwt, seed: key.seed, address: alice })).close();
  await third.close();
  await rm(join(folder, 'nats-server.conf'));
  await rm(join(folder, 'nats-server.log'));
  await rm(join(folder, 'accounts'), { recursive: true });
  const fourth = await start(t, { dataDir });
  t.deepEqual(fourth.access.urls, [url]);
});

test('nothing in the data folder can be read by others', async (t) => {
  const dataDir = await dataFolder(t);
  await start(t, { dataDir });
  const folder = join(dataDir, 'broker');
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const mode = (await stat(path)).mode & 0o777;
    const inAccounts = entry.parentPath.endsWith('accounts');
    if (entry.isDirectory()) t.is(mode, 0o700, path);
    else if (!inAccounts) t.is(mode, 0o600, path);
  }
  t.is((await stat(folder)).mode & 0o777, 0o700);
});

test('a program that is not there, is none, or fails is said in one sentence', async (t) => {
  const dataDir = await dataFolder(t);
  const failing = join(dataDir, 'nats-server-failing');
  await writeFile(failing, '#!/bin/sh\necho "on purpose" >&2\nexit 3\n');
  await chmod(failing, 0o700);
  const broken = join(dataDir, 'nats-server-broken');
  await writeFile(broken, '\x7fELFgarbage');
  await chmod(broken, 0o700);
  const cases: [string, RegExp][] = [
    ['nats-server-nowhere', /there is no program nats-server-nowhere on PATH: install it/],
    [join(dataDir, 'nothing'), /there is no program .*nothing: install it/],
    [dataDir, /there is no program/],
    [failing, /nats-server did not start \(exit status 3\): on purpose/],
    [broken, /cannot run .*nats-server-broken|nats-server did not start/],
  ];
  for (const [binary, message] of cases) {
    const error = await t.throwsAsync(startBroker({ dataDir, log, natsServer: { binary } }), {
      instanceOf: BrokerError,
      message,
    });
    t.notRegex(error?.message ?? '', /\n/);
  }
});

test('a port that is taken is said, and an address that is not ours', async (t) => {
  const dataDir = await dataFolder(t);
  const squatter = createServer().listen(0, '127.0.0.1');
  await once(squatter, 'listening');
  t.teardown(() => void squatter.close());
  const address = squatter.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  await t.throwsAsync(startBroker({ dataDir, log, natsServer: { port } }), {
    instanceOf: BrokerError,
    message: `port ${port} on 127.0.0.1, where agents look for the broker, is taken by another program: end that program, or set another port`,
  });
  await t.throwsAsync(startBroker({ dataDir, log, natsServer: { host: '192.0.2.1', port: await freePort() } }), {
    instanceOf: BrokerError,
    message: /192\.0\.2\.1, where the broker is to listen, is not an address of this machine/,
  });
});

test('a data folder that cannot be written is said', async (t) => {
  const dataDir = await dataFolder(t);
  await writeFile(join(dataDir, 'file'), '');
  await t.throwsAsync(startBroker({ dataDir: join(dataDir, 'file'), log }), {
    instanceOf: FileError,
    message: /file\/broker/,
  });
  await mkdir(join(dataDir, 'broker', 'nats-server.conf'), { recursive: true });
  await t.throwsAsync(startBroker({ dataDir, log }), {
    instanceOf: FileError,
    message: /nats-server\.conf is not a file/,
  });
});

test('closing ends nats-server, and is safe to repeat', async (t) => {
  const dataDir = await dataFolder(t);
  const broker = await start(t, { dataDir });
  const pid = broker.server?.pid ?? 0;
  await Promise.all([broker.close(), broker.close()]);
  await broker.close();
  t.false(await isAlive(pid));
  t.is(broker.server?.pid, undefined);
});

test('closing ends a nats-server that hangs', async (t) => {
  const dataDir = await dataFolder(t);
  const broker = await start(t, { dataDir, natsServer: { stopTimeoutMs: 200 } });
  const pid = broker.server?.pid ?? 0;
  process.kill(pid, 'SIGSTOP');
  await broker.close();
  t.false(await isAlive(pid));
});

test('what nats-server logs comes through at its level, without secrets', async (t) => {
  const dataDir = await dataFolder(t);
  const lines: { level: number; natsServer?: string }[] = [];
  const stream = { write: (line: string) => void lines.push(JSON.parse(line)) };
  const broker = await start(t, { dataDir, log: pino({ level: 'trace' }, stream) });
  const key = createAgentKey();
  const stranger = await start(t, { dataDir: await dataFolder(t) });
  const { userJwt } = await stranger.access.issue({ ...alice, publicKey: key.publicKey, name: 'a' });
  const [url = ''] = broker.access.urls;
  await t.throwsAsync(connectAgentClient({ url, userJwt, seed: key.seed, address: alice }));
  const path = join(dataDir, 'broker', 'nats-server.log');
  await writeFile(
    path,
    `[1] 2026/01/01 00:00:00.000000 [WRN] a ${new TextDecoder().decode(key.seed)} b ${userJwt} c\n`,
    { flag: 'a' },
  );
  await until('the lines', () => lines.some((line) => line.natsServer?.startsWith('a (secret)')));
  t.deepEqual(
    lines.filter((line) => line.natsServer?.startsWith('a ')).map((line) => [line.level, line.natsServer]),
    [[40, 'a (secret) b (secret) c']],
  );
  t.true(lines.some((line) => line.level === 20 && line.natsServer === 'Server is ready'));
  t.true(lines.some((line) => line.level === 50 && /authentication error/.test(line.natsServer ?? '')));
  const config = await readFile(join(dataDir, 'broker', 'nats-server.conf'), 'utf8');
  t.notRegex(config, /\bS[OAU][A-Z2-7]{56}\b/);
});
