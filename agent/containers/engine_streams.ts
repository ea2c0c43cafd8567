import { timestampMs } from '@bufbuild/protobuf/wkt';
import type { ExecuteStart, LogsRequest } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { type Driver, DriverError, type EngineContainer } from '../drivers/driver.ts';
import { type OpenStream, StreamError, type StreamSink } from '../ports.ts';
import { executeStream, outputStream } from '../stream_pump.ts';

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
  return outputStream(output, sink);
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
  const exec = await opening(() =>
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
  return executeStream(exec, sink);
}

export const notRunning = ({ name, state }: Pick<EngineContainer, 'name' | 'state'>): string =>
  `the container ${name} is ${state}: start it first`;

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
