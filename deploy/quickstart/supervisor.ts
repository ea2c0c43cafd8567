import { spawn } from 'node:child_process';
import { existsSync, writeSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Child, sentenceOf } from './child.ts';
import { ControlPlaneApi } from './control_plane_api.ts';
import { trimLogs } from './log_files.ts';

/**
 * Runs the control plane and this machine's agent until it is told to stop. Started by start.mjs, to which it says over IPC how it gets
 * on: `say` with a text, `ready` once, or `failed` with the reason. It goes on when that is gone.
 */

const { values } = parseArgs({
  options: {
    home: { type: 'string' },
    port: { type: 'string' },
    'nats-port': { type: 'string' },
    docker: { type: 'string' },
  },
});
const home = required(values.home, '--home');
const port = required(values.port, '--port');
const natsPort = required(values['nats-port'], '--nats-port');
const docker = required(values.docker, '--docker');

const root = path.resolve(import.meta.dirname, '..', '..');
const bay = 'local';
const serverUrl = `http://127.0.0.1:${port}`;
const data = { controlPlane: path.join(home, 'control-plane'), agent: path.join(home, 'agent') };
const logs = {
  controlPlane: path.join(home, 'logs', 'control-plane.log'),
  agent: path.join(home, 'logs', 'agent.log'),
  supervisor: path.join(home, 'logs', 'supervisor.log'),
  engine: path.join(home, 'logs', 'dockerd.log'),
};
/** Holds the name under which this machine has joined, so that a changed host name does not matter. */
const nodeFile = path.join(home, 'node');
const readyTimeoutMs = 60_000;
const maxLogBytes = 20 * 1024 * 1024;

const program = (file: string, ...args: string[]) => [path.join(root, file), ...args];
const controlPlane = new Child({
  name: 'control plane',
  command: process.execPath,
  args: program('control-plane/main.ts', '--data', data.controlPlane, '--port', port, '--nats-port', natsPort),
  logFile: logs.controlPlane,
  readyLine: 'ready ',
  environment: environment(),
  say,
});
const agent = new Child({
  name: 'agent',
  command: process.execPath,
  args: program('agent/main.ts', 'run', '--server', serverUrl, '--data', data.agent, '--docker', docker),
  logFile: logs.agent,
  // Its exitCodes `config` and `refused`.
  finalCodes: [2, 3],
  environment: agentEnvironment(),
  say,
});

const stopping = new AbortController();
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => void shutDown(0));
// The one who started us went away: no reason to end.
process.on('disconnect', () => undefined);

try {
  await bringUp();
  if (!stopping.signal.aborted) {
    tell({ kind: 'ready' });
    process.channel?.unref();
    void guardLogs();
  }
} catch (error) {
  if (!stopping.signal.aborted) {
    const reason = error instanceof Error ? error.message : String(error);
    log(`could not start: ${reason}`);
    tell({
      kind: 'failed',
      reason: `Baykeeper could not start: ${reason}. Its logs are in ${path.join(home, 'logs')}.`,
    });
    await shutDown(1);
  }
}

async function bringUp(): Promise<void> {
  await trimLogs(Object.values(logs), maxLogBytes);
  await joinedName();
  say('Starting the control plane …');
  await controlPlane.start(readyTimeoutMs);
  const token = await readFile(path.join(data.controlPlane, 'admin.token'), 'utf8');
  const api = new ControlPlaneApi({ url: serverUrl, token: token.trim() });
  await api.ensureBay(bay);
  if (!hasJoined()) await join(api);
  if (stopping.signal.aborted) return;
  say('Starting the agent …');
  await agent.start(readyTimeoutMs);
  void controlPlane.keepRunning(readyTimeoutMs);
  void agent.keepRunning(readyTimeoutMs);
  await nodeReady(api, (await joinedName()) ?? nodeName());
}

/** The agent writes down which node it is when it has got its credentials; joining once more after that changes nothing. */
function hasJoined(): boolean {
  return ['node.json', 'credentials.bin'].some((file) => existsSync(path.join(data.agent, file)));
}

/** The name under which this machine has joined; undefined when that was not written down. */
async function joinedName(): Promise<string | undefined> {
  let stored: string;
  try {
    stored = await readFile(nodeFile, 'utf8');
  } catch (error) {
    const { code = 'unknown' } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return undefined;
    throw new Error(`${nodeFile} cannot be read (${code})`);
  }
  const name = stored.trim();
  if (/^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$/.test(name)) return name;
  throw new Error(
    `${nodeFile} does not hold the name of a node: write there the one that ${path.join(data.agent, 'node.json')} says, or remove it when that is ${nodeName()}`,
  );
}

/** Enrols this machine in the bay: once, the first time. */
async function join(api: ControlPlaneApi): Promise<void> {
  const name = nodeName();
  say(`Joining bay "${bay}" as node "${name}" …`);
  const args = ['--server', serverUrl, '--bay', bay, '--name', name];
  const token = await api.createJoinToken(bay);
  const child = spawn(
    process.execPath,
    program('agent/main.ts', 'join', ...args, '--data', data.agent, '--docker', docker, '--enroll-only'),
    {
      stdio: ['ignore', 'ignore', 'pipe'],
      // Not among the arguments: everybody on the machine sees those.
      env: { ...agentEnvironment(), BAYKEEPER_AGENT_TOKEN: token },
      signal: stopping.signal,
    },
  );
  let output = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    output = `${output}${text}`.slice(-2_000);
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) {
    const sentence = sentenceOf(output.trimEnd().split('\n').at(-1) ?? '');
    throw new Error(`this machine could not join: ${sentence || `the agent ended with ${code}`}`);
  }
  await writeFile(nodeFile, `${name}\n`, { mode: 0o600 });
}

/** Waits until the control plane has heard from this machine that it can run containers. */
async function nodeReady(api: ControlPlaneApi, name: string): Promise<void> {
  const deadlineMs = performance.now() + readyTimeoutMs;
  let last = 'nothing was heard from it';
  while (!stopping.signal.aborted) {
    if (agent.refusal) throw new Error(`the agent cannot run: ${agent.refusal}`);
    const node = (await api.listNodes(bay)).find((candidate) => candidate.name === name);
    if (node?.phase === 'READY') return;
    if (node) last = `it is ${node.phase || 'PENDING'}${node.why ? `: ${node.why}` : ''}`;
    if (performance.now() > deadlineMs) {
      const reason = agent.lastReason();
      throw new Error(
        `node "${name}" is not ready after ${readyTimeoutMs / 1000} s (${last}${reason ? `; the agent says: ${reason}` : ''})`,
      );
    }
    await delay(100);
  }
}

async function guardLogs(): Promise<void> {
  while (!stopping.signal.aborted) {
    await delay(60_000, undefined, { signal: stopping.signal }).catch(() => undefined);
    await trimLogs(Object.values(logs), maxLogBytes).catch((error: Error) =>
      log(`logs could not be trimmed: ${error.message}`),
    );
  }
}

/** The agent first: it says goodbye to a control plane that is still there. */
async function shutDown(code: number): Promise<void> {
  if (stopping.signal.aborted) return;
  stopping.abort();
  await agent.stop(15_000);
  await controlPlane.stop(20_000);
  log('stopped');
  process.exit(code);
}

function nodeName(): string {
  const name = hostname()
    .toLowerCase()
    .replaceAll(/[^a-z0-9.-]+/g, '-')
    .slice(0, 56);
  return name.replace(/^[^a-z0-9]+/, '').replace(/[^a-z0-9]+$/, '') || 'node';
}

/** Without the variables that speak to npm start itself: the programs take theirs from the command line here. */
function environment(): NodeJS.ProcessEnv {
  const { BAYKEEPER_HOME: _home, DOCKER_HOST: _docker, NODE_CHANNEL_FD: _channel, ...rest } = process.env;
  // By this npm stop knows them again, whatever becomes of us: the same name is in processes.mjs.
  return { ...rest, BAYKEEPER_SUPERVISED: home };
}

/** What the control plane is told of a cloud, its password among it, is not the agent's. */
function agentEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment()).filter(([name]) => !name.startsWith('OS_')));
}

function say(text: string): void {
  log(text);
  tell({ kind: 'say', text });
}

function log(text: string): void {
  try {
    writeSync(2, `${new Date().toISOString()} ${text}\n`);
  } catch {
    // A full disk under the log is no reason to leave what runs alone.
  }
}

function tell(message: { kind: 'say'; text: string } | { kind: 'ready' } | { kind: 'failed'; reason: string }): void {
  // A listener that went away at this very moment is no failure of ours.
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined);
}

function required(value: string | undefined, name: string): string {
  if (!value) throw new Error(`${name} is missing: this program is started by npm start`);
  return value;
}
