import type { MessageInitShape } from '@bufbuild/protobuf';
import test from 'ava';
import { ContainerPhase, type ContainerSpecSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { type Site, startSite } from '../harness/site.ts';
import { until } from '../harness/until.ts';

/*
 * kill -9 of each program, in the middle of creates, updates and deletes. Whatever was acknowledged is so in the end, and nothing else: no
 * container that was not asked for, none that was deleted, none twice.
 */

let site: Site;
test.before(async () => {
  site = await startSite({ args: ['--heartbeat', '1s'] });
});
test.after.always(async () => site?.[Symbol.asyncDispose]());

const spec = (colour: string): MessageInitShape<typeof ContainerSpecSchema> => ({
  image: site.image,
  args: ['sleep', '10000'],
  env: [{ name: 'COLOUR', value: colour }],
  stopTimeout: { seconds: 0n },
});

const victims: Record<string, () => Promise<void>> = {
  'control plane': async () => {
    await site.controlPlane.kill9();
    await site.controlPlane.start();
  },
  agent: async () => {
    await site.agent.kill9();
    await site.agent.start();
  },
  'nats-server': async () => {
    const pid = await site.controlPlane.brokerPid();
    if (pid === undefined) throw new Error('no nats-server runs');
    process.kill(pid, 'SIGKILL');
    await until('another nats-server runs', async () => {
      const now = await site.controlPlane.brokerPid();
      return now !== undefined && now !== pid;
    });
  },
  dockerd: async () => {
    await site.dockerd.kill9();
    await site.dockerd.restart();
  },
};

/** Does it until it is acknowledged: what failed may or may not have happened, and is asked again. */
const acknowledged = (what: string, act: () => Promise<unknown>) =>
  until(
    what,
    async () => {
      await act();
      return true;
    },
    { timeoutMs: 60_000 },
  );

for (const [victim, strike] of Object.entries(victims)) {
  test.serial(`kill -9 of ${victim} in the middle of create, update and delete`, async (t) => {
    t.timeout(240_000);
    const api = site.controlPlane.client(ContainerService);
    const name = (i: number) => `${victim.replace(' ', '-')}-${i}`;
    const numbers = [0, 1, 2, 3, 4, 5];
    const create = (i: number) =>
      acknowledged(`created ${i}`, () =>
        api.createContainer({
          container: { metadata: { bay: 'local', name: name(i) }, spec: spec('red') },
          requestId: name(i),
        }),
      );
    const update = (i: number) =>
      acknowledged(`updated ${i}`, () =>
        api.updateContainer({ container: { metadata: { bay: 'local', name: name(i) }, spec: spec('blue') } }),
      );
    const remove = (i: number) =>
      acknowledged(`deleted ${i}`, () => api.deleteContainer({ bay: 'local', name: name(i), allowMissing: true }));
    /** The writes, with the strike after the first of them is acknowledged. */
    const amid = async (writes: ((i: number) => Promise<unknown>)[]) => {
      const all = writes.map((write, i) => write(i));
      await Promise.any(all);
      await Promise.all([strike(), ...all]);
    };

    await amid(numbers.map(() => create));
    for (const i of numbers) await site.inPhase(name(i), ContainerPhase.RUNNING, 60_000);
    await amid(numbers.map(() => update));
    for (const i of numbers) await site.inPhase(name(i), ContainerPhase.RUNNING, 60_000);
    for (const i of numbers) {
      const { Config } = await site.dockerd.docker.getContainer(name(i)).inspect();
      t.true(Config.Env.includes('COLOUR=blue'), name(i));
    }
    t.deepEqual(await site.onEngine(), numbers.map(name));
    await amid(numbers.map(() => remove));
    for (const i of numbers) await site.gone(name(i), 60_000);
    t.deepEqual(await site.onEngine(), []);
  });
}
