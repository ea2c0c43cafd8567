import type { X509Certificate } from 'node:crypto';
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type ClientSessionRequestOptions,
  connect,
  type OutgoingHttpHeaders,
} from 'node:http2';
import { text } from 'node:stream/consumers';
import { TLSSocket } from 'node:tls';

/** How often a peer that says nothing is asked whether it is there, while something is expected of it, and how long it has to answer. */
const pingIntervalMs = 20_000;
const pingTimeoutMs = 10_000;

/** An error with a system's code, as sockets throw them. */
class ConnectionError extends Error {
  readonly code: string;
  constructor(message: string, code: string) {
    super(message);
    this.name = this.constructor.name;
    this.code = code;
  }
}

/**
 * One HTTP/2 connection, made anew when it is gone. It counts as open when the peer has sent its settings: so a port that takes connections
 * and says nothing, or something else than HTTP/2, is found out before a stream that may be silent for hours is opened on it. (The manager of
 * connect-node takes the socket's word for it; and its pings of closed sessions end the process.)
 */
export class Connection {
  readonly authority: string;
  readonly #ca: string;
  #session: ClientHttp2Session | undefined;

  /** @param ca Whom to trust over https, as PEM. Empty: whom the system trusts. */
  constructor(server: string, ca: string) {
    this.authority = new URL(server).origin;
    this.#ca = ca;
  }

  /** Connects where there is no connection. Rejects with the socket's error, with ETIMEDOUT after `timeoutMs`. */
  async open(timeoutMs: number): Promise<void> {
    const current = this.#session;
    if (current && !current.destroyed && !current.closed) return;
    const session = connect(this.authority, { minVersion: 'TLSv1.2', ...(this.#ca ? { ca: this.#ca } : {}) });
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        session.on('error', reject);
        session.once('close', () => reject(new ConnectionError('the connection was closed', 'ECONNRESET')));
        session.once('remoteSettings', () => resolve());
        timer = setTimeout(() => reject(new ConnectionError('no answer', 'ETIMEDOUT')), timeoutMs);
      });
    } catch (cause) {
      session.destroy();
      throw cause;
    } finally {
      clearTimeout(timer);
    }
    session.on('goaway', () => session.close());
    keepAlive(session);
    this.#session = session;
  }

  async request(
    method: string,
    path: string,
    headers: OutgoingHttpHeaders,
    options: Omit<ClientSessionRequestOptions, 'signal'>,
  ): Promise<ClientHttp2Stream> {
    if (!this.#session) throw new ConnectionError('not connected', 'ECONNRESET');
    return this.#session.request({ ...headers, ':method': method, ':path': path }, options);
  }

  /** Of the peer that it is connected to, which has been verified. Undefined: there is none, or no TLS. */
  get peerCertificate(): X509Certificate | undefined {
    const socket = this.#session?.destroyed === false ? this.#session.socket : undefined;
    return socket instanceof TLSSocket ? socket.getPeerX509Certificate() : undefined;
  }

  /** A page of the server, over the connection that there is. Rejects when there is none, and when the answer is another than 200. */
  async get(path: string, signal: AbortSignal): Promise<string> {
    if (!this.#session) throw new ConnectionError('not connected', 'ECONNRESET');
    const stream = this.#session.request({ ':path': path }, { signal });
    const status = new Promise<unknown>((resolve) => {
      stream.once('response', (headers) => resolve(headers[':status']));
      stream.once('close', () => resolve(undefined));
    });
    const page = await text(stream);
    if ((await status) !== 200) throw new ConnectionError(`${path}: the answer is ${await status}`, 'EPROTO');
    return page;
  }

  /** Pings tell whether the peer is there; nothing is to be kept of what it sends. */
  notifyResponseByteRead(): void {}

  /** Ends the connection and everything on it. */
  close(): void {
    this.#session?.destroy();
    this.#session = undefined;
  }
}

/** Destroys a session whose peer has gone without a word. */
function keepAlive(session: ClientHttp2Session): void {
  let late: NodeJS.Timeout | undefined;
  const timer = setInterval(() => {
    if (session.destroyed || late) return;
    late = setTimeout(() => session.destroy(new ConnectionError('no answer to pings', 'ETIMEDOUT')), pingTimeoutMs);
    late.unref();
    session.ping(() => {
      clearTimeout(late);
      late = undefined;
    });
  }, pingIntervalMs);
  timer.unref();
  session.once('close', () => {
    clearInterval(timer);
    clearTimeout(late);
  });
}
