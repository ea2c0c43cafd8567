import { cp } from 'node:fs/promises';
import path from 'node:path';
import test from 'ava';
import type { Msg, NatsConnection } from 'nats';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { downSubject, type NodeAddress, upSubject, upVerbs } from '../../proto/subjects.ts';
import { startAgent } from '../harness/agent.ts';
import { connectBusInsider } from '../harness/bus_insider.ts';
import { startDockerd } from '../harness/dockerd.ts';
import { type Site, startSite } from '../harness/site.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';

/* What may happen to messages: twice, late, out of order, rubbish, from somebody else; and a broker that is away. */

let site: Site;
let insider: NatsConnection;
let address: NodeAddress;
test.before(async () => {
  site = await startSite({ args: ['--heartbeat', '1s'] });
  insider = await connectBusInsider(site.controlPlane);
  const { node } = await site.controlPlane.client(NodeService).getNode({ bay: 'local', name: 'node-1' });
  const { bay } = await site.controlPlane
    .client((await import('../../proto/gen/baykeeper/v1/bay_service_pb.js')).BayService)
    .getBay({ name: 'local' });
  address = { bayUid: bay?.metadata?.uid ?? '', nodeUid: node?.metadata?.uid ?? '' };
});
test.after.always(async () => {
  await insider?.close();
  await site?.[Symbol.asyncDispose]();
});

const api = () => site.controlPlane.client(ContainerService);
const create = (name: string) =>
  api().createContainer({
    container: {
      metadata: { bay: 'local', name },
      spec: { image: site.image, args: ['sleep', '10000'], stopTimeout: { seconds: 0n } },
    },
  });
const remove = (name: string) => api().deleteContainer({ bay: 'local', name });

test.serial('assignments that come twice, late or out of order change nothing', async (t) => {
  const seen: Msg[] = [];
  const tap = insider.subscribe(downSubject(address, 'assign'), { callback: (_error, message) => seen.push(message) });
  await create('kept');
  await create('deleted');
  await site.inPhase('kept', ContainerPhase.RUNNING);
  await site.inPhase('deleted', ContainerPhase.RUNNING);
  await remove('deleted');
  await site.gone('deleted');
  tap.unsubscribe();
  t.true(seen.length >= 3);
  const before = (await site.dockerd.docker.getContainer('kept').inspect()).Id;
  for (const message of [...seen, ...[...seen].reverse(), ...seen]) insider.publish(message.subject, message.data);
  await insider.flush();
  // What comes after them shows that they were taken, and what they did.
  await create('after');
  await site.inPhase('after', ContainerPhase.RUNNING);
  t.deepEqual(await site.onEngine(), ['after', 'kept']);
  t.is((await site.dockerd.docker.getContainer('kept').inspect()).Id, before);
  await remove('after');
  await site.gone('after');
});

test.serial('reports that are replayed do not bring back an older status', async (t) => {
  const seen: Msg[] = [];
  const tap = insider.subscribe(upSubject(address, 'report'), { callback: (_error, message) => seen.push(message) });
  await create('reported');
  await site.inPhase('reported', ContainerPhase.RUNNING);
  await api().pauseContainer({ bay: 'local', name: 'reported' });
  await site.inPhase('reported', ContainerPhase.PAUSED);
  tap.unsubscribe();
  t.true(seen.length >= 2);
  for (const message of seen) insider.publish(message.subject, message.data);
  // What comes after them shows that they were taken.
  await create('later');
  await site.inPhase('later', ContainerPhase.RUNNING);
  await remove('later');
  await site.gone('later');
  const { container } = await api().getContainer({ bay: 'local', name: 'reported' });
  t.is(container?.status?.phase, ContainerPhase.PAUSED);
  await remove('reported');
  await site.gone('reported');
});

test.serial('rubbish on every subject ends nothing', async (t) => {
  const rubbish = [
    new Uint8Array(),
    new Uint8Array([255, 255, 255, 255]),
    new Uint8Array(100_000).fill(7),
    new TextEncoder().encode('{}'),
  ];
  for (const data of rubbish) {
    for (const verb of upVerbs) insider.publish(upSubject(address, verb), data);
    for (const verb of ['assign', 'open'] as const) insider.publish(downSubject(address, verb), data);
    for (const subject of [
      `bk.v1.${address.bayUid}.${address.nodeUid}.down.stream.x`,
      `bk.v1.${address.bayUid}.${address.nodeUid}.up.stream.x`,
      'bk.v1.a.b.up.hello',
      'bk.v1.a.b.up.stream.y',
    ]) {
      insider.publish(subject, data);
    }
  }
  await insider.flush();
  await create('works');
  await site.inPhase('works', ContainerPhase.RUNNING);
  t.true(site.agent.program.running);
  t.true(site.controlPlane.program.running);
  await remove('works');
  await site.gone('works');
});

test.serial('a second agent with a copied identity does nothing, and is seen', async (t) => {
  await using copy = await temporaryFolder('copied-agent');
  await using engine = await startDockerd();
  await engine.importBusybox(site.image);
  await cp(site.agent.dataDir, path.join(copy.path, 'data'), { recursive: true });
  await create('mine');
  await site.inPhase('mine', ContainerPhase.RUNNING);
  await using second = await startAgent({
    controlPlane: site.controlPlane,
    bay: 'local',
    name: 'node-1',
    dockerSocket: engine.socketPath,
    dataDir: path.join(copy.path, 'data'),
    waitReady: false,
  });
  await until('the copy was turned away', async () => {
    const { node } = await site.controlPlane.client(NodeService).getNode({ bay: 'local', name: 'node-1' });
    return node?.status?.conditions.some(({ type }) => type === 'DuplicateIdentity');
  });
  await create('while-copied');
  await site.inPhase('while-copied', ContainerPhase.RUNNING);
  t.false((await engine.docker.listContainers({ all: true })).some(({ Names }) => Names.includes('/while-copied')));
  t.true(second.program.running);
  for (const name of ['mine', 'while-copied']) {
    await remove(name);
    await site.gone(name);
  }
});

test.serial('a broker that is away for a while costs time, and nothing else', async (t) => {
  await create('there');
  await site.inPhase('there', ContainerPhase.RUNNING);
  const pid = await site.controlPlane.brokerPid();
  t.truthy(pid);
  process.kill(Number(pid), 'SIGSTOP');
  try {
    await site.inPhase('there', ContainerPhase.UNKNOWN);
    await create('meanwhile');
    await remove('there');
    // Nobody took silence for a deletion.
    t.true((await site.onEngine()).includes('there'));
  } finally {
    process.kill(Number(pid), 'SIGCONT');
  }
  await site.inPhase('meanwhile', ContainerPhase.RUNNING, 60_000);
  await site.gone('there', 60_000);
  t.deepEqual(
    (await site.onEngine()).filter((name) => name !== 'kept'),
    ['meanwhile'],
  );
  await remove('meanwhile');
  await site.gone('meanwhile');
});
