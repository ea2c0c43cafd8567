import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { ExecutionContext, TestFn } from 'ava';
import {
  type ContainerSpec,
  ContainerSpecSchema,
  PortProtocol,
  RestartPolicy,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { type Driver, DriverError, type DriverErrorKind, type EngineEvent, type OutputChunk } from './driver.ts';

export interface ContractSubject {
  readonly driver: Driver;
  /** An image that is on the node, with `sleep`, `echo`, `cat` and `false` in /bin, and no command of its own. */
  readonly image: string;
  /** A port of the node that nobody listens on. */
  freePort(): Promise<number>;
}

const absent = 'no-such-image.invalid/nothing:1';

/** What every driver promises. The suite runs one test after the other against one engine. */
export function driverContract(test: TestFn, subject: () => ContractSubject): void {
  let count = 0;
  const spec = (more: MessageInitShape<typeof ContainerSpecSchema> = {}): ContainerSpec =>
    create(ContainerSpecSchema, {
      image: subject().image,
      command: ['/bin/sleep', '1000'],
      restartPolicy: RestartPolicy.NEVER,
      ...more,
    });
  /** A container that is removed at the end of the test. */
  const make = async (t: ExecutionContext, more: MessageInitShape<typeof ContainerSpecSchema> = {}) => {
    const { driver } = subject();
    count += 1;
    const name = `contract-${count}`;
    const id = await driver.create({ name, spec: spec(more), labels: { contract: name, empty: '' } });
    t.teardown(() => driver.remove(id));
    return { id, name };
  };

  test.serial(
    'a container is made, started, paused, unpaused, stopped and removed; each may be asked for twice',
    async (t) => {
      const { driver } = subject();
      const { id, name } = await make(t, { stopTimeout: { seconds: 0n } });
      const state = async () => (await driver.inspect(id))?.state;
      t.like(await driver.inspect(id), {
        id,
        name,
        state: 'created',
        startedMs: undefined,
        finishedMs: undefined,
        health: 'none',
      });
      for (const [call, expected] of [
        ['start', 'running'],
        ['pause', 'paused'],
        ['unpause', 'running'],
        ['stop', 'exited'],
        ['start', 'running'],
      ] as const) {
        for (let twice = 0; twice < 2; twice += 1) {
          await driver[call](id);
          t.is(await state(), expected, call);
        }
      }
      const running = await driver.inspect(id);
      t.true((running?.startedMs ?? 0) > (running?.createdMs ?? 0));
      t.true((running?.pid ?? 0) > 0);
      await driver.remove(id);
      await driver.remove(id);
      await driver.stop(id);
      t.is(await state(), undefined);
    },
  );

  test.serial('what ends is seen to have ended, and says how', async (t) => {
    const { driver } = subject();
    const { id } = await make(t);
    await driver.start(id);
    await driver.stop(id, 0);
    const ended = await driver.inspect(id);
    t.like(ended, { state: 'exited', exitCode: 137, oomKilled: false, pid: 0 });
    t.true((ended?.finishedMs ?? 0) >= (ended?.startedMs ?? 0));
  });

  test.serial('containers are listed by their labels, and found by name', async (t) => {
    const { driver } = subject();
    const { id, name } = await make(t);
    const { id: other } = await make(t);
    t.deepEqual(
      (await driver.list({ contract: name })).map((one) => [one.id, one.name, one.state, one.labels.contract]),
      [[id, name, 'created', name]],
    );
    t.is((await driver.list({ empty: '' })).filter((one) => one.id === id || one.id === other).length, 2);
    t.deepEqual(await driver.list({ contract: name, empty: 'no' }), []);
    t.is((await driver.inspect(name))?.id, id);
    t.is(await driver.inspect('contract-none'), undefined);
  });

  test.serial("a container is renamed; a name that is taken stays its owner's", async (t) => {
    const { driver } = subject();
    const { id, name } = await make(t);
    const { name: taken } = await make(t);
    await driver.rename(id, `${name}-new`);
    t.is((await driver.inspect(`${name}-new`))?.id, id);
    await fails(t, 'name-taken', driver.rename(id, taken));
    await fails(t, 'name-taken', driver.create({ name: taken, spec: spec(), labels: {} }));
  });

  test.serial('restart policy and limits are seen, and change in place', async (t) => {
    const { driver } = subject();
    const { id } = await make(t, { resources: { memoryBytes: 32_000_000n, cpuMillis: 500n } });
    await driver.start(id);
    t.like(await driver.inspect(id), { nanoCpus: 500_000_000, memoryBytes: 32_000_000, restart: { policy: 'no' } });
    await driver.update(id, { nanoCpus: 1_000_000_000, memoryBytes: 64_000_000 });
    await driver.update(id, { restart: { policy: 'on-failure', maxRetries: 3 } });
    t.like(await driver.inspect(id), {
      nanoCpus: 1_000_000_000,
      memoryBytes: 64_000_000,
      restart: { policy: 'on-failure', maxRetries: 3 },
      state: 'running',
    });
  });

  test.serial('a port that is taken is found out at the start, and can be had once it is free', async (t) => {
    const { driver, freePort } = subject();
    const ports = [{ containerPort: 80, hostPort: await freePort(), protocol: PortProtocol.TCP }];
    const { id: first } = await make(t, { ports });
    const { id: second } = await make(t, { ports });
    await driver.start(first);
    t.is((await driver.inspect(first))?.ports[0]?.hostPort, ports[0]?.hostPort);
    await fails(t, 'port-taken', driver.start(second));
    await driver.stop(first, 0);
    await driver.start(second);
    t.is((await driver.inspect(second))?.state, 'running');
  });

  test.serial('errors have a kind', async (t) => {
    const { driver } = subject();
    t.true(await driver.hasImage(subject().image));
    t.false(await driver.hasImage(absent));
    await fails(t, 'image-not-found', driver.create({ name: 'contract-x', spec: spec({ image: absent }), labels: {} }));
    const error = await t.throwsAsync(driver.pull(absent), { instanceOf: DriverError });
    t.true(error.kind === 'image-not-found' || error.kind === 'pull-failed', error.message);
    await fails(t, 'not-found', driver.start('contract-none'));
    const { id } = await make(t);
    await fails(t, 'not-running', driver.pause(id));
    const exec = {
      command: ['/bin/echo'],
      tty: false,
      stdin: false,
      env: [],
      workingDir: '',
      user: '',
      size: undefined,
    };
    await fails(t, 'not-running', driver.exec(id, exec));
    await fails(t, 'not-found', driver.exec('contract-none', exec));
    await fails(
      t,
      'not-found',
      driver.logs('contract-none', {
        follow: false,
        tailLines: undefined,
        sinceMs: undefined,
        timestamps: false,
        stdout: true,
        stderr: true,
      }),
    );
  });

  test.serial('events come in their order, as they happen and out of the past', async (t) => {
    const { driver } = subject();
    const abort = new AbortController();
    const seen: EngineEvent[] = [];
    const opened = Promise.withResolvers<void>();
    const sinceMs = Date.now() - 1;
    const reading = (async () => {
      for await (const event of driver.events({ sinceMs, signal: abort.signal, opened: opened.resolve }))
        seen.push(event);
    })();
    await opened.promise;
    const { id, name } = await make(t);
    await driver.start(id);
    await driver.pause(id);
    await driver.unpause(id);
    await driver.stop(id, 0);
    await driver.rename(id, `${name}-b`);
    await driver.remove(id);
    const expected = ['create', 'start', 'pause', 'unpause', 'die', 'stop', 'rename', 'destroy'];
    const actions = (events: readonly EngineEvent[]) =>
      events.filter((event) => event.id === id && event.action !== 'kill').map((event) => event.action);
    while (actions(seen).length < expected.length) await new Promise((resolve) => setTimeout(resolve, 10));
    t.deepEqual(actions(seen), expected);
    t.true(seen.some((event) => event.id === id && event.action === 'kill'));
    const died = seen.find((event) => event.id === id && event.action === 'die');
    t.is(died?.exitCode, 137);
    t.is(died?.labels.contract, name);
    t.is(seen.find((event) => event.id === id && event.action === 'rename')?.oldName, name);
    const times = seen.filter((event) => event.id === id).map((event) => event.timeMs);
    t.deepEqual(
      times,
      times.toSorted((a, b) => a - b),
    );
    abort.abort();
    await reading;
    t.deepEqual(actions(await driver.history(sinceMs)), expected);
    // From a time on, and perhaps a little before it.
    t.deepEqual(actions(await driver.history(died?.timeMs ?? 0)).slice(-4), expected.slice(4));
  });

  test.serial('a log is read, also of what has ended', async (t) => {
    const { driver } = subject();
    const { id } = await make(t, { command: ['/bin/echo', 'hello', 'log'] });
    await driver.start(id);
    const output = await driver.logs(id, {
      follow: true,
      tailLines: undefined,
      sinceMs: undefined,
      timestamps: false,
      stdout: true,
      stderr: true,
    });
    t.is(textOf(await collect(output.chunks)), 'hello log\n');
    output.close();
    output.close();
  });

  test.serial('a command is executed, and says what and how it ended', async (t) => {
    const { driver } = subject();
    const { id } = await make(t);
    await driver.start(id);
    const run = async (command: string[], input?: string) => {
      const exec = await driver.exec(id, {
        command,
        tty: false,
        stdin: input !== undefined,
        env: [],
        workingDir: '',
        user: '',
        size: undefined,
      });
      if (input !== undefined) {
        await exec.write(Buffer.from(input));
        exec.endInput();
      }
      const output = textOf(await collect(exec.chunks));
      const exitCode = await exec.exitCode();
      exec.close();
      exec.close();
      return { output, exitCode };
    };
    t.deepEqual(await run(['/bin/echo', 'a', 'b']), { output: 'a b\n', exitCode: 0 });
    t.deepEqual(await run(['/bin/false']), { output: '', exitCode: 1 });
    t.deepEqual(await run(['/bin/cat'], 'through and through'), { output: 'through and through', exitCode: 0 });
  });

  test.serial('the engine says what it is', async (t) => {
    const { driver } = subject();
    await driver.ping();
    const info = await driver.info();
    t.truthy(info.engine);
    t.truthy(info.version);
    t.regex(info.rootDir, /^\//);
  });
}

async function fails(t: ExecutionContext, kind: DriverErrorKind, call: Promise<unknown>): Promise<void> {
  const error = await t.throwsAsync(call, { instanceOf: DriverError });
  t.is(error.kind, kind, error.message);
}

export async function collect(chunks: AsyncIterable<OutputChunk>): Promise<OutputChunk[]> {
  const all: OutputChunk[] = [];
  for await (const chunk of chunks) all.push(chunk);
  return all;
}

export const textOf = (chunks: readonly OutputChunk[], stream?: OutputChunk['stream']): string =>
  Buffer.concat(chunks.filter((one) => !stream || one.stream === stream).map((one) => one.data)).toString('utf8');
