import { create } from '@bufbuild/protobuf';
import test from 'ava';
import fc from 'fast-check';
import { AssignmentOp } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ContainerSpecSchema, PowerState, RestartPolicy } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { images, live, nameOf, newWorld, object, owner, uids, type World } from '../../test/harness/engine_world.ts';
import type { EngineContainer } from '../drivers/driver.ts';
import type { FakeEngine } from '../drivers/fake.ts';
import type { DesiredObject, DesiredState } from '../ports.ts';
import { engineName, label, ownedUid, temporaryName } from './engine_labels.ts';
import { plan, planObject, viewOf } from './plan.ts';
import { hasFinished } from './power.ts';
import type { Step } from './step.ts';
import { wantedOf } from './wanted.ts';

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
