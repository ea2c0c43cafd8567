import { timestampMs } from '@bufbuild/protobuf/wkt';
import type { ExecuteStart, LogsRequest } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import {
  type Driver,
  DriverError,
  type EngineContainer,
  type EngineExec,
  type EngineOutput,
} from '../drivers/driver.ts';
import { type OpenStream, StreamError, type StreamSink } from '../ports.ts';

/** Opens the log of a container. Rejects with StreamError. */
export async function openLogs(
  driver: Driver,
  container: EngineContainer,
  request: LogsRequest,
  sink: StreamSink,
): Promise<OpenStream> {
  const both = !request.stdout && !request.stderr;
  const output = await opening(() =>
    driver.logs(container.id, {
      follow: request.follow,
      tailLines: request.tailLines === undefined ? undefined : Number(request.tailLines),
      sinceMs: request.sinceTime ? timestampMs(request.sinceTime) : undefined,
      timestamps: request.timestamps,
      stdout: both || request.stdout,
      stderr: both || request.stderr,
    }),
  );
  const pump = new Pump(output, sink, async () => ({}));
  return {
    write: async () => undefined,
    endInput: () => undefined,
    resize: () => undefined,
    close: () => pump.close(),
  };
}

/** Executes a command in a container. Rejects with StreamError. */
export async function openExecute(
  driver: Driver,
  container: EngineContainer,
  start: ExecuteStart,
  sink: StreamSink,
): Promise<OpenStream> {
  if (start.command.length === 0) throw new StreamError('invalid', 'there is no command to execute');
  if (container.state !== 'running') throw new StreamError('not-running', notRunning(container));
  const size = start.terminalSize;
  const exec: EngineExec = await opening(() =>
    driver.exec(container.id, {
      command: start.command,
      tty: start.tty,
      stdin: start.stdin,
      env: start.env.map((one) => `${one.name}=${one.value}`),
      workingDir: start.workingDir,
      user: start.user,
      size: size && size.columns > 0 && size.rows > 0 ? size : undefined,
    }),
  );
  const pump = new Pump(exec, sink, async () => ({ exitCode: await exec.exitCode() }));
  return {
    write: (data) => exec.write(data),
    endInput: () => exec.endInput(),
    resize(to) {
      // A window that closes while it is being resized is no error of anybody's.
      if (to.columns > 0 && to.rows > 0) exec.resize(to).catch(() => undefined);
    },
    close: () => pump.close(),
  };
}

export const notRunning = ({ name, state }: Pick<EngineContainer, 'name' | 'state'>): string =>
  `the container ${name} is ${state}: start it first`;

/** Carries output to the sink, one piece at a time: the next is read when the sink has room. */
class Pump {
  readonly #output: EngineOutput;
  #closed = false;

  constructor(output: EngineOutput, sink: StreamSink, result: () => Promise<{ exitCode?: number }>) {
    this.#output = output;
    void this.#run(sink, result);
  }

  close(): void {
    this.#closed = true;
    this.#output.close();
  }

  async #run(sink: StreamSink, result: () => Promise<{ exitCode?: number }>): Promise<void> {
    let end: Parameters<StreamSink['end']>[0];
    try {
      for await (const { stream, data } of this.#output.chunks) {
        if (this.#closed) break;
        await (stream === 'stderr' ? sink.stderr(data) : sink.stdout(data));
      }
      end = this.#closed ? { error: 'closed' } : await result();
    } catch (error) {
      end = { error: this.#closed ? 'closed' : error instanceof Error ? error.message : String(error) };
    }
    // Whoever reads has all of it: what is left (a command that closed its output and goes on) is nobody's any more.
    this.close();
    sink.end(end);
  }
}

async function opening<T>(open: () => Promise<T>): Promise<T> {
  try {
    return await open();
  } catch (cause) {
    if (!(cause instanceof DriverError)) throw cause;
    throw new StreamError(streamKind(cause), cause.message, { cause });
  }
}

function streamKind({ kind }: DriverError): StreamError['kind'] {
  switch (kind) {
    case 'not-found':
      return 'not-found';
    case 'not-running':
      return 'not-running';
    case 'engine-unavailable':
      return 'engine-unavailable';
    default:
      return 'invalid';
  }
}
