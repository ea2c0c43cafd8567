import { MountType } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { memoryOf, nanoCpusOf, restartOf } from '../containers/container_spec.ts';
import {
  type CreateRequest,
  type Driver,
  DriverError,
  type EngineContainer,
  type EngineEvent,
  type EngineExec,
  type EngineInfo,
  type EngineOutput,
  type EngineSummary,
  type EventAction,
  type EventOptions,
  type ExecOptions,
  type LogOptions,
  type UpdateRequest,
} from './driver.ts';
import { FakeEvents } from './fake_events.ts';
import { echoed, fakeExec, fakeOutput } from './fake_streams.ts';

type Mutable = { -readonly [K in keyof EngineContainer]: EngineContainer[K] };
interface Held {
  container: Mutable;
  readonly spec: CreateRequest['spec'];
  readonly wantedPorts: readonly number[];
}

/** Calls that change something on the engine. */
export type MutatingCall = 'pull' | 'create' | 'update' | 'rename' | 'start' | 'stop' | 'pause' | 'unpause' | 'remove';

export interface FakeEngineOptions {
  /** Default: a clock of its own that moves by one millisecond at each look. */
  readonly now?: () => number;
  /** Images on the node. */
  readonly images?: readonly string[];
  /** Images that can be pulled. */
  readonly registry?: readonly string[];
}

/**
 * A container engine in memory, with the habits of Docker that the loop depends on: restart policies, published ports that are taken at
 * start, names, events in their order. What others do to it is done with the methods at its end.
 */
export class FakeEngine implements Driver {
  readonly images: Set<string>;
  readonly registry: Set<string>;
  /** Called before and after each change; what it throws comes out of the call. For faults and crashes. */
  hook: ((when: 'before' | 'after', call: MutatingCall, target: string) => void | Promise<void>) | undefined;
  /** Every call that changed something, in order: `start web`. */
  readonly calls: string[] = [];
  down = false;
  /** Things happen, and no event tells. */
  mute = false;
  readonly #held = new Map<string, Held>();
  readonly #events = new FakeEvents();
  readonly #now: () => number;
  #ids = 0;
  #ticks = 0;

  constructor({ now, images = [], registry = [] }: FakeEngineOptions = {}) {
    this.images = new Set(images);
    this.registry = new Set(registry);
    this.#now = now ?? (() => 1_000_000 + this.#ticks);
  }

  async list(labels: Readonly<Record<string, string>>): Promise<EngineSummary[]> {
    this.#reach();
    const wanted = Object.entries(labels);
    return this.containers().filter((one) => wanted.every(([key, value]) => one.labels[key] === value));
  }

  async inspect(idOrName: string): Promise<EngineContainer | undefined> {
    this.#reach();
    const held = this.#find(idOrName);
    return held && { ...held.container };
  }

  async hasImage(image: string): Promise<boolean> {
    this.#reach();
    return this.images.has(image);
  }

  async pull(image: string, signal?: AbortSignal): Promise<void> {
    const cancelled = () => new DriverError('cancelled', `cannot pull ${image}: called off`);
    const calledOff = new Promise<never>((_resolve, reject) => {
      signal?.addEventListener('abort', () => reject(cancelled()), { once: true });
    });
    const pulled = this.#change('pull', image, () => {
      if (signal?.aborted) throw cancelled();
      if (!this.registry.has(image)) throw new DriverError('image-not-found', `cannot pull ${image}: no such image`);
      this.images.add(image);
    });
    await Promise.race([pulled, calledOff]);
  }

  async create({ name, spec, labels }: CreateRequest): Promise<string> {
    return await this.#change('create', name, () => {
      if (this.#find(name)) throw new DriverError('name-taken', `container name ${name} is already in use`);
      if (!this.images.has(spec.image)) throw new DriverError('image-not-found', `no such image: ${spec.image}`);
      this.#ids += 1;
      const id = this.#ids.toString(16).padStart(64, '0');
      this.#held.set(id, {
        spec,
        wantedPorts: spec.ports.map((p) => p.hostPort).filter((p) => p > 0),
        container: {
          id,
          name,
          labels: { ...labels },
          state: 'created',
          imageId: `sha256:${spec.image}`,
          createdMs: this.#tick(),
          startedMs: undefined,
          finishedMs: undefined,
          exitCode: 0,
          oomKilled: false,
          error: '',
          restartCount: 0,
          health: 'none',
          restart: restartOf(spec),
          nanoCpus: nanoCpusOf(spec),
          memoryBytes: memoryOf(spec),
          ports: [],
          pid: 0,
          grants: {
            image: spec.image,
            hostMounts: spec.mounts
              .filter(({ type }) => type === MountType.BIND)
              .map(({ source, readOnly }) => ({ path: source, writable: !readOnly })),
            hostPorts: spec.ports.map(({ hostPort }) => hostPort),
            capabilities: spec.capAdd,
          },
        },
      });
      this.#emit('create', id);
      return id;
    });
  }

  async update(id: string, { restart, nanoCpus, memoryBytes }: UpdateRequest): Promise<void> {
    await this.#change('update', id, () => {
      const { container } = this.#get(id);
      if (restart) container.restart = restart;
      if (nanoCpus) container.nanoCpus = nanoCpus;
      if (memoryBytes) container.memoryBytes = memoryBytes;
      this.#emit('update', id);
    });
  }

  async rename(id: string, name: string): Promise<void> {
    await this.#change('rename', id, () => {
      const { container } = this.#get(id);
      if (this.#find(name)) throw new DriverError('name-taken', `container name ${name} is already in use`);
      const oldName = container.name;
      container.name = name;
      this.#emit('rename', id, { oldName });
    });
  }

  async start(id: string): Promise<void> {
    await this.#change('start', id, () => {
      const held = this.#get(id);
      const { container, spec } = held;
      if (container.state === 'running') return;
      if (container.state === 'paused') throw new DriverError('not-running', 'the container is paused');
      const taken = [...this.#held.values()]
        .filter(
          (other) => other !== held && (other.container.state === 'running' || other.container.state === 'paused'),
        )
        .flatMap((other) => other.wantedPorts);
      const clash = held.wantedPorts.find((port) => taken.includes(port));
      if (clash !== undefined) {
        container.error = `port ${clash} is already allocated`;
        throw new DriverError('port-taken', `cannot start the container: port ${clash} is already allocated`);
      }
      Object.assign(container, {
        state: 'running',
        startedMs: this.#tick(),
        finishedMs: undefined,
        exitCode: 0,
        oomKilled: false,
        error: '',
        restartCount: 0,
        pid: 1000 + this.#ids,
        ports: spec.ports.map((p) => ({
          containerPort: p.containerPort,
          hostPort: p.hostPort || 32_768,
          protocol: 'tcp',
          hostIp: '0.0.0.0',
        })),
      } satisfies Partial<EngineContainer>);
      this.#emit('start', id);
    });
  }

  async stop(id: string): Promise<void> {
    await this.#change('stop', id, () => {
      const held = this.#find(id);
      if (held) this.#end(held, 137, true);
    });
  }

  async pause(id: string): Promise<void> {
    await this.#change('pause', id, () => {
      const { container } = this.#get(id);
      if (container.state === 'paused') return;
      if (container.state !== 'running') throw new DriverError('not-running', 'the container is not running');
      container.state = 'paused';
      this.#emit('pause', id);
    });
  }

  async unpause(id: string): Promise<void> {
    await this.#change('unpause', id, () => {
      const { container } = this.#get(id);
      if (container.state === 'running') return;
      if (container.state !== 'paused') throw new DriverError('not-running', 'the container is not paused');
      container.state = 'running';
      this.#emit('unpause', id);
    });
  }

  async remove(id: string): Promise<void> {
    await this.#change('remove', id, () => {
      const held = this.#find(id);
      if (!held) return;
      this.#end(held, 137, false, true);
      this.#emit('destroy', id);
      this.#held.delete(held.container.id);
    });
  }

  async history(sinceMs: number): Promise<EngineEvent[]> {
    this.#reach();
    return this.#events.since(sinceMs);
  }

  events(options: EventOptions): AsyncIterable<EngineEvent> {
    return this.#events.follow(options, () => this.#reach());
  }

  async info(): Promise<EngineInfo> {
    this.#reach();
    return { engine: 'fake', version: '1.0', apiVersion: '1.41', rootDir: '/', os: 'Fake OS' };
  }

  async ping(): Promise<void> {
    this.#reach();
  }

  /** What `echo` in the container's command says. */
  async logs(id: string, options: LogOptions): Promise<EngineOutput> {
    this.#reach();
    const { spec, container } = this.#get(id);
    const text =
      container.startedMs === undefined || !options.stdout ? undefined : echoed([...spec.command, ...spec.args]);
    return fakeOutput(text === undefined ? [] : [{ stream: 'stdout', data: text }]);
  }

  async exec(id: string, { command }: ExecOptions): Promise<EngineExec> {
    this.#reach();
    const { container } = this.#get(id);
    if (container.state !== 'running') throw new DriverError('not-running', `the container is ${container.state}`);
    return fakeExec(command);
  }

  // What others do, and what happens by itself.

  /** All containers, ours and others'. */
  containers(): EngineContainer[] {
    return [...this.#held.values()].map(({ container }) => ({ ...container }));
  }

  named(name: string): EngineContainer | undefined {
    const held = this.#find(name);
    return held && { ...held.container };
  }

  /** Its process ends by itself. The restart policy is the engine's business, as with Docker. */
  exit(name: string, exitCode: number): void {
    const held = this.#get(name);
    if (held.container.state !== 'running') return;
    this.#end(held, exitCode, false);
    const { policy, maxRetries } = held.container.restart;
    const retries = maxRetries === 0 || held.container.restartCount < maxRetries;
    if (policy === 'unless-stopped' || policy === 'always' || (policy === 'on-failure' && exitCode !== 0 && retries)) {
      held.container.state = 'running';
      held.container.startedMs = this.#tick();
      held.container.restartCount += 1;
      this.#emit('start', held.container.id);
    }
  }

  /** `docker stop`, or `docker kill`. */
  somebodyStops(name: string): void {
    this.#end(this.#get(name), 137, true);
  }

  /** `docker rm -f`. */
  somebodyRemoves(name: string): void {
    const held = this.#get(name);
    this.#end(held, 137, false, true);
    this.#emit('destroy', held.container.id);
    this.#held.delete(held.container.id);
  }

  /** `docker pause` and `docker unpause`. */
  somebodyPauses(name: string): void {
    const { container } = this.#get(name);
    if (container.state !== 'running') return;
    container.state = 'paused';
    this.#emit('pause', container.id);
  }

  /** `docker rename`. */
  somebodyRenames(name: string, to: string): void {
    const { container } = this.#get(name);
    if (this.#find(to)) return;
    container.name = to;
    this.#emit('rename', container.id, { oldName: name });
  }

  /** The engine goes away; with `forgetEvents`, as a restart of it would. */
  goDown(forgetEvents = false): void {
    this.down = true;
    this.#events.breakOff(forgetEvents);
  }

  comeBack(): void {
    this.down = false;
  }

  async #change<T>(call: MutatingCall, target: string, effect: () => T): Promise<T> {
    this.#reach();
    const name = this.#find(target)?.container.name ?? target;
    await this.hook?.('before', call, name);
    this.#reach();
    const result = effect();
    this.calls.push(`${call} ${name}`);
    await this.hook?.('after', call, name);
    return result;
  }

  #end(held: Held, exitCode: number, stop: boolean, killed = stop): void {
    const { container } = held;
    const { id, state } = container;
    if (state !== 'running' && state !== 'paused' && state !== 'restarting') return;
    if (killed) this.#emit('kill', id);
    Object.assign(container, { state: 'exited', exitCode, finishedMs: this.#tick(), pid: 0, ports: [] });
    this.#emit('die', id, { exitCode });
    if (stop) this.#emit('stop', id);
  }

  #emit(action: EventAction, id: string, more: { oldName?: string; exitCode?: number } = {}): void {
    if (this.mute) return;
    const { name, labels } = this.#get(id).container;
    const { oldName, exitCode } = more;
    this.#events.push({ action, timeMs: this.#tick(), id, name, oldName, labels: { ...labels, name }, exitCode });
  }

  #tick(): number {
    this.#ticks += 1;
    // Never twice the same: events and starts have an order.
    return this.#now() + this.#ticks * 1e-4;
  }

  #reach(): void {
    if (this.down) throw new DriverError('engine-unavailable', 'the engine is away');
  }

  #find(idOrName: string): Held | undefined {
    return this.#held.get(idOrName) ?? [...this.#held.values()].find((one) => one.container.name === idOrName);
  }

  #get(idOrName: string): Held {
    const held = this.#find(idOrName);
    if (!held) throw new DriverError('not-found', `no such container: ${idOrName}`);
    return held;
  }
}
