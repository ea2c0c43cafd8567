import { create } from '@bufbuild/protobuf';
import test from 'ava';
import fc from 'fast-check';
import { AssignmentOp, AssignmentSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import {
  type ContainerSpec,
  ContainerSpecSchema,
  PowerState,
  RestartPolicy,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { DriverError, type EngineContainer } from '../drivers/driver.ts';
import { FakeEngine } from '../drivers/fake.ts';
import type { DesiredObject, DesiredState } from '../ports.ts';
import { Endings } from './endings.ts';
import { engineName, label, type Owner, ownedUid, temporaryName } from './engine_labels.ts';
import { execute } from './execute.ts';
import { type ObjectMemory, VolatileMemory } from './memory.ts';
import { hasFinished, plan, planObject, type Step, viewOf, wantedOf } from './plan.ts';

const owner: Owner = { bayUid: 'bay-1', nodeUid: 'node-1' };
const uids = ['u0', 'u1', 'u2', 'u3'] as const;
const images = ['img:1', 'img:2'] as const;

/** What a crash leaves: the memory as of its last flush. */
class CrashMemory extends VolatileMemory {
  #durable = new Map<string, ObjectMemory>();
  #durableEventMs = 0;
  override async flush(): Promise<void> {
    this.#durable = new Map(this.objects);
    this.#durableEventMs = this.lastEventMs;
  }
  crash(): void {
    this.objects.clear();
    for (const [uid, object] of this.#durable) this.objects.set(uid, object);
    this.lastEventMs = this.#durableEventMs;
  }
}

class Crash extends Error {}

interface World {
  readonly engine: FakeEngine;
  readonly memory: CrashMemory;
  /** Number of changes until a crash; none when undefined. */
  crashIn: number | undefined;
}

const newWorld = (): World => {
  const world: World = {
    engine: new FakeEngine({ images: [...images] }),
    memory: new CrashMemory(),
    crashIn: undefined,
  };
  return world;
};

/** One life of an agent: plans and executes until there is nothing to do, or it crashes. Returns whether it got to the end. */
async function live(
  world: World,
  desired: DesiredState,
  check: (step: Step) => void = () => undefined,
): Promise<boolean> {
  const { engine, memory } = world;
  engine.hook = () => {
    if (world.crashIn === undefined) return;
    world.crashIn -= 1;
    if (world.crashIn < 0) throw new Crash();
  };
  try {
    for (let round = 0; round < 12; round += 1) {
      const endings = new Endings(memory);
      for (const event of await engine.history(memory.lastEventMs)) {
        const uid = ownedUid(owner, event);
        if (uid) endings.observe(uid, event);
        memory.lastEventMs = Math.max(memory.lastEventMs, event.timeMs);
      }
      const steps = plan({ desired, observed: engine.containers(), memory, owner });
      if (steps.length === 0) return true;
      const byUid = Map.groupBy(steps, (step) => step.uid);
      for (const [, own] of byUid) {
        for (const step of own) check(step);
        try {
          await execute(
            own,
            {
              driver: engine,
              memory,
              owner,
              signal: new AbortController().signal,
              aside: (wait) => wait(),
              doing: () => undefined,
            },
            () => true,
          );
        } catch (error) {
          // Another object may be in the way until its turn comes.
          if (!(error instanceof DriverError)) throw error;
        }
      }
    }
    return false;
  } catch (error) {
    if (!(error instanceof Crash)) throw error;
    world.crashIn = undefined;
    memory.crash();
    return false;
  } finally {
    engine.hook = undefined;
  }
}

const specs = fc.record({
  image: fc.constantFrom(...images),
  restartPolicy: fc.constantFrom(RestartPolicy.UNSPECIFIED, RestartPolicy.NEVER, RestartPolicy.ON_FAILURE),
  powerState: fc.constantFrom(PowerState.UNSPECIFIED, PowerState.RUNNING, PowerState.STOPPED, PowerState.PAUSED),
  reboots: fc.bigInt(0n, 2n),
  resources: fc.record({ memoryBytes: fc.constantFrom(0n, 10_000_000n, 20_000_000n) }),
});

const entries = fc.oneof(
  { weight: 1, arbitrary: fc.constant('gone' as const) },
  { weight: 1, arbitrary: fc.constant('grave' as const) },
  { weight: 1, arbitrary: fc.constant('delete' as const) },
  { weight: 5, arbitrary: specs },
);

/** Names go with uids but for u0 and u1, which share one, so that only one of them is PUT. */
const nameOf = (uid: string) =>
  uid === 'u1'
    ? { namespace: 'default', name: 'u0' }
    : uid === 'u2'
      ? { namespace: 'shop', name: 'u0' }
      : { namespace: 'default', name: uid };

const states = fc
  .record({
    complete: fc.boolean(),
    entries: fc.tuple(entries, entries, entries, entries),
    generation: fc.bigInt(1n, 9n),
  })
  .map(({ complete, entries: chosen, generation }): DesiredState => {
    const objects = new Map<string, DesiredObject>();
    const graves = new Set<string>();
    chosen.forEach((entry, i) => {
      const uid = uids[i] ?? '';
      if (entry === 'grave') graves.add(uid);
      if (entry === 'gone' || entry === 'grave') return;
      const rival = uid === 'u1' && objects.get('u0')?.assignment.op === AssignmentOp.PUT;
      objects.set(
        uid,
        object(uid, entry === 'delete' || rival ? undefined : create(ContainerSpecSchema, entry), generation),
      );
    });
    return { complete, objects, graves };
  });

function object(uid: string, spec: ContainerSpec | undefined, generation = 1n): DesiredObject {
  return {
    assignment: create(AssignmentSchema, {
      uid,
      ...nameOf(uid),
      generation,
      op: spec ? AssignmentOp.PUT : AssignmentOp.DELETE,
      ...(spec && { spec: { case: 'container', value: spec } }),
    }),
    publishTimeMs: 0,
    receiveTimeMs: 0,
  };
}

const one = (
  uid: string,
  spec: Parameters<typeof create<typeof ContainerSpecSchema>>[1] | undefined,
  generation = 1n,
  complete = false,
): DesiredState => ({
  complete,
  graves: new Set(),
  objects: new Map([[uid, object(uid, spec && create(ContainerSpecSchema, spec), generation)]]),
});

/** What somebody may do to a container, by the number of the container. */
const mischief = fc.array(
  fc.record({
    what: fc.constantFrom(
      'stop',
      'remove',
      'pause',
      'exit 0',
      'exit 1',
      'rename',
      'name of ours',
      'foreign',
      'other agent',
      'copy',
    ),
    which: fc.nat({ max: 7 }),
  }),
  { maxLength: 6 },
);

type Mischief = typeof mischief extends fc.Arbitrary<infer T> ? T : never;

async function disturb({ engine }: World, acts: Mischief): Promise<void> {
  for (const { what, which } of acts) {
    const all = engine.containers();
    const target = all[which % Math.max(1, all.length)];
    const uid = uids[which % uids.length] ?? '';
    const { namespace, name } = nameOf(uid);
    const make = async (as: string, labels: Record<string, string>) => {
      if (engine.named(as)) return;
      const id = await engine.create({ name: as, labels, spec: create(ContainerSpecSchema, { image: 'img:1' }) });
      if (which % 2) await engine.start(id);
    };
    if (what === 'foreign') await make(which > 5 ? temporaryName(namespace, name) : engineName(namespace, name), {});
    else if (what === 'other agent') {
      await make(engineName(namespace, name), { [label.bay]: 'bay-1', [label.node]: 'node-2', [label.uid]: uid });
    } else if (what === 'copy') {
      await make(`copy-${uid}`, { [label.bay]: 'bay-1', [label.node]: 'node-1', [label.uid]: uid });
    } else if (!target) continue;
    else if (what === 'stop') engine.somebodyStops(target.name);
    else if (what === 'remove') engine.somebodyRemoves(target.name);
    else if (what === 'pause') engine.somebodyPauses(target.name);
    else if (what === 'exit 0') engine.exit(target.name, 0);
    else if (what === 'exit 1') engine.exit(target.name, 1);
    else if (what === 'name of ours') engine.somebodyRenames(target.name, engineName(namespace, name));
    else engine.somebodyRenames(target.name, `renamed-${which}`);
  }
}

const isForeign = (container: EngineContainer) => ownedUid(owner, container) === undefined;
const history = fc.array(
  fc.record({ desired: states, acts: mischief, crashIn: fc.option(fc.nat({ max: 12 }), { nil: undefined }) }),
  {
    minLength: 1,
    maxLength: 4,
  },
);

test('whatever was, whatever others do, wherever it crashes: it gets to what is desired, and leaves everything else alone', async (t) => {
  t.timeout(120_000);
  await fc.assert(
    fc.asyncProperty(history, async (chapters) => {
      const world = newWorld();
      const { engine, memory } = world;
      for (const { desired, acts, crashIn } of chapters) {
        await disturb(world, acts);
        const foreign = engine.containers().filter(isForeign);
        const untouchable = engine.containers().filter((c) => {
          const uid = ownedUid(owner, c);
          return uid !== undefined && !desired.complete && !desired.objects.has(uid) && !desired.graves.has(uid);
        });
        const check = (step: Step) => checkStep(engine, desired, step);
        world.crashIn = crashIn;
        let done = await live(world, desired, check);
        for (let life = 0; life < 3 && !done; life += 1) done = await live(world, desired, check);

        // Somebody else has a temporary name: that is reported, and tried again.
        const squatted = engine.containers().some((c) => isForeign(c) && c.name.endsWith('__next'));
        const left = plan({ desired, observed: engine.containers(), memory, owner });
        if (!squatted && (!done || left.length > 0)) {
          throw new Error(`does not settle: ${left.map((step) => step.kind).join(', ')}`);
        }
        for (const kept of [...foreign, ...untouchable]) {
          const now = engine.containers().find((c) => c.id === kept.id);
          if (JSON.stringify(now) !== JSON.stringify(kept)) throw new Error(`${kept.name} was touched`);
        }
        checkOutcome(world, desired);
      }
    }),
    { numRuns: 1500, includeErrorInReport: true },
  );
  t.pass();
});

/** A step names only what is the owner's, and removes only for a reason. */
function checkStep(engine: FakeEngine, desired: DesiredState, step: Step): void {
  if (!('id' in step) || typeof step.id !== 'string') return;
  const target = engine.containers().find((c) => c.id === step.id);
  // Removed by a step before.
  if (!target) return;
  if (ownedUid(owner, target) !== step.uid)
    throw new Error(`${step.kind} of ${target.name}, which is not ${step.uid}'s`);
  const assignment = desired.objects.get(step.uid)?.assignment;
  const named = assignment !== undefined || desired.graves.has(step.uid) || desired.complete;
  if (!named) throw new Error(`${step.kind} of ${target.name}, of which nothing is known`);
}

function checkOutcome({ engine, memory }: World, desired: DesiredState): void {
  for (const uid of uids) {
    const wanted = wantedOf(desired, uid);
    const view = viewOf(owner, wanted, engine.containers());
    if (wanted.kind === 'absent' && view.owned.length > 0) throw new Error(`${uid} is still there`);
    if (wanted.kind !== 'present') continue;
    if (planObject(owner, wanted, view, memory.get(uid)).blocked) continue;
    const name = engineName(wanted.namespace, wanted.name);
    // Its temporary name is somebody's: reported, and the old one goes on.
    const squatter = engine.named(temporaryName(wanted.namespace, wanted.name));
    if (squatter && isForeign(squatter)) continue;
    const [container, ...more] = view.owned;
    if (more.length > 0) throw new Error(`${uid} has ${view.owned.length} containers`);
    if (!container) {
      if (memory.get(uid).ended?.by !== 'itself') throw new Error(`${uid} has no container`);
      continue;
    }
    if (container.name !== name) throw new Error(`${uid} has the name ${container.name}`);
    if (container.labels[label.spec] !== wanted.hash) throw new Error(`${uid} runs another spec`);
    const asked = wanted.spec.powerState;
    const finished = hasFinished(wanted.spec, container, memory.get(uid));
    const expected =
      asked === PowerState.STOPPED ? ['created', 'exited'] : asked === PowerState.PAUSED ? ['paused'] : ['running'];
    if (!expected.includes(container.state) && !finished)
      throw new Error(`${uid} is ${container.state}, not ${expected}`);
  }
}

const settle = async (world: World, desired: DesiredState) => {
  if (!(await live(world, desired))) throw new Error('does not settle');
  world.engine.calls.length = 0;
};
const after = async (world: World, desired: DesiredState) => {
  const done = await live(world, desired);
  return { done, calls: world.engine.calls };
};

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
