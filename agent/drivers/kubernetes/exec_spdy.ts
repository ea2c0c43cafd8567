import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { ClusterError } from '../cluster_error.ts';
import type { Connection } from './connection.ts';
import { channels, type ExecTransport } from './exec_transport.ts';
import type { ApiClient } from './http.ts';
import { http, https } from './node_http.ts';
import { refusedUpgrade } from './refused_upgrade.ts';

/**
 * A command's streams over SPDY/3.1, as kubectl has always had them: the one way to end the input of a command before Kubernetes 1.30. A WebSocket of
 * these times has no such message, so that `sort` in a pipe would wait for ever. There is no library for it that is kept any more; what
 * is needed of the protocol is little, as Kubernetes' servers (moby/spdystream) know neither its flow control nor insist on its
 * compression: back-pressure is that of the connection, and headers are sent as they are.
 */

const protocol = 'v4.channel.k8s.io';
const handshakeTimeoutMs = 30_000;
const pingMs = 30_000;
/** Data is passed on in the pieces in which it comes; this is for what has to be read as a whole. */
const maxControlBytes = 64 * 1024;

const frame = { synStream: 1, reset: 3, ping: 6 } as const;
const fin = 1;

/** Streams by the numbers that a client gives them. In this order, as kubectl makes them. */
const streamTypes = [
  { id: 1, channel: channels.status, type: 'error' },
  { id: 3, channel: channels.stdin, type: 'stdin' },
  { id: 5, channel: channels.stdout, type: 'stdout' },
  { id: 7, channel: channels.stderr, type: 'stderr' },
] as const;

/** For a command with input and without a terminal. Rejects with ClusterError. */
export async function openExecSpdy(client: ApiClient, path: string): Promise<ExecTransport> {
  return await client.connected(async (connection, headers) => {
    const socket = await upgrade(connection, path, headers);
    return new SpdyTransport(socket);
  });
}

function upgrade(
  { server, upgradeAgent: agent }: Connection,
  path: string,
  headers: Record<string, string | string[]>,
): Promise<Duplex> {
  const url = new URL(`${server}${path}`);
  return new Promise((resolve, reject) => {
    const request = (url.protocol === 'http:' ? http : https).request(url, {
      method: 'POST',
      agent,
      headers: { ...headers, Connection: 'Upgrade', Upgrade: 'SPDY/3.1', 'X-Stream-Protocol-Version': protocol },
    });
    const late = setTimeout(() => {
      reject(new ClusterError('timeout', 'the API server did not answer in time'));
      request.destroy();
    }, handshakeTimeoutMs);
    request.once('close', () => clearTimeout(late));
    // Also those that come after it was given up.
    request.on('error', reject);
    request.once('upgrade', (response, socket, head) => {
      clearTimeout(late);
      if (response.headers['x-stream-protocol-version'] !== protocol) {
        socket.destroy();
        return reject(new ClusterError('other', `the API server does not speak ${protocol}`));
      }
      if (head.byteLength > 0) socket.unshift(head);
      resolve(socket);
    });
    request.once('response', (response: IncomingMessage) => {
      refusedUpgrade(response)
        .then(reject, reject)
        .finally(() => request.destroy());
    });
    request.end();
  });
}

class SpdyTransport implements ExecTransport {
  readonly frames: ExecTransport['frames'];
  readonly #socket: Duplex;
  readonly #pings: NodeJS.Timeout;
  #pingId = 1;

  constructor(socket: Duplex) {
    this.#socket = socket;
    // Reading it throws; an error before or after that is of no interest.
    socket.on('error', () => undefined);
    socket.write(Buffer.concat(streamTypes.map(({ id, type }, index) => synStream(id, type, index === 0))));
    this.#pings = setInterval(() => {
      this.#write(control(frame.ping, uint32(this.#pingId)));
      this.#pingId += 2;
    }, pingMs);
    this.#pings.unref();
    socket.once('close', () => clearInterval(this.#pings));
    this.frames = this.#read();
  }

  send(channel: number, bytes: Uint8Array): Promise<void> {
    const stream = streamTypes.find((one) => one.channel === channel);
    return stream ? this.#write(data(stream.id, bytes)) : Promise.resolve();
  }

  closeInput(): void {
    void this.#write(data(streamTypes[1].id, new Uint8Array(0), fin));
  }

  close(): void {
    clearInterval(this.#pings);
    this.#socket.destroy();
  }

  #write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      if (this.#socket.destroyed) return resolve();
      this.#socket.write(bytes, () => resolve());
    });
  }

  async *#read(): AsyncGenerator<{ channel: number; data: Uint8Array }> {
    for await (const { type, id, bytes } of readFrames(this.#socket)) {
      if (type === 'data') {
        const stream = streamTypes.find((one) => one.id === id);
        if (stream) yield { channel: stream.channel, data: bytes };
      } else if (type === frame.ping && id % 2 === 0) void this.#write(control(frame.ping, uint32(id)));
      // Of the others, what is left when the command has ended is called off.
      else if (type === frame.reset && id === streamTypes[0].id)
        throw new ClusterError('unavailable', 'the node refused a stream of the command');
    }
  }
}

interface Frame {
  readonly type: 'data' | number;
  /** Of the stream; of a ping, its own. */
  readonly id: number;
  readonly bytes: Uint8Array;
}

/** Throws as the socket does, and when what comes is no SPDY. */
export async function* readFrames(socket: AsyncIterable<Uint8Array>): AsyncGenerator<Frame> {
  let held: Buffer = Buffer.alloc(0);
  /** Of the data frame that has begun. */
  let left = 0;
  let id = 0;
  for await (const chunk of socket) {
    held =
      held.byteLength > 0
        ? Buffer.concat([held, chunk])
        : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    for (;;) {
      if (left > 0) {
        if (held.byteLength === 0) break;
        const bytes = held.subarray(0, left);
        held = held.subarray(bytes.byteLength);
        left -= bytes.byteLength;
        yield { type: 'data', id, bytes };
        continue;
      }
      if (held.byteLength < 8) break;
      const isControl = (held[0] ?? 0) >= 0x80;
      const length = held.readUIntBE(5, 3);
      if (!isControl) {
        id = held.readUInt32BE(0);
        left = length;
        held = held.subarray(8);
        continue;
      }
      if (held.readUInt16BE(0) !== 0x8003 || length > maxControlBytes) {
        throw new ClusterError('other', 'the node sent something that is no SPDY/3.1');
      }
      if (held.byteLength < 8 + length) break;
      const bytes = held.subarray(8, 8 + length);
      yield { type: held.readUInt16BE(2), id: length >= 4 ? bytes.readUInt32BE(0) & 0x7fffffff : 0, bytes };
      held = held.subarray(8 + length);
    }
  }
}

const uint32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};

export function data(id: number, bytes: Uint8Array, flags = 0): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt32BE(id);
  header.writeUIntBE(bytes.byteLength, 5, 3);
  header.writeUInt8(flags, 4);
  return Buffer.concat([header, bytes]);
}

export function control(type: number, payload: Uint8Array, flags = 0): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt16BE(0x8003);
  header.writeUInt16BE(type, 2);
  header.writeUInt8(flags, 4);
  header.writeUIntBE(payload.byteLength, 5, 3);
  return Buffer.concat([header, payload]);
}

/** An empty block: what came before it is to be passed on. */
const flush = Buffer.of(0, 0, 0, 0xff, 0xff);

/** Opens a stream. Its one header says what it carries; headers of all streams together are one zlib stream, here of stored blocks. */
function synStream(id: number, streamType: string, first: boolean): Buffer {
  const name = Buffer.from('streamtype');
  const value = Buffer.from(streamType);
  const block = Buffer.concat([uint32(1), uint32(name.byteLength), name, uint32(value.byteLength), value]);
  const stored = Buffer.alloc(5);
  stored.writeUInt16LE(block.byteLength, 1);
  stored.writeUInt16LE(~block.byteLength & 0xffff, 3);
  const begin = first ? [Buffer.of(0x78, 0x01)] : [];
  const head = [uint32(id), uint32(0), Buffer.alloc(2)];
  return control(frame.synStream, Buffer.concat([...head, ...begin, stored, block, flush]));
}
