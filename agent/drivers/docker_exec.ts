import type { Duplex, Readable } from 'node:stream';
import type Docker from 'dockerode';
import { toDriverError } from './docker_errors.ts';
import { seconds } from './docker_events.ts';
import { demultiplex, raw } from './docker_streams.ts';
import { DriverError, type EngineExec, type EngineOutput, type ExecOptions, type LogOptions } from './driver.ts';
import { endProcessTree, findLeader, type Leader } from './process_tree.ts';

/** See Driver.logs. */
export async function openLogs(container: Docker.Container, options: LogOptions): Promise<EngineOutput> {
  const { Config: config } = await container.inspect();
  const request = {
    stdout: options.stdout,
    stderr: options.stderr,
    timestamps: options.timestamps,
    ...(options.tailLines !== undefined && { tail: options.tailLines }),
    // As with events, a fraction of a second is taken.
    ...(options.sinceMs !== undefined && { since: seconds(options.sinceMs) as unknown as number }),
  };
  // The client gives a stream for the one, and a buffer of it all for the other: only the first is of use, whether it follows or not.
  const stream = (await (options.follow
    ? container.logs({ ...request, follow: true })
    : unfollowed(container, request))) as Readable;
  return {
    chunks: config.Tty ? raw(stream) : demultiplex(stream),
    close: () => stream.destroy(),
  };
}

/** A log up to now, as a stream. The client reads the whole into memory unless it is told to follow, so it is asked past that. */
function unfollowed(container: Docker.Container, options: object): Promise<Readable> {
  return new Promise((resolve, reject) => {
    container.modem.dial(
      {
        path: `/containers/${container.id}/logs?`,
        method: 'GET',
        isStream: true,
        statusCodes: { 200: true, 404: 'no such container', 500: 'server error' },
        options: { ...options, follow: false },
      },
      (error: unknown, stream: unknown) => (error ? reject(error) : resolve(stream as Readable)),
    );
  });
}

const pollMs = 10;
const settleMs = 5_000;
const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** See Driver.exec. */
export async function openExec(container: Docker.Container, options: ExecOptions): Promise<EngineExec> {
  const target = await container.inspect();
  if (!target.State.Running || target.State.Paused) {
    throw new DriverError('not-running', `the container is ${target.State.Status}`);
  }
  const exec = await container.exec({
    Cmd: [...options.command],
    AttachStdin: options.stdin,
    AttachStdout: true,
    AttachStderr: true,
    Tty: options.tty,
    Env: [...options.env],
    ...(options.workingDir && { WorkingDir: options.workingDir }),
    ...(options.user && { User: options.user }),
  });
  const socket = await exec.start({ hijack: true, stdin: true, Tty: options.tty });
  const session = new DockerExec(exec, socket, options.tty);
  // Now or never: the engine forgets a command with a terminal, while it runs, as soon as nobody listens to it.
  await session.findProcess(target.State.Pid);
  if (!options.stdin) session.endInput();
  if (options.tty && options.size) {
    // A size that does not get through is a smaller window, and no reason not to run.
    await session.resize(options.size).catch(() => undefined);
  }
  return session;
}

class DockerExec implements EngineExec {
  readonly chunks: EngineExec['chunks'];
  readonly #exec: Docker.Exec;
  readonly #socket: Duplex;
  #leader: Leader | undefined;
  #finished = false;
  #closed = false;

  constructor(exec: Docker.Exec, socket: Duplex, tty: boolean) {
    this.#exec = exec;
    this.#socket = socket;
    // Errors reach the reader of `chunks`; without a listener one after its end would end the process.
    socket.on('error', () => undefined);
    this.chunks = tty ? raw(socket) : demultiplex(socket);
  }

  /** Remembers which process it is, to end it should nobody listen any more. */
  async findProcess(containerPid: number): Promise<void> {
    const until = Date.now() + settleMs;
    for (;;) {
      const { Running: running, ExitCode: exitCode, Pid: pid } = await this.#inspect();
      if (pid > 0) {
        this.#leader = await findLeader(pid, containerPid);
        return;
      }
      if ((!running && exitCode !== null) || Date.now() > until) return;
      await pause(pollMs);
    }
  }

  async write(data: Uint8Array): Promise<void> {
    const socket = this.#socket;
    if (socket.destroyed || socket.writableEnded) return;
    if (socket.write(data)) return;
    await new Promise<void>((resolve) => {
      const done = () => {
        socket.off('drain', done);
        socket.off('close', done);
        resolve();
      };
      socket.on('drain', done);
      socket.on('close', done);
    });
  }

  endInput(): void {
    if (!this.#socket.destroyed) this.#socket.end();
  }

  async resize({ columns, rows }: { readonly columns: number; readonly rows: number }): Promise<void> {
    const until = Date.now() + settleMs;
    for (;;) {
      try {
        await this.#exec.resize({ h: rows, w: columns });
        return;
      } catch (cause) {
        // It has been asked to start, and may not have got there yet.
        if (this.#closed || Date.now() > until || (await this.#ended()))
          throw toDriverError(cause, 'resize the terminal');
        await pause(pollMs);
      }
    }
  }

  async exitCode(): Promise<number> {
    const until = Date.now() + settleMs;
    for (;;) {
      const { Running: running, ExitCode: exitCode } = await this.#inspect();
      if (!running && exitCode !== null) {
        this.#finished = true;
        return exitCode;
      }
      // The output may be closed by a process that goes on; its exit code will not come.
      if (Date.now() > until) throw new DriverError('other', 'the command has closed its output and goes on running');
      await pause(pollMs);
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.destroy();
    // What a command that has ended left running on purpose is the container's.
    if (this.#leader && !this.#finished) void endProcessTree(this.#leader);
  }

  async #ended(): Promise<boolean> {
    const { Running: running, ExitCode: exitCode } = await this.#inspect();
    return !running && exitCode !== null;
  }

  async #inspect(): Promise<Docker.ExecInspectInfo> {
    try {
      return await this.#exec.inspect();
    } catch (cause) {
      throw toDriverError(cause, 'inspect the command');
    }
  }
}
