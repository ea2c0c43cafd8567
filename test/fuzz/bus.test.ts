import test from 'ava';
import type { Msg } from 'nats';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { bayctl } from '../harness/bayctl.ts';
import { connectBusInsider } from '../harness/bus_insider.ts';
import { startSite } from '../harness/site.ts';
import { fuzz } from './fuzz.ts';
import { mutated } from './mutate.ts';

/* What goes over the bus, changed on its way, in both directions: nobody ends, nothing that runs is touched, and what comes after it works. */

/** No more than so many samples of a subject: heartbeats are many. */
const samplesOfSubject = 6;

test('messages of every kind, to the agent and to the control plane', async (t) => {
  await using site = await startSite({ args: ['--heartbeat', '1s'] });
  const { node } = await site.controlPlane.client(NodeService).getNode({ bay: 'local', name: 'node-1' });
  const nodeUid = node?.metadata?.uid ?? '';
  const insider = await connectBusInsider(site.controlPlane, nodeUid);
  t.teardown(() => insider.close());
  const containers = site.controlPlane.client(ContainerService);
  const create = async (name: string): Promise<void> => {
    await containers.createContainer({
      container: {
        metadata: { bay: 'local', name },
        spec: { image: site.image, args: ['sh', '-c', 'echo hello; sleep 10000'], stopTimeout: { seconds: 0n } },
      },
    });
    await site.inPhase(name, ContainerPhase.RUNNING);
  };
  const remove = async (name: string): Promise<void> => {
    await containers.deleteContainer({ bay: 'local', name });
    await site.gone(name);
  };

  // A day in the life of a bay, overheard.
  const heard = new Map<string, Msg[]>();
  const tap = insider.subscribe('bk.v1.>', {
    callback: (_error, message) => {
      // Streams have a subject each.
      const kind = message.subject.replace(/\.stream\.[^.]+$/, '.stream.*');
      const messages = heard.get(kind) ?? [];
      if (messages.length < samplesOfSubject) heard.set(kind, [...messages, message]);
    },
  });
  await site.agent.stop();
  await site.agent.start();
  await create('kept');
  await create('removed');
  await remove('removed');
  const command = ['exec', '-i', 'container/kept', '-b', 'local', '--', 'cat'];
  const { code } = await bayctl(site.controlPlane, command, { input: 'said\n' });
  t.is(code, 0);
  tap.unsubscribe();
  const kinds = [...heard.keys()].map((subject) => subject.replace(/^bk\.v1\.[^.]+\.[^.]+\./, '')).sort();
  t.deepEqual(kinds, [
    'down.assign',
    'down.open',
    'down.stream.*',
    'up.heartbeat',
    'up.hello',
    'up.report',
    'up.stream.*',
    'up.sync',
  ]);

  const { Id } = await site.dockerd.docker.getContainer('kept').inspect();
  const all = [...heard.values()].flat();
  for (const [kind, messages] of heard) {
    const samples = messages.map(({ data }) => data);
    const subjects = messages.map(({ subject }) => subject);
    let sent = 0;
    await fuzz(t, {
      target: `bus ${kind.replace(/^bk\.v1\.[^.]+\.[^.]+\./, '')}`,
      input: mutated([...samples, ...samples, ...all.map(({ data }) => data)]),
      runs: 100,
      check: async (input) => {
        insider.publish(subjects[sent++ % subjects.length] ?? kind, input);
        await insider.flush();
        if (!site.controlPlane.program.running || !site.agent.program.running) throw new Error('somebody has ended');
      },
    });
  }
  await create('after');
  await site.inPhase('kept', ContainerPhase.RUNNING);
  t.is((await site.dockerd.docker.getContainer('kept').inspect()).Id, Id);
  t.deepEqual(await site.onEngine(), ['after', 'kept']);
  await remove('after');
  t.is((await site.controlPlane.client(BayService).getBay({ name: 'local' })).bay?.status?.reason, '');
  const said = `${site.controlPlane.program.output}${site.agent.program.output}`.split('\n');
  t.deepEqual(
    said.filter((line) => /"level":(?:50|60)/.test(line)),
    [],
    'nothing that we did wrong came of it',
  );
});
