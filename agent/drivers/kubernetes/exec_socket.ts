import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { WebSocketHandler } from '@kubernetes/client-node/dist/web-socket-handler.js';
import { createWebSocketStream, WebSocket } from 'ws';
import { ClusterError } from '../cluster_error.ts';
import type { ExecTransport } from './exec_transport.ts';
import type { ApiClient } from './http.ts';
import { refusedUpgrade } from './refused_upgrade.ts';

/**
 * A command's streams over a WebSocket: each message begins with the number of a channel. The client library's own handler reads as
 * fast as the socket brings, whoever consumes it; here `ws` reads as fast as it is consumed.
 */

/** `halfClosing`: of Kubernetes 1.30 and newer; with them the input can be ended without the rest. */
export const protocols = { halfClosing: ['v5.channel.k8s.io'], others: ['v4.channel.k8s.io'] } as const;
const handshakeTimeoutMs = 30_000;
/** Kubelets send pieces of 32 KB. */
const maxMessageBytes = 4 * 1024 * 1024;
/** What lies between may cut off who is silent. */
const pingMs = 30_000;
const farewellMs = 2_000;
/** Of a terminal: end of input, as a user types it. */
const endOfTransmission = Uint8Array.of(4);

/** Rejects with ClusterError. */
export async function openExecSocket(
  client: ApiClient,
  path: string,
  offered: readonly string[],
): Promise<ExecTransport> {
  return await client.connected(async ({ server, upgradeAgent: agent }, headers) => {
    const socket = new WebSocket(`${server.replace(/^http/, 'ws')}${path}`, [...offered], {
      agent,
      headers: headers as Record<string, string>,
      maxPayload: maxMessageBytes,
      perMessageDeflate: false,
    });
    // At once: what comes with the answer to the handshake must not be lost.
    const stream = createWebSocketStream(socket, { readableObjectMode: true });
    await opened(socket, stream);
    return new SocketTransport(socket, stream);
  });
}

function opened(socket: WebSocket, stream: Duplex): Promise<void> {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => {
      reject(new ClusterError('timeout', 'the API server did not answer in time'));
      socket.terminate();
    }, handshakeTimeoutMs);
    // Reading it throws; an error before or after that is told here, or of no interest.
    stream.on('error', () => undefined);
    socket.once('error', reject);
    socket.once('close', () => {
      clearTimeout(late);
      reject(new ClusterError('unavailable', 'the API server closed the connection'));
    });
    socket.once('open', () => {
      clearTimeout(late);
      resolve();
    });
    socket.once('unexpected-response', (request, response: IncomingMessage) => {
      refusedUpgrade(response)
        .then(reject, reject)
        .finally(() => request.destroy());
    });
  });
}

class SocketTransport implements ExecTransport {
  readonly frames: ExecTransport['frames'];
  readonly #socket: WebSocket;
  readonly #stream: Duplex;
  readonly #pings: NodeJS.Timeout;

  constructor(socket: WebSocket, stream: Duplex) {
    this.#socket = socket;
    this.#stream = stream;
    this.#pings = setInterval(() => {
      if (socket.readyState === WebSocket.OPEN) socket.ping();
    }, pingMs);
    this.#pings.unref();
    socket.once('close', () => clearInterval(this.#pings));
    this.frames = read(stream);
  }

  send(channel: number, data: Uint8Array): Promise<void> {
    const message = Buffer.allocUnsafe(data.byteLength + 1);
    message.writeUint8(channel);
    message.set(data, 1);
    return new Promise((resolve) => {
      if (this.#socket.readyState !== WebSocket.OPEN) return resolve();
      // What goes wrong ends the stream, and is seen by who reads it.
      this.#socket.send(message, () => resolve());
    });
  }

  closeInput(): void {
    const { StdinStream, CloseStream } = WebSocketHandler;
    if (WebSocketHandler.supportsClose(this.#socket.protocol)) void this.send(CloseStream, Uint8Array.of(StdinStream));
    // Others are used for terminals only.
    else void this.send(StdinStream, endOfTransmission);
  }

  close(): void {
    const socket = this.#socket;
    clearInterval(this.#pings);
    // Whoever reads is at the end; what still comes is dropped while the farewell goes out, after what was sent last.
    socket.removeAllListeners('message');
    this.#stream.push(null);
    socket.resume();
    socket.close();
    const late = setTimeout(() => socket.terminate(), farewellMs);
    late.unref();
    socket.once('close', () => clearTimeout(late));
  }
}

async function* read(stream: Duplex): AsyncGenerator<{ channel: number; data: Uint8Array }> {
  for await (const message of stream as AsyncIterable<Uint8Array | string>) {
    // A text message is against the protocol.
    if (typeof message === 'string')
      throw new ClusterError('other', 'the API server sent text where bytes were expected');
    const [channel] = message;
    if (channel !== undefined) yield { channel, data: message.subarray(1) };
  }
}
