import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { DurationSchema } from '@bufbuild/protobuf/wkt';
import test, { type ExecutionContext } from 'ava';
import { AssignmentOp, AssignmentSchema, type ObjectReport } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import {
  ContainerPhase,
  ContainerSpecSchema,
  type ContainerStatus,
  MountType,
  RestartPolicy,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ExecuteStartSchema } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { startDockerd, type TestDockerd } from '../../test/harness/dockerd.ts';
import { SettablePolicy } from '../../test/harness/settable_policy.ts';
import { systemClock } from '../clock.ts';
import { DockerDriver } from '../drivers/docker.ts';
import { dockerClient } from '../drivers/docker_client.ts';
import { silentLog } from '../log.ts';
import type { Desired, DesiredObject, DesiredState } from '../ports.ts';
import { createWorkloads, type RunningWorkloads } from './loop.ts';

let dockerd: TestDockerd;
let dir: string;
const image = 'busybox:test';

test.before(async () => {
  dockerd = await startDockerd();
  await dockerd.importBusybox(image);
  dir = await mkdtemp(join(tmpdir(), 'bk-loop-'));
});
test.after.always(async () => {
  await dockerd?.[Symbol.asyncDispose]();
  if (dir) await rm(dir, { recursive: true, force: true });
});

let agents = 0;

/** An agent's engine half on the real engine, as a node of its own. */
class Agent implements Desired {
  readonly nodeUid: string;
  readonly reports: ObjectReport[] = [];
  readonly policy = new SettablePolicy();
  current: DesiredState = { complete: false, objects: new Map(), graves: new Set() };
  #listener: (uids: readonly string[]) => void = () => undefined;
  #workloads: RunningWorkloads | undefined;

  constructor() {
    agents += 1;
    this.nodeUid = `node-${agents}`;
  }
  get workloads(): RunningWorkloads {
    if (!this.#workloads) throw new Error('not started');
    return this.#workloads;
  }
  async start(t: ExecutionContext): Promise<void> {
    this.#workloads = createWorkloads({
      driver: new DockerDriver({ docker: dockerClient(dockerd.socketPath) }),
      desired: this,
      reports: { put: (report) => this.reports.push(report) },
      bayUid: 'bay-1',
      nodeUid: this.nodeUid,
      nodeName: 'alpha',
      clock: systemClock,
      log: silentLog,
      policy: this.policy,
      memoryFile: join(dir, `${this.nodeUid}.json`),
    });
    await this.workloads.start();
    t.teardown(() => this.workloads.stop());
  }
  subscribe(listener: (uids: readonly string[]) => void): () => void {
    this.#listener = listener;
    return () => undefined;
  }
  async buried(): Promise<void> {}
  #assign(
    name: string,
    op: AssignmentOp,
    generation: bigint,
    spec: MessageInitShape<typeof ContainerSpecSchema>,
  ): void {
    const object: DesiredObject = {
      assignment: create(AssignmentSchema, {
        uid: name,
        namespace: 'default',
        name,
        generation,
        op,
        spec: {
          case: 'container',
          value: create(ContainerSpecSchema, {
            image,
            command: ['/bin/sleep', '1000'],
            stopTimeout: create(DurationSchema),
            ...spec,
          }),
        },
      }),
      publishTimeMs: Date.now(),
      receiveTimeMs: Date.now(),
    };
    this.current = { ...this.current, objects: new Map([...this.current.objects, [name, object]]) };
    this.#listener([name]);
  }
  put(name: string, spec: MessageInitShape<typeof ContainerSpecSchema> = {}, generation = 1n): void {
    this.#assign(name, AssignmentOp.PUT, generation, spec);
  }
  delete(name: string): void {
    this.#assign(name, AssignmentOp.DELETE, 99n, {});
  }
  status(name: string): ContainerStatus | undefined {
    const last = this.reports.findLast((report) => report.uid === name);
    return last?.status.case === 'container' ? last.status.value : undefined;
  }
  isRunning(name: string, generation = 1n): boolean {
    const status = this.status(name);
    return status?.phase === ContainerPhase.RUNNING && status.delivery?.appliedGeneration === generation;
  }
  isRemoved(name: string): boolean {
    return this.reports.findLast((report) => report.uid === name)?.removed === true;
  }
}

async function until(what: string, condition: () => boolean | Promise<boolean>, limitMs = 40_000): Promise<number> {
  const began = Date.now();
  while (!(await condition())) {
    if (Date.now() - began > limitMs) throw new Error(`not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return Date.now() - began;
}

const container = (name: string) => dockerd.docker.getContainer(name);
const isUp = async (name: string) => {
  const state = await container(name)
    .inspect()
    .then(
      (found) => found.State,
      () => undefined,
    );
  return state?.Running === true && !state.Paused;
};

test.serial(
  "somebody's stop, kill, pause and rm -f are mended within two seconds, whatever the restart policy",
  async (t) => {
    const agent = new Agent();
    await agent.start(t);
    const policies = { always: RestartPolicy.ALWAYS, failure: RestartPolicy.ON_FAILURE, never: RestartPolicy.NEVER };
    for (const [name, restartPolicy] of Object.entries(policies)) {
      agent.put(`mend-${name}`, { restartPolicy });
      await until('running', () => agent.isRunning(`mend-${name}`));
      for (const [what, act] of [
        ['stop', () => container(`mend-${name}`).stop({ t: 0 })],
        ['kill', () => container(`mend-${name}`).kill()],
        ['pause', () => container(`mend-${name}`).pause()],
        ['rm', () => container(`mend-${name}`).remove({ force: true })],
      ] as const) {
        await act();
        const took = await until('mended', () => isUp(`mend-${name}`));
        t.true(took < 2_000, `${what} with ${name}: ${took} ms`);
        await until('reported', () => agent.isRunning(`mend-${name}`));
      }
    }
  },
);

test.serial('a job that ends stays ended; one that is killed from inside has failed', async (t) => {
  const agent = new Agent();
  await agent.start(t);
  agent.put('job-ok', { restartPolicy: RestartPolicy.NEVER, command: ['/bin/true'] });
  agent.put('job-bad', {
    restartPolicy: RestartPolicy.ON_FAILURE,
    restartMaxRetries: 2,
    command: ['/bin/sh', '-c', 'exit 3'],
  });
  agent.put('job-oom', {
    restartPolicy: RestartPolicy.NEVER,
    command: ['/bin/sh', '-c', 'x=$(/bin/yes)'],
    resources: { memoryBytes: 8_000_000n },
  });
  await until('succeeded', () => agent.status('job-ok')?.phase === ContainerPhase.SUCCEEDED);
  await until('failed', () => agent.status('job-bad')?.reason === 'Error');
  await until('out of memory', () => agent.status('job-oom')?.reason === 'OutOfMemory');
  t.like(agent.status('job-bad'), { phase: ContainerPhase.FAILED, exitCode: 3, restarts: 2 });
  t.like(agent.status('job-oom'), { phase: ContainerPhase.FAILED, exitCode: 137, outOfMemory: true });
  t.is(agent.status('job-ok')?.restarts, 0);
});

test.serial('a new spec replaces the container without giving up its port until then', async (t) => {
  const agent = new Agent();
  await agent.start(t);
  const ports = [{ containerPort: 80, hostPort: 0 }];
  agent.put('swap', { ports });
  await until('running', () => agent.isRunning('swap'));
  const hostPort = agent.status('swap')?.ports[0]?.hostPort ?? 0;
  agent.put('swap', { ports: [{ containerPort: 80, hostPort }] }, 2n);
  await until('replaced', () => agent.isRunning('swap', 2n));
  agent.put('swap', { ports: [{ containerPort: 80, hostPort }], env: [{ name: 'A', value: 'b' }] }, 3n);
  await until('replaced again', () => agent.isRunning('swap', 3n));
  t.is(agent.status('swap')?.ports[0]?.hostPort, hostPort);

  agent.put('rival', { ports: [{ containerPort: 80, hostPort }] });
  await until('port taken', () => agent.status('rival')?.reason === 'PortTaken');
  t.regex(agent.status('rival')?.message ?? '', /already allocated; free the port/);
  agent.delete('swap');
  await until('removed', () => agent.isRemoved('swap'));
  await until('running', () => agent.isRunning('rival'));
});

test.serial('two agents on one engine leave each other alone', async (t) => {
  const [one, other] = [new Agent(), new Agent()];
  await one.start(t);
  await other.start(t);
  one.put('shared');
  await until('running', () => one.isRunning('shared'));
  other.put('shared');
  await until('conflict', () => other.status('shared')?.reason === 'NameConflict');
  t.regex(other.status('shared')?.message ?? '', /another agent on this engine/);
  other.delete('shared');
  await until('removed', () => other.isRemoved('shared'));
  t.true(await isUp('shared'));
});

test.serial(
  'the engine is killed in the middle of create, update and delete; all is done once it is back',
  async (t) => {
    const agent = new Agent();
    await agent.start(t);
    const names = Array.from({ length: 6 }, (_, i) => `crash-${i}`);
    const crash = async (afterMs: number) => {
      await new Promise((resolve) => setTimeout(resolve, afterMs));
      await dockerd.kill9();
      await until('noticed', async () =>
        (await agent.workloads.nodeStatus()).conditions.some(
          (one) => one.type === 'EngineUnavailable' && one.status === 1,
        ),
      );
      await dockerd.restart();
    };
    for (const name of names) agent.put(name, { restartPolicy: RestartPolicy.NEVER });
    await crash(400);
    for (const name of names) await until(`${name} running`, () => agent.isRunning(name) && isUp(name));
    for (const name of names) agent.put(name, { env: [{ name: 'A', value: 'b' }] }, 2n);
    await crash(300);
    for (const name of names) await until(`${name} replaced`, () => agent.isRunning(name, 2n) && isUp(name));
    for (const name of names) agent.delete(name);
    await crash(100);
    for (const name of names) await until(`${name} removed`, () => agent.isRemoved(name));
    const left = await dockerd.docker.listContainers({
      all: true,
      filters: { label: [`io.baykeeper.node=${agent.nodeUid}`] },
    });
    t.deepEqual(left, []);
  },
);

test.serial('what happened while agent and engine were down is made up for', async (t) => {
  const agent = new Agent();
  await agent.start(t);
  agent.put('once', { restartPolicy: RestartPolicy.NEVER });
  agent.put('done', { restartPolicy: RestartPolicy.NEVER, command: ['/bin/true'] });
  await until('running', () => agent.isRunning('once') && agent.status('done')?.phase === ContainerPhase.SUCCEEDED);
  await agent.workloads.stop();
  await dockerd.restart();
  agent.reports.length = 0;
  await agent.start(t);
  await until('running', () => agent.isRunning('once') && isUp('once'));
  await until('still done', () => agent.status('done')?.phase === ContainerPhase.SUCCEEDED);
  t.like(agent.status('done'), { restarts: 0, exitCode: 0 });
});

test.serial(
  'a command that nobody listens to any more leaves nothing behind, and its output waits for the sink',
  async (t) => {
    const agent = new Agent();
    await agent.start(t);
    agent.put('busy');
    await until('running', () => agent.isRunning('busy'));
    const before = process.memoryUsage();
    let taken = 0;
    const ended = Promise.withResolvers<void>();
    const stream = await agent.workloads.openExecute(
      'busy',
      create(ExecuteStartSchema, { command: ['/bin/yes'], tty: true }),
      {
        stdout: async (data) => {
          taken += data.byteLength;
          // A slow reader.
          await new Promise((resolve) => setTimeout(resolve, 50));
        },
        stderr: async () => undefined,
        end: () => ended.resolve(),
      },
    );
    await until('some output', () => taken > 100_000);
    const after = process.memoryUsage();
    t.true(after.arrayBuffers - before.arrayBuffers < 8_000_000);
    stream.close();
    await ended.promise;
    await until('nothing left', async () => ((await container('busy').top()).Processes ?? []).length === 1);
    t.pass();
  },
);

test('a policy that is tightened stops what it forbids, as the engine tells it, and a link does not get round it', async (t) => {
  const agent = new Agent();
  await agent.start(t);
  const folder = await mkdtemp(join(dir, 'data-'));
  await symlink('/etc', join(folder, 'link'));
  const bind = (source: string) => ({ mounts: [{ type: MountType.BIND, source, target: '/data' }] });
  agent.put('policy-mount', bind(folder));
  agent.put('policy-caps', { capAdd: ['NET_ADMIN'] });
  agent.put('policy-port', { ports: [{ containerPort: 80 }] });
  await until('running', () => ['policy-mount', 'policy-caps', 'policy-port'].every((name) => agent.isRunning(name)));
  agent.policy.set({ hostMounts: [folder], capabilities: 'forbid' });
  await until('stopped', async () => !(await isUp('policy-caps')));
  await until('said', () => agent.status('policy-caps')?.phase === ContainerPhase.FAILED);
  t.is(agent.status('policy-caps')?.reason, 'ForbiddenByPolicy');
  t.true(await isUp('policy-mount'));

  // What runs is judged by what the engine says, as it is of another spec than the one that is wanted.
  agent.put('policy-mount', bind(join(folder, 'link')), 2n);
  await until('refused', () => agent.status('policy-mount')?.reason === 'ForbiddenByPolicy');
  t.regex(agent.status('policy-mount')?.message ?? '', /the mount of \/etc of the node/);
  t.true(await isUp('policy-mount'));
  agent.put('policy-port', { capAdd: ['NET_ADMIN'] }, 2n);
  await until('refused', () => agent.status('policy-port')?.reason === 'ForbiddenByPolicy');
  t.true(await isUp('policy-port'));
  agent.policy.set({ hostMounts: 'forbid', hostPorts: 'forbid', capabilities: 'forbid' });
  await until('stopped', async () => !(await isUp('policy-mount')) && !(await isUp('policy-port')));

  agent.policy.set({});
  await until('running', () => agent.isRunning('policy-caps'));
});
