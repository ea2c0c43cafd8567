import { readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import test from 'ava';
import { certificatesIn, fingerprintOf } from '../../proto/fingerprint.ts';
import { AuditService } from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { type ControlPlane, startControlPlane } from '../harness/control_plane.ts';
import { freePort } from '../harness/free_port.ts';
import { ownProgram, Program, run } from '../harness/program.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';

/** TLS on an address of its own, with certificates and credentials that run out while one watches. */
const short = [
  '--host',
  '127.0.0.2',
  '--tls',
  'on',
  '--tls-leaf-ttl',
  '6s',
  '--heartbeat',
  '1s',
  '--credential-ttl',
  '30s',
];

const nothing = '/nowhere/docker.sock';
const fingerprints = (pem: string) => certificatesIn(pem).map(fingerprintOf);

/** Runs `join` to its end, with what a join command says and more. */
async function join(controlPlane: ControlPlane, dataDir: string, name: string, ...more: string[]) {
  const BAYKEEPER_AGENT_TOKEN = await controlPlane.joinToken('edge');
  const args = ['join', '--server', controlPlane.url, '--bay', 'edge', '--name', name, '--data', dataDir];
  const command = ownProgram('agent/main.ts', ...args, '--docker', nothing, '--enroll-only', ...more);
  return run(command, { env: { BAYKEEPER_AGENT_TOKEN } });
}

const agentOn = (dataDir: string) =>
  new Program({ command: ownProgram('agent/main.ts', 'run', '--data', dataDir, '--docker', nothing) });

async function caOf(controlPlane: ControlPlane): Promise<string> {
  return readFile(path.join(controlPlane.dataDir, 'tls', 'ca.pem'), 'utf8');
}

/** Resolves when the control plane hears of the node; it has no engine, so it is never ready. */
async function heard(controlPlane: ControlPlane, name: string, timeoutMs = 40_000): Promise<void> {
  const nodes = controlPlane.client(NodeService);
  await until(
    `${name} is heard`,
    async () => (await nodes.getNode({ bay: 'edge', name })).node?.status?.phase === NodePhase.NOT_READY,
    { timeoutMs },
  );
}

/** Whom an agent trusts, by fingerprint. */
async function trustOf(dataDir: string): Promise<readonly string[]> {
  const { certificates } = JSON.parse(await readFile(path.join(dataDir, 'trust.json'), 'utf8'));
  return fingerprints(certificates.join(''));
}

test('an agent joins by the fingerprint of the CA, and follows it through a roll-over, also when it was away for part of it', async (t) => {
  await using controlPlane = await startControlPlane({ args: short });
  await using folder = await temporaryFolder('tls-agents');
  t.regex(controlPlane.url, /^https:/);
  await controlPlane.createBay('edge');
  const [oldCa = ''] = fingerprints(await caOf(controlPlane));
  const line = await controlPlane.client(JoinTokenService).createJoinToken({ bay: 'edge' });
  t.true(line.joinCommand.includes(` --server ${controlPlane.url} --ca-fingerprint ${oldCa} `), line.joinCommand);

  const [here = '', away = '', gone = ''] = ['here', 'away', 'gone'].map((name) => path.join(folder.path, name));
  const stranger = await join(controlPlane, here, 'here');
  t.is(stranger.code, 4);
  t.regex(stranger.stderr, /nobody whom this machine trusts vouches for its certificate/);
  const betrayed = await join(controlPlane, here, 'here', '--ca-fingerprint', `sha256:${'0'.repeat(64)}`);
  t.is(betrayed.code, 3);
  t.true(betrayed.stderr.includes(oldCa), betrayed.stderr);
  const pinned = ['--ca-fingerprint', oldCa];
  for (const [dataDir, name] of [
    [here, 'here'],
    [away, 'away'],
    [gone, 'gone'],
  ] as const) {
    const joined = await join(controlPlane, dataDir, name, ...pinned);
    t.is(joined.code, 0, joined.stderr);
  }

  await using agent = agentOn(here);
  await using other = agentOn(away);
  await agent.start();
  await heard(controlPlane, 'here');
  const renewals = () => controlPlane.program.output.split('the server has another certificate').length - 1;
  const before = renewals();
  await until('certificates have been renewed', () => renewals() >= before + 2, { timeoutMs: 30_000 });
  t.is(agent.output.split('connected to the broker').length - 1, 1, 'and the connection has lived on');

  const rotate = ownProgram(
    'control-plane/main.ts',
    'ca',
    'rotate',
    '--data',
    controlPlane.dataDir,
    '--overlap',
    '40s',
  );
  t.is((await run(rotate)).code, 0);
  const overlapEndsMs = Date.now() + 40_000;
  await until('the new CA signs', async () => fingerprints(await caOf(controlPlane)).length === 2);
  const [newCa = ''] = fingerprints(await caOf(controlPlane));
  t.not(newCa, oldCa);
  // This one has not heard of it, and comes in by what it knows.
  t.deepEqual(await trustOf(away), [oldCa]);
  await other.start();
  await heard(controlPlane, 'away');
  for (const dataDir of [here, away]) {
    await until('it knows both', async () => (await trustOf(dataDir)).join() === [newCa, oldCa].join(), {
      timeoutMs: 40_000,
    });
  }

  await until(
    'the overlap is over',
    async () => Date.now() > overlapEndsMs && fingerprints(await caOf(controlPlane)).length === 1,
    { timeoutMs: 60_000 },
  );
  await using late = agentOn(gone);
  await late.start();
  await until(
    'it speaks to nobody',
    () =>
      /will not speak to https.*vouches for its certificate/.test(late.output) &&
      /unable to verify the first certificate.*cannot connect to the broker/.test(late.output),
    { timeoutMs: 40_000 },
  );
  const connections = (program: Program) => program.output.split('connected to the broker').length - 1;
  const soFar = [agent, other].map(connections);
  const pid = await controlPlane.brokerPid();
  if (pid !== undefined) process.kill(pid, 'SIGKILL');
  await until(
    'both are back, by the new CA alone',
    () => [agent, other].every((program, index) => connections(program) > (soFar[index] ?? 0)),
    { timeoutMs: 40_000 },
  );
  await heard(controlPlane, 'here');
  await heard(controlPlane, 'away');

  await late.stop();
  const again = await join(controlPlane, gone, 'gone', '--ca-fingerprint', newCa);
  t.is(again.code, 0, again.stderr);
  await late.start();
  await heard(controlPlane, 'gone');
});

test('API and broker move to other addresses, and the agents with them', async (t) => {
  await using data = await temporaryFolder('tls-moving');
  await using folder = await temporaryFolder('tls-agents');
  const [port, natsPort, newPort, newNatsPort] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
  const both = ['--advertise', `127.0.0.2:${newPort}`, '--advertise', `127.0.0.2:${port}`];
  const bothBrokers = ['--nats-advertise', `127.0.0.2:${newNatsPort}`, '--nats-advertise', `127.0.0.2:${natsPort}`];
  const first = await startControlPlane({ dataDir: data.path, port, natsPort, args: short });
  await using _first = first;
  await first.createBay('edge');
  const dataDir = path.join(folder.path, 'a');
  t.is((await join(first, dataDir, 'a', '--ca-fingerprint', fingerprints(await caOf(first))[0] ?? '')).code, 0);
  await using agent = agentOn(dataDir);
  await agent.start();
  await heard(first, 'a');
  await first.stop();

  // The agent is told of both while the old one is still there.
  const second = await startControlPlane({
    dataDir: data.path,
    port,
    natsPort,
    args: [...short, ...both, ...bothBrokers],
  });
  await using _second = second;
  await until(
    'it knows both',
    async () => (await readFile(path.join(dataDir, 'trust.json'), 'utf8')).includes(`:${newPort}`),
    { timeoutMs: 40_000 },
  );
  await second.stop();

  const third = await startControlPlane({
    dataDir: data.path,
    port: newPort,
    natsPort: newNatsPort,
    args: [...short, '--advertise', `127.0.0.2:${newPort}`],
  });
  await using _third = third;
  await heard(third, 'a');
  // And with nothing but its key, it still knows where to ask.
  await agent.stop();
  await rm(path.join(dataDir, 'credentials.bin'));
  await agent.start();
  await until('it remembers where', async () =>
    (await readFile(path.join(dataDir, 'server'), 'utf8')).includes(`:${newPort}`),
  );
  // What is known of the node may be from before.
  await until('it has credentials again', async () => {
    const credentials = await readFile(path.join(dataDir, 'credentials.bin'));
    return !credentials.includes(`:${natsPort}`);
  });
  await heard(third, 'a');
});

test('a connected agent is told of a new CA long before it has anything to ask', async (t) => {
  await using controlPlane = await startControlPlane({
    args: ['--host', '127.0.0.2', '--tls', 'on', '--heartbeat', '1s'],
  });
  await using folder = await temporaryFolder('tls-agents');
  await controlPlane.createBay('edge');
  const [oldCa = ''] = fingerprints(await caOf(controlPlane));
  t.is((await join(controlPlane, folder.path, 'a', '--ca-fingerprint', oldCa)).code, 0);
  await using agent = agentOn(folder.path);
  await agent.start();
  await heard(controlPlane, 'a');
  const rotate = ownProgram('control-plane/main.ts', 'ca', 'rotate', '--data', controlPlane.dataDir);
  t.is((await run(rotate)).code, 0);
  await until('the new CA signs', async () => fingerprints(await caOf(controlPlane)).length === 2);
  const both = fingerprints(await caOf(controlPlane)).join();
  await until('it knows both', async () => (await trustOf(folder.path)).join() === both, { timeoutMs: 40_000 });
  t.is(agent.output.split('session begun').length - 1, 1, 'in the session that it had');
  const { records } = await controlPlane.client(AuditService).listAuditRecords({ filter: { kind: 'system' } });
  const [record] = records.filter(({ code }) => code === 'ca_replaced');
  t.true(record?.message.startsWith(`${oldCa} by ${both.split(',')[0]}; `), record?.message);
});
