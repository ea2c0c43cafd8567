import type { V1Status } from '@kubernetes/client-node/dist/gen/models/V1Status.js';
import { type PodExecOptions, type PodRef, resourceTypes } from '../cluster_driver.ts';
import { ClusterError } from '../cluster_error.ts';
import type { EngineExec, OutputChunk } from '../driver.ts';
import { findContainer } from './containers_of_pod.ts';
import { connectionError, statusObjectError } from './errors.ts';
import { channels, type ExecTransport } from './exec_transport.ts';
import type { ApiClient } from './http.ts';
import { objectPath } from './paths.ts';

/** No message carries more input, so that a resize gets its turn in between. */
const maxInputBytes = 32 * 1024;
const maxStatusBytes = 64 * 1024;

/** Ctrl-C and Ctrl-D. */
const interruptAndEnd = Uint8Array.of(3, 4);

/** See ClusterDriver.exec. */
export async function openExec(client: ApiClient, pod: PodRef, options: PodExecOptions): Promise<EngineExec> {
  if (options.command.length === 0) throw new ClusterError('invalid', 'there is no command to execute');
  const container = await findContainer(client, pod);
  if (!container.running) {
    throw new ClusterError('not-running', `the container ${container.name} of pod ${pod.name} is ${container.state}`);
  }
  const { namespace, name } = pod;
  const query = new URLSearchParams(options.command.map((word): [string, string] => ['command', word]));
  query.set('container', container.name);
  if (options.stdin) query.set('stdin', 'true');
  query.set('stdout', 'true');
  // Of a terminal there is one output.
  query.set(options.tty ? 'tty' : 'stderr', 'true');
  const path = `${objectPath({ type: resourceTypes.Pod, namespace, name })}/exec?${query}`;
  const exec = new PodExec(await openTransport(client, path, options), client, options.tty);
  if (options.tty && options.size) await exec.resize(options.size);
  return exec;
}

/** What carries it is loaded only now: most agents are never asked. */
async function openTransport(client: ApiClient, path: string, { stdin, tty }: PodExecOptions): Promise<ExecTransport> {
  const { openExecSocket, protocols } = await import('./exec_socket.ts');
  // Of a terminal the end of input can be typed; without one, only two of the protocols can tell it.
  if (!stdin || tty) return await openExecSocket(client, path, [...protocols.halfClosing, ...protocols.others]);
  const { openExecSpdy } = await import('./exec_spdy.ts');
  try {
    return await openExecSpdy(client, path);
  } catch (error) {
    // A cluster, or something before it, that does not know SPDY any more: such a one is new enough.
    const unknown = error instanceof ClusterError && (error.kind === 'invalid' || error.kind === 'other');
    if (!unknown) throw error;
    return await openExecSocket(client, path, protocols.halfClosing);
  }
}

class PodExec implements EngineExec {
  readonly chunks: EngineExec['chunks'];
  readonly #transport: ExecTransport;
  readonly #client: ApiClient;
  readonly #tty: boolean;
  #inputEnded = false;
  #closed = false;
  #status = '';

  constructor(transport: ExecTransport, client: ApiClient, tty: boolean) {
    this.#transport = transport;
    this.#client = client;
    this.#tty = tty;
    this.chunks = this.#read();
    client.closing.addEventListener('abort', this.#close, { once: true });
  }

  async write(data: Uint8Array): Promise<void> {
    for (let from = 0; from < data.byteLength && !this.#inputEnded && !this.#closed; from += maxInputBytes) {
      await this.#transport.send(channels.stdin, data.subarray(from, from + maxInputBytes));
    }
  }

  endInput(): void {
    if (this.#inputEnded || this.#closed) return;
    this.#inputEnded = true;
    this.#transport.closeInput();
  }

  async resize({ columns, rows }: { readonly columns: number; readonly rows: number }): Promise<void> {
    if (this.#closed) return;
    await this.#transport.send(channels.resize, Buffer.from(JSON.stringify({ Width: columns, Height: rows })));
  }

  async exitCode(): Promise<number> {
    if (!this.#status) {
      throw new ClusterError(
        'unavailable',
        'the connection to the container broke: how the command ended is not known',
      );
    }
    return exitCodeOf(this.#status);
  }

  close(): void {
    this.#close();
  }

  readonly #close = () => {
    if (this.#closed) return;
    this.#closed = true;
    this.#client.closing.removeEventListener('abort', this.#close);
    // Kubernetes has no call that ends a command. Where there is a terminal, this is what its user would type.
    if (this.#tty && !this.#status) void this.#transport.send(channels.stdin, interruptAndEnd);
    this.#transport.close();
  };

  async *#read(): AsyncGenerator<OutputChunk> {
    try {
      for await (const { channel, data } of this.#transport.frames) {
        if (this.#closed) return;
        if (channel === channels.stdout || channel === channels.stderr) {
          // Each channel begins with an empty message.
          if (data.byteLength > 0) yield { stream: channel === channels.stderr ? 'stderr' : 'stdout', data };
        } else if (channel === channels.status && data.byteLength > 0) {
          this.#status = Buffer.from(data.subarray(0, maxStatusBytes)).toString('utf8');
          // The last word.
          return;
        }
      }
    } catch (cause) {
      if (!this.#closed) throw connectionError(cause, this.#client.target);
    } finally {
      this.#close();
    }
  }
}

/** Throws ClusterError when it says of no command how it ended. */
export function exitCodeOf(text: string): number {
  let status: V1Status;
  try {
    status = JSON.parse(text);
  } catch (cause) {
    throw new ClusterError('other', 'the cluster did not say how the command ended', { cause });
  }
  if (status.status === 'Success') return 0;
  const said = status.details?.causes?.find(({ reason }) => reason === 'ExitCode')?.message;
  const code = Number(said);
  if (status.reason === 'NonZeroExitCode' && Number.isInteger(code)) return code;
  throw statusObjectError({ ...status, kind: 'Status' });
}
