import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { ExecutionContext } from 'ava';
import type { Clock } from '../../agent/clock.ts';
import { createWorkloads, type RunningWorkloads } from '../../agent/containers/loop.ts';
import { FakeEngine } from '../../agent/drivers/fake.ts';
import { silentLog } from '../../agent/log.ts';
import type { Desired, DesiredObject, DesiredState } from '../../agent/ports.ts';
import { AssignmentOp, AssignmentSchema, type ObjectReport } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import {
  ContainerPhase,
  ContainerSpecSchema,
  type ContainerStatus,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { SettablePolicy } from './settable_policy.ts';

/** Time that passes when it is told to. */
export class TestClock implements Clock {
  #now = 1_700_000_000_000;
  readonly #timers = new Set<{ readonly atMs: number; readonly callback: () => void }>();
  now(): number {
    return this.#now;
  }
  after(ms: number, callback: () => void): () => void {
    const timer = { atMs: this.#now + ms, callback };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }
  pass(ms: number): void {
    this.#now += ms;
    for (const timer of [...this.#timers]) {
      if (timer.atMs <= this.#now && this.#timers.delete(timer)) timer.callback();
    }
  }
}

export class TestDesired implements Desired {
  current: DesiredState = { complete: false, objects: new Map(), graves: new Set() };
  readonly buriedUids: string[] = [];
  readonly #listeners = new Set<(uids: readonly string[]) => void>();
  subscribe(listener: (uids: readonly string[]) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
  async buried(uid: string): Promise<void> {
    this.buriedUids.push(uid);
    this.set({ graves: new Set([...this.current.graves].filter((one) => one !== uid)) }, []);
  }
  set(change: Partial<DesiredState>, uids: readonly string[]): void {
    this.current = { ...this.current, ...change };
    for (const listener of this.#listeners) listener(uids);
  }
  put(name: string, spec: MessageInitShape<typeof ContainerSpecSchema> = {}, generation = 1n): void {
    this.#assign(name, AssignmentOp.PUT, generation, { image: 'img:1', ...spec });
  }
  delete(name: string, generation = 9n): void {
    this.#assign(name, AssignmentOp.DELETE, generation);
  }
  drop(name: string, change: Partial<DesiredState> = {}): void {
    const objects = new Map(this.current.objects);
    objects.delete(name);
    this.set({ objects, ...change }, [name]);
  }
  #assign(
    name: string,
    op: AssignmentOp,
    generation: bigint,
    spec?: MessageInitShape<typeof ContainerSpecSchema>,
  ): void {
    const object: DesiredObject = {
      assignment: create(AssignmentSchema, {
        uid: name,
        namespace: 'default',
        name,
        generation,
        op,
        ...(spec && { spec: { case: 'container', value: create(ContainerSpecSchema, spec) } }),
      }),
      publishTimeMs: 1_600_000_000_000,
      receiveTimeMs: 1_600_000_000_500,
    };
    this.set({ objects: new Map([...this.current.objects, [name, object]]) }, [name]);
  }
}

export interface Bench {
  readonly engine: FakeEngine;
  readonly desired: TestDesired;
  readonly clock: TestClock;
  readonly policy: SettablePolicy;
  readonly reports: ObjectReport[];
  readonly workloads: RunningWorkloads;
  readonly memoryFile: string;
  /** The last that was said of an object. */
  status(name: string): ContainerStatus | undefined;
  /** A second agent on what the first one has left. */
  restarted(): Promise<Bench>;
}

export interface Left {
  readonly engine: FakeEngine;
  readonly desired: TestDesired;
  readonly clock: TestClock;
  readonly policy: SettablePolicy;
  readonly memoryFile: string;
}

export async function bench(t: ExecutionContext, left?: Left): Promise<Bench> {
  const clock = left?.clock ?? new TestClock();
  const dir = left ? '' : await mkdtemp(join(tmpdir(), 'bk-loop-'));
  if (dir) t.teardown(() => rm(dir, { recursive: true, force: true }));
  const engine = left?.engine ?? new FakeEngine({ now: () => clock.now(), images: ['img:1', 'img:2'] });
  const desired = left?.desired ?? new TestDesired();
  const policy = left?.policy ?? new SettablePolicy();
  const memoryFile = left?.memoryFile ?? join(dir, 'memory.json');
  const reports: ObjectReport[] = [];
  const workloads = createWorkloads({
    driver: engine,
    desired,
    reports: { put: (report) => reports.push(report) },
    bayUid: 'bay-1',
    nodeUid: 'node-1',
    nodeName: 'alpha',
    clock,
    log: silentLog,
    policy,
    memoryFile,
    random: () => 0.5,
  });
  await workloads.start();
  t.teardown(() => workloads.stop());
  const self: Bench = {
    engine,
    desired,
    clock,
    policy,
    reports,
    workloads,
    memoryFile,
    status(name) {
      const last = reports.findLast((report) => report.uid === name);
      return last?.status.case === 'container' ? last.status.value : undefined;
    },
    async restarted() {
      await workloads.stop();
      return await bench(t, self);
    },
  };
  return self;
}

/** Waits for what follows by itself; the test's own clock stands still. */
export async function until(t: ExecutionContext, what: string, condition: () => boolean): Promise<void> {
  const limit = Date.now() + 5_000;
  while (!condition()) {
    if (Date.now() > limit) return t.fail(`never came: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
  t.pass();
}
export const turns = async () => {
  for (let i = 0; i < 50; i += 1) await new Promise((resolve) => setImmediate(resolve));
};

export const running = (b: Bench, name: string) => b.status(name)?.phase === ContainerPhase.RUNNING;

export const sink = () => {
  const result: { out: string; end?: { exitCode?: number; error?: string } } = { out: '' };
  return {
    result,
    stdout: async (data: Uint8Array) => {
      result.out += Buffer.from(data).toString('utf8');
    },
    stderr: async () => undefined,
    end: (end: { exitCode?: number; error?: string }) => {
      result.end = end;
    },
  };
};
