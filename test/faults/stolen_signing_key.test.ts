import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { create, fromBinary } from '@bufbuild/protobuf';
import test from 'ava';
import { type Assign, AssignSchema, HeartbeatSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { AuditService } from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { downSubject, type NodeAddress, upSubject } from '../../proto/subjects.ts';
import { connectBusInsider } from '../harness/bus_insider.ts';
import { ChainModel, chunksOf } from '../harness/chain_model.ts';
import { ownProgram, run } from '../harness/program.ts';
import { TestSigner } from '../harness/signing.ts';
import { startSite } from '../harness/site.ts';
import { until } from '../harness/until.ts';

/* Somebody has copied the key that messages are signed with, and may do on the broker whatever the control plane may. */

const listed = async (file: string): Promise<Record<string, string>[]> => JSON.parse(await readFile(file, 'utf8'));

test('a stolen key is replaced while all runs: agents hear of it by the API, and believe the thief no more', async (t) => {
  await using site = await startSite({ args: ['--heartbeat', '1s'] });
  const { controlPlane, agent } = site;
  const { bay } = await controlPlane.client(BayService).getBay({ name: 'local' });
  const { node } = await controlPlane.client(NodeService).getNode({ bay: 'local', name: 'node-1' });
  const victim: NodeAddress = { bayUid: bay?.metadata?.uid ?? '', nodeUid: node?.metadata?.uid ?? '' };
  const [stolen] = await listed(path.join(controlPlane.dataDir, 'signing', 'keys.json'));
  const thief = new TestSigner(Buffer.from(stolen?.seed ?? '', 'base64'));
  t.is(thief.id, stolen?.id ?? '');
  const insider = await connectBusInsider(controlPlane, victim.nodeUid);
  t.teardown(() => insider.close());
  const say = async (assignsOf: (epoch: bigint) => readonly Assign[]): Promise<void> => {
    const heard = Promise.withResolvers<Uint8Array>();
    insider.subscribe(upSubject(victim, 'heartbeat'), { max: 1, callback: (_, { data }) => heard.resolve(data) });
    const { epoch, session } = fromBinary(HeartbeatSchema, await heard.promise);
    for (const assign of assignsOf(epoch)) {
      insider.publish(downSubject(victim, 'assign'), thief.assign(victim, assign, session));
    }
    await insider.flush();
  };
  /** Tells the agent that there is a newer session. */
  const lie = () => say((epoch) => [create(AssignSchema, { epoch: epoch + 1_000n })]);
  const believed = () => agent.program.output.split('knows another session').length - 1;
  await lie();
  await until('the agent believes the thief', () => believed() > 0);
  // What he has run is newer than all that the control plane will say for a long time.
  const theirs = Object.assign(new ChainModel(), { revision: 1_000_000n });
  const { spec } = theirs.put(randomUUID(), site.image);
  if (spec.case === 'container') spec.value.args = ['sleep', '10000'];
  let isLying = true;
  const lying = (async () => {
    while (isLying) await say((epoch) => chunksOf(epoch, theirs.snapshot()));
  })();
  await until('it runs what the thief says', async () => (await site.onEngine()).length > 0);

  const replaced = await run(
    ownProgram('control-plane/main.ts', 'signing-key', 'replace', '--data', controlPlane.dataDir),
  );
  t.is(replaced.code, 0, replaced.stderr);
  const [key, ...others] = await listed(path.join(controlPlane.dataDir, 'signing', 'keys.json'));
  t.deepEqual(others, []);
  t.not(key?.id, stolen?.id);
  t.true(replaced.stdout.startsWith(`${key?.id}  signs from `), replaced.stdout);
  t.false(replaced.stdout.includes(key?.seed ?? ''));
  // Nothing is asked of it meanwhile.
  const trusted = path.join(agent.dataDir, 'trusted_keys.json');
  await until('the agent believes the new key, and no other', async () => {
    const good = (await listed(trusted)).filter(({ standing }) => standing !== 'former');
    return good.map(({ id }) => id).join() === key?.id;
  });
  isLying = false;
  await lying;
  const refused = async (): Promise<number> => {
    const metrics = await (await fetch(`${controlPlane.url}/metrics`)).text();
    return Number(/^baykeeper_agent_refused_messages_total (\d+)$/m.exec(metrics)?.[1]);
  };
  const [before, taken] = [await refused(), believed()];
  await lie();
  await until('the thief is refused', async () => (await refused()) > before);
  t.is(believed(), taken);

  await controlPlane.client(ContainerService).createContainer({
    container: { metadata: { bay: 'local', name: 'web' }, spec: { image: site.image, args: ['sleep', '10000'] } },
  });
  await site.inPhase('web', ContainerPhase.RUNNING);
  await until('nothing else runs', async () => (await site.onEngine()).join() === 'web');
  const { records } = await controlPlane.client(AuditService).listAuditRecords({ filter: { kind: 'system' } });
  const [record] = records.filter(({ code }) => code === 'signing_key_replaced');
  t.regex(record?.message ?? '', new RegExp(`^${stolen?.id} by ${key?.id}`));
});
