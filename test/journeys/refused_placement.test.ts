import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { startAgent } from '../harness/agent.ts';
import { bayctl } from '../harness/bayctl.ts';
import { startSite } from '../harness/site.ts';
import { until } from '../harness/until.ts';

/* Two nodes, of which the owner of one forbids much. */

test('a container that one node refuses is made on the other; one that is to be on the first is refused, and why says so', async (t) => {
  await using site = await startSite();
  const { controlPlane, agent, dockerd } = site;
  await writeFile(join(agent.dataDir, 'agent.yaml'), 'default: allow\nimages: [registry.example.com]\n', {
    mode: 0o600,
  });
  await until('node-1 has its policy', async () => {
    const { node } = await controlPlane.client(NodeService).getNode({ bay: 'local', name: 'node-1' });
    return node?.status?.conditions.some(({ type, reason }) => type === 'PolicyInForce' && reason === 'PolicyRead');
  });
  const containers = controlPlane.client(ContainerService);
  const make = async (name: string, node = '') => {
    const spec = { image: site.image, command: ['sleep', '1000'], stopTimeout: {}, node };
    await containers.createContainer({ container: { metadata: { bay: 'local', name }, spec } });
  };
  const status = async (name: string) => (await containers.getContainer({ bay: 'local', name })).container?.status;

  await make('free');
  await until('it is refused by the only node', async () => (await status('free'))?.reason === 'ForbiddenByPolicy');
  await using _ = await startAgent({ controlPlane, bay: 'local', name: 'node-2', dockerSocket: dockerd.socketPath });
  await site.inPhase('free', ContainerPhase.RUNNING);
  t.like(await status('free'), { node: 'node-2', refusedBy: ['node-1'], made: true });
  const why = await bayctl(controlPlane, ['why', '-b', 'local', 'container/free']);
  t.regex(why.stdout, /published .*It was given to node-2, as the policy of node-1 forbids it\./);

  await make('tied', 'node-1');
  await until('it is refused', async () => (await status('tied'))?.reason === 'ForbiddenByPolicy');
  // This one goes where it may be, after that one was looked at.
  await make('second');
  await site.inPhase('second', ContainerPhase.RUNNING);
  t.like(await status('tied'), { node: 'node-1', reason: 'ForbiddenByPolicy', refusedBy: [] });
  const tied = await bayctl(controlPlane, ['why', '-b', 'local', 'container/tied']);
  t.regex(tied.stdout, /was refused by policy\/node-1: ForbiddenByPolicy/);
});
