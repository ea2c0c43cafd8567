import type { Server } from 'node:http';
import type { Http2Server } from 'node:http2';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Logger } from 'pino';
import { networkOf } from './domain/ip.ts';

/** How long a new connection may say nothing. */
const firstByteTimeoutMs = 10_000;
/** What every HTTP/2 connection begins with, as far as it takes to tell it from HTTP/1.1: `PRI * HTTP/2.0`. */
const http2Preface = Buffer.from('PRI');

/** The part of all connections that one network may have: there is always room for somebody else. */
const shareOfOne = 3 / 4;

/** The connections of a server, of which one network has no more than its share. */
class Connections {
  readonly all = new Set<Socket>();
  readonly #byNetwork = new Map<string, number>();
  readonly #http1: Server;

  constructor(http1: Server) {
    this.#http1 = http1;
  }

  /** False: it is one too many, and has been closed. */
  take(socket: Socket): boolean {
    const network = networkOf(socket.remoteAddress ?? '');
    const count = (this.#byNetwork.get(network) ?? 0) + 1;
    if (count > Math.ceil(this.#http1.maxConnections * shareOfOne)) {
      socket.destroy();
      return false;
    }
    this.#byNetwork.set(network, count);
    this.all.add(socket);
    socket.once('close', () => {
      this.all.delete(socket);
      const left = (this.#byNetwork.get(network) ?? 0) - 1;
      if (left > 0) this.#byNetwork.set(network, left);
      else this.#byNetwork.delete(network);
    });
    return true;
  }
}

/** The connections of a server. */
export interface Sockets {
  readonly all: ReadonlySet<Socket>;
  /** Those that have not said yet what they speak. */
  readonly undecided: ReadonlyMap<unknown, Socket>;
}

/** One port for both: each connection goes to the server of the protocol that was agreed on in the handshake. */
export function shareSecureConnections(http1: Server, http2: Http2Server, log: Logger): Sockets {
  const connections = new Connections(http1);
  const undecided = new Map<string, Socket>();
  const peerOf = (socket: Socket): string => `${socket.remoteAddress} ${socket.remotePort}`;
  http1.on('connection', (socket: Socket) => {
    if (!connections.take(socket)) return;
    const peer = peerOf(socket);
    undecided.set(peer, socket);
    socket.once('close', () => {
      if (undecided.get(peer) === socket) undecided.delete(peer);
    });
    socket.setNoDelay(true);
  });
  const take = http1.listeners('secureConnection') as ((socket: TLSSocket) => void)[];
  http1.removeAllListeners('secureConnection');
  http1.on('secureConnection', (socket: TLSSocket) => {
    undecided.delete(peerOf(socket));
    if (socket.alpnProtocol === 'h2') http2.emit('connection', socket);
    else for (const listener of take) listener.call(http1, socket);
  });
  // Whoever speaks something else, or an old version, is cut off by then.
  http1.on('tlsClientError', (error: Error) => log.debug({ err: error }, 'TLS handshake failed'));
  return { all: connections.all, undecided };
}

/** One port for both: each connection goes to the server that its first bytes are for. */
export function shareConnections(http1: Server, http2: Http2Server): Sockets {
  const connections = new Connections(http1);
  const undecided = new Map<Socket, Socket>();
  // HTTP/1.1 listens, so that its own time-outs and its list of idle connections work; only who gets a connection is decided here.
  const take = http1.listeners('connection') as ((socket: Socket) => void)[];
  http1.removeAllListeners('connection');
  http1.on('connection', (socket: Socket) => {
    if (!connections.take(socket)) return;
    undecided.set(socket, socket);
    socket.once('close', () => undecided.delete(socket));
    socket.setNoDelay(true);
    socket.setTimeout(firstByteTimeoutMs, () => {
      if (undecided.has(socket)) socket.destroy();
    });
    // A connection that breaks before it has an owner is nobody's trouble.
    const ignore = (): void => undefined;
    socket.on('error', ignore);
    let head = Buffer.alloc(0);
    const gone = (): void => void socket.destroy();
    const peek = (): void => {
      const chunk = socket.read() as Buffer | null;
      if (chunk === null) return;
      head = Buffer.concat([head, chunk]);
      const length = Math.min(head.length, http2Preface.length);
      const isHttp2 = head.subarray(0, length).equals(http2Preface.subarray(0, length));
      if (isHttp2 && length < http2Preface.length) return;
      undecided.delete(socket);
      socket.off('readable', peek);
      socket.off('end', gone);
      socket.setTimeout(0);
      socket.unshift(head);
      // A peer that will say nothing more gets nothing more, over HTTP/2.
      if (isHttp2) {
        socket.allowHalfOpen = false;
        http2.emit('connection', socket);
      } else for (const listener of take) listener.call(http1, socket);
      socket.off('error', ignore);
    };
    socket.on('end', gone);
    socket.on('readable', peek);
  });
  return { all: connections.all, undecided };
}
