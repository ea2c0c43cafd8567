import { create } from '@bufbuild/protobuf';
import { Endings } from '../../agent/containers/endings.ts';
import { type Owner, ownedUid } from '../../agent/containers/engine_labels.ts';
import { execute } from '../../agent/containers/execute.ts';
import { type ObjectMemory, VolatileMemory } from '../../agent/containers/memory.ts';
import { plan } from '../../agent/containers/plan.ts';
import type { Step } from '../../agent/containers/step.ts';
import { DriverError } from '../../agent/drivers/driver.ts';
import { FakeEngine } from '../../agent/drivers/fake.ts';
import type { DesiredObject, DesiredState } from '../../agent/ports.ts';
import { AssignmentOp, AssignmentSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { type ContainerSpec, ContainerSpecSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';

/** An engine in memory, and an agent's plans and steps on it, which may crash between any two of them. */

export const owner: Owner = { bayUid: 'bay-1', nodeUid: 'node-1' };
export const uids = ['u0', 'u1', 'u2', 'u3'] as const;
export const images = ['img:1', 'img:2'] as const;

/** What a crash leaves: the memory as of its last flush. */
export class CrashMemory extends VolatileMemory {
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

export class Crash extends Error {}

export interface World {
  readonly engine: FakeEngine;
  readonly memory: CrashMemory;
  /** Number of changes until a crash; none when undefined. */
  crashIn: number | undefined;
}

export const newWorld = (): World => {
  const world: World = {
    engine: new FakeEngine({ images: [...images] }),
    memory: new CrashMemory(),
    crashIn: undefined,
  };
  return world;
};

/** One life of an agent: plans and executes until there is nothing to do, or it crashes. Returns whether it got to the end. */
export async function live(
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

/** Names go with uids but for u0 and u1, which share one, so that only one of them is PUT. */
export const nameOf = (uid: string) =>
  uid === 'u1'
    ? { namespace: 'default', name: 'u0' }
    : uid === 'u2'
      ? { namespace: 'shop', name: 'u0' }
      : { namespace: 'default', name: uid };

export function object(uid: string, spec: ContainerSpec | undefined, generation = 1n): DesiredObject {
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

export const one = (
  uid: string,
  spec: Parameters<typeof create<typeof ContainerSpecSchema>>[1] | undefined,
  generation = 1n,
  complete = false,
): DesiredState => ({
  complete,
  graves: new Set(),
  objects: new Map([[uid, object(uid, spec && create(ContainerSpecSchema, spec), generation)]]),
});

export const settle = async (world: World, desired: DesiredState) => {
  if (!(await live(world, desired))) throw new Error('does not settle');
  world.engine.calls.length = 0;
};
export const after = async (world: World, desired: DesiredState) => {
  const done = await live(world, desired);
  return { done, calls: world.engine.calls };
};
