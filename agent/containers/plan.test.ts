import { create } from '@bufbuild/protobuf';
import test from 'ava';
import { ContainerSpecSchema, PowerState, RestartPolicy } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { after, live, newWorld, one, owner, settle } from '../../test/harness/engine_world.ts';
import type { DesiredState } from '../ports.ts';
import { engineName, temporaryName } from './engine_labels.ts';
import { planObject, viewOf } from './plan.ts';
import { wantedOf } from './wanted.ts';

test('what is known in part only is left alone; once it is known in full, what is not in it goes', async (t) => {
  const world = newWorld();
  await settle(world, one('u3', { image: 'img:1' }));
  const nothing: DesiredState = { complete: false, objects: new Map(), graves: new Set() };
  t.deepEqual((await after(world, nothing)).calls, []);
  t.deepEqual((await after(world, { ...nothing, complete: true })).calls, ['stop u3', 'remove u3']);
});

test('a change that needs a new container makes it before the old one goes', async (t) => {
  const world = newWorld();
  await settle(world, one('u3', { image: 'img:1' }));
  t.deepEqual((await after(world, one('u3', { image: 'img:2' }, 2n))).calls, [
    'create u3__next',
    'stop u3',
    'remove u3',
    'rename u3__next',
    'start u3',
  ]);
});

test('the old container goes on when the new one cannot be made', async (t) => {
  const world = newWorld();
  await settle(world, one('u3', { image: 'img:1' }));
  t.deepEqual(await after(world, one('u3', { image: 'nowhere:1' }, 2n)), { done: false, calls: [] });
  t.is(world.engine.named('u3')?.state, 'running');
});

test('restart policy and limits change in place; a limit that is taken away needs a new container', async (t) => {
  const world = newWorld();
  await settle(world, one('u3', { image: 'img:1' }));
  const limited = {
    image: 'img:1',
    restartPolicy: RestartPolicy.NEVER,
    resources: { memoryBytes: 10_000_000n, cpuMillis: 500n },
  };
  t.deepEqual((await after(world, one('u3', limited, 2n))).calls, ['update u3']);
  world.engine.calls.length = 0;
  t.true((await after(world, one('u3', { image: 'img:1' }, 3n))).calls.includes('create u3__next'));
});

test('a reboot is done once, also when the agent crashes in it', async (t) => {
  for (let crashIn = 0; crashIn < 5; crashIn += 1) {
    const world = newWorld();
    await settle(world, one('u3', { image: 'img:1', reboots: 3n }));
    await world.memory.flush();
    world.crashIn = crashIn;
    const desired = one('u3', { image: 'img:1', reboots: 4n }, 2n);
    await live(world, desired);
    t.true((await after(world, desired)).done);
    t.deepEqual(world.engine.calls, ['stop u3', 'start u3'], `crash at ${crashIn}`);
  }
});

test('an end by itself is the end where the restart policy lets it; one by somebody is mended', async (t) => {
  for (const restartPolicy of [RestartPolicy.NEVER, RestartPolicy.ON_FAILURE]) {
    const desired = one('u3', { image: 'img:1', restartPolicy, restartMaxRetries: 1 });
    const world = newWorld();
    await settle(world, desired);
    world.engine.somebodyStops('u3');
    t.deepEqual((await after(world, desired)).calls, ['start u3']);
    world.engine.calls.length = 0;
    world.engine.exit('u3', 0);
    t.deepEqual((await after(world, desired)).calls, []);
    // To tidy up what has ended does not make it run again.
    world.engine.somebodyRemoves('u3');
    t.deepEqual((await after(world, desired)).calls, []);
    const again = one('u3', { image: 'img:1', restartPolicy, restartMaxRetries: 1, reboots: 1n }, 2n);
    t.deepEqual((await after(world, again)).calls, ['create u3', 'start u3']);
    world.engine.calls.length = 0;
    world.engine.somebodyRemoves('u3');
    t.deepEqual((await after(world, again)).calls, ['create u3', 'start u3']);
  }
});

test('what has ended by itself runs again after a stop and a start', async (t) => {
  const spec = { image: 'img:1', restartPolicy: RestartPolicy.NEVER };
  const world = newWorld();
  await settle(world, one('u3', spec));
  world.engine.exit('u3', 1);
  await settle(world, one('u3', { ...spec, powerState: PowerState.STOPPED }, 2n));
  t.deepEqual((await after(world, one('u3', spec, 3n))).calls, ['start u3']);
});

test("a container of somebody else's with the name is a conflict, and is not touched", async (t) => {
  const world = newWorld();
  const id = await world.engine.create({
    name: 'u3',
    labels: {},
    spec: create(ContainerSpecSchema, { image: 'img:1' }),
  });
  const desired = one('u3', { image: 'img:1' });
  const wanted = wantedOf(desired, 'u3');
  const { steps, blocked } = planObject(
    owner,
    wanted,
    viewOf(owner, wanted, world.engine.containers()),
    world.memory.get('u3'),
  );
  t.deepEqual(steps, []);
  t.like(blocked, { by: 'name', occupant: { id } });
});

test("names on the engine are the object's own, and never shared", (t) => {
  t.is(engineName('default', 'web'), 'web');
  t.is(engineName('', 'web'), 'web');
  t.is(engineName('shop', 'web'), 'shop_web');
  t.is(engineName('default', 'w'), 'default_w');
  t.is(temporaryName('default', 'web'), 'web__next');
});

test('what is forbidden has its time to stop, and at most half a minute', async (t) => {
  for (const [seconds, expected] of [
    [3_600n, 30],
    [5n, 5],
  ] as const) {
    const world = newWorld();
    const desired = one('u0', { image: 'img:1', stopTimeout: { seconds } });
    await settle(world, desired);
    const wanted = wantedOf(desired, 'u0');
    const view = viewOf(owner, wanted, world.engine.containers());
    const forbidden = { wanted: true, container: () => true };
    const { steps } = planObject(owner, wanted, view, world.memory.get('u0'), forbidden);
    t.like(steps, [{ kind: 'stop', timeoutSeconds: expected }]);
    const unknown = planObject(owner, { kind: 'untouched', uid: 'u0' }, view, world.memory.get('u0'), forbidden);
    t.like(unknown.steps, [{ kind: 'stop', timeoutSeconds: 30 }]);
    const absent = { kind: 'absent', uid: 'u0', stopTimeoutSeconds: Number(seconds) } as const;
    const gone = planObject(owner, absent, view, world.memory.get('u0'), forbidden);
    t.like(gone.steps, [{ kind: 'stop', timeoutSeconds: expected }, { kind: 'remove' }]);
  }
});
