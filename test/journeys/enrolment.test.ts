import { glob } from 'node:fs/promises';
import test from 'ava';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { startAgent } from '../harness/agent.ts';
import { ownProgram, Program, run } from '../harness/program.ts';
import { type Site, startSite } from '../harness/site.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';

let site: Site;
test.before(async () => {
  // Credentials that run out while one watches.
  site = await startSite({ args: ['--heartbeat', '1s', '--credential-ttl', '6s'] });
});
test.after.always(async () => site?.[Symbol.asyncDispose]());

/** Tries to enrol a machine, and returns how that ended. */
async function join(token: string, ...more: string[]) {
  await using folder = await temporaryFolder('joining');
  const args = ['join', '--server', site.controlPlane.url, '--token', token, '--name', 'node-x', '--data', folder.path];
  return run(ownProgram('agent/main.ts', ...args, '--docker', site.dockerd.socketPath, '--enroll-only', ...more));
}

/** The library of the Debian package faketime: in a folder named for the machine. */
async function libfaketime(): Promise<string> {
  for await (const file of glob('/usr/lib/*/faketime/libfaketime.so.1')) return file;
  throw new Error('libfaketime is missing: it comes with the Debian package faketime');
}

const node = async (name = 'node-1') =>
  (await site.controlPlane.client(NodeService).getNode({ bay: 'local', name })).node;

test.serial('what is wrong with a token is said on the node, in so many words', async (t) => {
  const tokens = site.controlPlane.client(JoinTokenService);
  await site.controlPlane.createBay('other');
  const used = await site.controlPlane.joinToken('local', 1);
  t.is((await join(used)).code, 0);
  const revoked = await tokens.createJoinToken({ bay: 'local' });
  await tokens.revokeJoinToken({ id: revoked.joinToken?.id });
  const short = await tokens.createJoinToken({ bay: 'local', ttl: { seconds: 1n } });
  await until('it has expired', () => Number(short.joinToken?.expireTime?.seconds) * 1000 + 1000 < Date.now());
  const other = await site.controlPlane.joinToken('other');
  const cases: [string, string[], RegExp][] = [
    [used, [], /used/i],
    [revoked.token, [], /revoked/i],
    [short.token, [], /expired/i],
    [other, ['--bay', 'local'], /bay/i],
    ['0000000000000000.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', [], /token/i],
    ['rubbish', [], /token/i],
  ];
  for (const [token, more, message] of cases) {
    const { code, stderr, stdout } = await join(token, ...more);
    t.is(code, token === 'rubbish' ? 2 : 3, `${message}: ${stderr}${stdout}`);
    t.regex(stderr, message);
    t.is(stderr.trim().split('\n').length, 1, stderr);
    t.false(stderr.includes(token.split('.')[1] ?? token), 'no secret');
  }
});

test.serial('a clock that is far off is said, with how far and which way', async (t) => {
  const token = await site.controlPlane.joinToken('local', 10);
  for (const [offset, words] of [
    ['+3h', /clock is (3 h|2 h 59 min).* ahead of/],
    ['-2d', /clock is 2 d.* behind/],
  ] as const) {
    await using folder = await temporaryFolder('joining');
    const args = ['join', '--server', site.controlPlane.url, '--token', token, '--name', 'late', '--data', folder.path];
    const node = ownProgram('agent/main.ts', ...args, '--docker', site.dockerd.socketPath, '--enroll-only');
    const { code, stderr } = await run(['faketime', '-f', offset, ...node]);
    t.not(code, 0);
    t.regex(stderr, words);
    t.regex(stderr, /NTP/);
  }
});

test.serial('an agent whose clock is set wrong later is believed by what it says, and not by its time', async (t) => {
  await using off = await startAgent({
    controlPlane: site.controlPlane,
    bay: 'local',
    name: 'off',
    dockerSocket: site.dockerd.socketPath,
  });
  await off.stop();
  // Its credentials would have run out by that clock.
  // Not by the program `faketime`, which would stand between us and the agent, and not pass on a signal.
  const wrong = new Program({
    command: ownProgram('agent/main.ts', 'run', '--data', off.dataDir, '--docker', site.dockerd.socketPath),
    env: { LD_PRELOAD: await libfaketime(), FAKETIME: '-1h' },
  });
  await until('the node is silent', async () => (await node('off'))?.status?.phase === NodePhase.UNKNOWN);
  await wrong.start();
  try {
    const status = await until('the node is ready', async () => {
      const { status } = (await node('off')) ?? {};
      return status?.phase === NodePhase.READY ? status : undefined;
    });
    // The agent's is an hour behind.
    t.true(Number(status.trustUntil?.seconds) * 1000 > Date.now() - 60_000, 'trusted by our own clock');
  } finally {
    await wrong.stop();
  }
  await until('the node is silent again', async () => (await node('off'))?.status?.phase === NodePhase.UNKNOWN);
});

test.serial(
  'credentials are renewed while it runs, and by proof of the key after it was away for too long',
  async (t) => {
    const since = Date.now();
    await until(
      'they have been renewed several times',
      async () => Date.now() - since > 15_000 && (await node())?.status?.phase === NodePhase.READY,
      {
        timeoutMs: 40_000,
      },
    );
    await site.agent.stop();
    await until('the node is silent', async () => (await node())?.status?.phase === NodePhase.UNKNOWN);
    const stopped = Date.now();
    await until('its credentials have run out', () => Date.now() - stopped > 7_000);
    await site.agent.start();
    await site.agent.ready();
    t.pass();
  },
);

test.serial(
  'what is asked of a node that is away reaches it when it is back, and it mends on its own meanwhile',
  async (t) => {
    const api = site.controlPlane.client(ContainerService);
    const container = (name: string) => ({
      container: {
        metadata: { bay: 'local', name },
        spec: { image: site.image, node: 'node-1', args: ['sleep', '10000'], stopTimeout: { seconds: 0n } },
      },
    });
    for (const name of ['stays', 'stops', 'goes']) await api.createContainer(container(name));
    for (const name of ['stays', 'stops', 'goes']) await site.inPhase(name, ContainerPhase.RUNNING);
    // No control plane and no broker: the agent goes on with what it has, also when it is killed itself.
    await site.controlPlane.stop();
    await site.agent.kill9();
    await site.dockerd.docker.getContainer('stays').remove({ force: true });
    await site.agent.start();
    await until(
      'it was made again',
      async () => (await site.dockerd.docker.getContainer('stays').inspect()).State.Running,
    );
    await site.agent.stop();
    await site.controlPlane.start();
    await api.stopContainer({ bay: 'local', name: 'stops' });
    await api.deleteContainer({ bay: 'local', name: 'goes' });
    t.deepEqual(await site.onEngine(), ['goes', 'stays', 'stops']);
    await site.agent.start();
    await site.inPhase('stops', ContainerPhase.STOPPED);
    await site.gone('goes');
    t.deepEqual(await site.onEngine(), ['stays', 'stops']);
    for (const name of ['stays', 'stops']) {
      await api.deleteContainer({ bay: 'local', name });
      await site.gone(name);
    }
  },
);

test.serial('a revoked agent is cut off at once, and what runs goes on', async (t) => {
  await using revoked = await startAgent({
    controlPlane: site.controlPlane,
    bay: 'local',
    name: 'doomed',
    dockerSocket: site.dockerd.socketPath,
  });
  await site.controlPlane.client(ContainerService).createContainer({
    container: {
      metadata: { bay: 'local', name: 'runs-on' },
      spec: { image: site.image, node: 'doomed', args: ['sleep', '10000'] },
    },
  });
  await site.inPhase('runs-on', ContainerPhase.RUNNING);
  await site.controlPlane.client(NodeService).revokeNode({ bay: 'local', name: 'doomed' });
  await until('its connection is gone', async () => (await node('doomed'))?.status?.connected === false, {
    timeoutMs: 3_000,
  });
  t.is((await node('doomed'))?.status?.phase, NodePhase.REVOKED);
  await site.inPhase('runs-on', ContainerPhase.UNKNOWN);
  // Neither with what it has, nor by proving its key, nor after a restart of everything.
  await revoked.stop();
  await site.controlPlane.kill9();
  await site.controlPlane.start();
  await revoked.start();
  await until('it says so', () => /revoked/i.test(revoked.program.output));
  t.is((await node('doomed'))?.status?.phase, NodePhase.REVOKED);
  t.true((await site.dockerd.docker.getContainer('runs-on').inspect()).State.Running);
});
