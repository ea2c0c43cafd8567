import type Docker from 'dockerode';
import { fromInspect, stateOf, toCreateBody } from './docker_container.ts';
import { toDriverError } from './docker_errors.ts';
import { readEvents, readHistory } from './docker_events.ts';
import { openExec, openLogs } from './docker_exec.ts';
import { pullImage } from './docker_pull.ts';
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
  type EventOptions,
  type ExecOptions,
  type LogOptions,
  type UpdateRequest,
} from './driver.ts';
import { killLeftoverTask } from './leftover_task.ts';

export interface DockerDriverOptions {
  /** From `dockerClient`. */
  readonly docker: Docker;
  /** How long an ordinary request may take. Default 60 s. */
  readonly requestTimeoutMs?: number;
  /** How long a pull may say nothing. Default 5 min. */
  readonly pullIdleTimeoutMs?: number;
}

/** How long making and starting a container may take: the engine may be unpacking, or waiting for a slow disk. */
const slowRequestTimeoutMs = 180_000;
const pingTimeoutMs = 3_000;
/** As in ContainerSpec.image. The client puts it in a path as it is. */
const imagePattern = /^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}$/;
const namePattern = /^[A-Za-z0-9][A-Za-z0-9_.-]*$/;

/** A Docker engine, API 1.41 or newer, at a Unix socket. */
export class DockerDriver implements Driver {
  readonly #docker: Docker;
  readonly #requestTimeoutMs: number;
  readonly #pullIdleTimeoutMs: number;

  constructor({ docker, requestTimeoutMs = 60_000, pullIdleTimeoutMs = 300_000 }: DockerDriverOptions) {
    this.#docker = docker;
    this.#requestTimeoutMs = requestTimeoutMs;
    this.#pullIdleTimeoutMs = pullIdleTimeoutMs;
  }

  async list(labels: Readonly<Record<string, string>>): Promise<EngineSummary[]> {
    const label = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
    return await this.#call('list containers', async (abortSignal) => {
      const found = await this.#docker.listContainers({ all: true, filters: { label }, abortSignal });
      if (!Array.isArray(found)) throw new TypeError('the engine did not answer with a list');
      return found.map((one) => ({
        id: one.Id,
        name: (one.Names?.[0] ?? '').replace(/^\//, ''),
        labels: one.Labels ?? {},
        state: stateOf(one.State),
      }));
    });
  }

  async inspect(idOrName: string): Promise<EngineContainer | undefined> {
    try {
      return await this.#call('inspect the container', async (abortSignal) =>
        fromInspect(await this.#container(idOrName).inspect({ abortSignal })),
      );
    } catch (error) {
      if (error instanceof DriverError && error.kind === 'not-found') return undefined;
      throw error;
    }
  }

  async hasImage(image: string): Promise<boolean> {
    checkImage(image);
    try {
      await this.#call('look for the image', () => this.#docker.getImage(image).inspect());
      return true;
    } catch (error) {
      if (error instanceof DriverError && (error.kind === 'image-not-found' || error.kind === 'not-found'))
        return false;
      throw error;
    }
  }

  async pull(image: string, signal?: AbortSignal): Promise<void> {
    checkImage(image);
    await pullImage(this.#docker, image, this.#pullIdleTimeoutMs, signal);
  }

  async create(request: CreateRequest): Promise<string> {
    if (!namePattern.test(request.name)) throw new DriverError('invalid', `not a container name: ${request.name}`);
    checkImage(request.spec.image);
    const body = toCreateBody(request);
    const made = await this.#call(
      'create the container',
      (abortSignal) => this.#docker.createContainer({ ...body, abortSignal }),
      slowRequestTimeoutMs,
    );
    return made.id;
  }

  async update(id: string, { restart, nanoCpus, memoryBytes }: UpdateRequest): Promise<void> {
    await this.#call('update the container', (abortSignal) =>
      this.#container(id).update({
        ...(restart && { RestartPolicy: { Name: restart.policy, MaximumRetryCount: restart.maxRetries } }),
        ...(nanoCpus !== undefined && { NanoCpus: nanoCpus }),
        // Memory and swap go together: the engine refuses a memory limit above that of both.
        ...(memoryBytes !== undefined && { Memory: memoryBytes, MemorySwap: memoryBytes }),
        abortSignal,
      }),
    );
  }

  async rename(id: string, name: string): Promise<void> {
    await this.#call('rename the container', (abortSignal) => this.#container(id).rename({ name, abortSignal }));
  }

  async start(id: string): Promise<void> {
    try {
      await this.#start(id);
    } catch (error) {
      if (!(error instanceof DriverError && error.kind === 'leftover') || !(await this.#killLeftover(id))) throw error;
      await this.#start(id);
    }
  }

  async #start(id: string): Promise<void> {
    await this.#unless(
      [304],
      'start the container',
      (abortSignal) => this.#container(id).start({ abortSignal }),
      slowRequestTimeoutMs,
    );
  }

  async stop(id: string, timeoutSeconds?: number): Promise<void> {
    // Unset, the engine takes what the container was made with, which is at most an hour.
    const waitMs = (timeoutSeconds ?? 3600) * 1000;
    await this.#unless(
      [304, 404],
      'stop the container',
      (abortSignal) =>
        this.#container(id).stop({ ...(timeoutSeconds !== undefined && { t: timeoutSeconds }), abortSignal }),
      waitMs + this.#requestTimeoutMs,
    );
  }

  async pause(id: string): Promise<void> {
    await this.#unlessState('paused', id, 'pause the container', (abortSignal) =>
      this.#container(id).pause({ abortSignal }),
    );
  }

  async unpause(id: string): Promise<void> {
    await this.#unlessState('running', id, 'unpause the container', (abortSignal) =>
      this.#container(id).unpause({ abortSignal }),
    );
  }

  async remove(id: string): Promise<void> {
    await this.#unless(
      [404],
      'remove the container',
      (abortSignal) => this.#container(id).remove({ force: true, v: true, abortSignal }),
      slowRequestTimeoutMs,
    );
  }

  async history(sinceMs: number): Promise<EngineEvent[]> {
    return await this.#call("read the engine's events", (signal) => readHistory(this.#docker, sinceMs, signal));
  }

  events(options: EventOptions): AsyncIterable<EngineEvent> {
    return readEvents(this.#docker, options);
  }

  async info(): Promise<EngineInfo> {
    const [info, version] = await this.#call('ask the engine about itself', () =>
      Promise.all([this.#docker.info(), this.#docker.version()]),
    );
    return {
      engine: 'docker',
      version: String(version.Version ?? ''),
      apiVersion: String(version.ApiVersion ?? ''),
      rootDir: String(info.DockerRootDir ?? ''),
      os: String(info.OperatingSystem ?? ''),
    };
  }

  async ping(): Promise<void> {
    await this.#call('reach the engine', () => this.#docker.ping(), pingTimeoutMs);
  }

  async logs(id: string, options: LogOptions): Promise<EngineOutput> {
    return await this.#call('read the logs', () => openLogs(this.#container(id), options));
  }

  async exec(id: string, options: ExecOptions): Promise<EngineExec> {
    return await this.#call('execute the command', () => openExec(this.#container(id), options));
  }

  #container(idOrName: string): Docker.Container {
    if (!namePattern.test(idOrName)) throw new DriverError('invalid', `not a container name: ${idOrName}`);
    return this.#docker.getContainer(idOrName);
  }

  /** Errors become DriverErrors here, and nothing waits for ever: an engine that breaks off in an answer leaves its promise open. */
  async #call<T>(
    doing: string,
    request: (signal: AbortSignal) => Promise<T>,
    timeoutMs = this.#requestTimeoutMs,
  ): Promise<T> {
    const abort = new AbortController();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        const error = new DOMException(`no answer within ${timeoutMs} ms`, 'TimeoutError');
        reject(error);
        abort.abort(error);
      }, timeoutMs);
    });
    try {
      return await Promise.race([request(abort.signal), late]);
    } catch (cause) {
      throw toDriverError(cause, doing);
    } finally {
      clearTimeout(timer);
    }
  }

  /** As `#call`, where some HTTP statuses mean that it is so already. */
  async #unless(
    statuses: readonly number[],
    doing: string,
    request: (signal: AbortSignal) => Promise<unknown>,
    timeoutMs?: number,
  ): Promise<void> {
    try {
      await this.#call(doing, request, timeoutMs);
    } catch (error) {
      const status = error instanceof DriverError ? statusOf(error.cause) : undefined;
      // Its removal is under way, by somebody else: as good as done.
      const removing =
        status === 409 && error instanceof Error && /removal .* already in progress/i.test(error.message);
      if (!removing && !statuses.includes(status ?? 0)) throw error;
    }
  }

  /** True: something was there, and is gone. What the engine knows to run is no leftover. */
  async #killLeftover(id: string): Promise<boolean> {
    const container = await this.inspect(id);
    return container?.pid === 0 && (await killLeftoverTask(container.id));
  }

  /** As `#call`; an error does not count when the container is in that state all the same. */
  async #unlessState(
    state: EngineContainer['state'],
    id: string,
    doing: string,
    request: (signal: AbortSignal) => Promise<unknown>,
  ): Promise<void> {
    try {
      await this.#call(doing, request);
    } catch (error) {
      const now = await this.inspect(id);
      if (now?.state !== state) throw error;
    }
  }
}

const statusOf = (cause: unknown): number | undefined => {
  const status: unknown = typeof cause === 'object' && cause !== null ? Reflect.get(cause, 'statusCode') : undefined;
  return typeof status === 'number' ? status : undefined;
};

function checkImage(image: string): void {
  if (!imagePattern.test(image)) throw new DriverError('invalid', `not the name of an image: ${JSON.stringify(image)}`);
}
