import type { ClientRequest, IncomingMessage } from 'node:http';
import { ClusterError } from '../cluster_error.ts';
import type { Connection, Connector } from './connection.ts';
import { connectionError, isCertificateError, statusError } from './errors.ts';
import { http, https } from './node_http.ts';

export interface ApiRequest {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** From the API's root, with its query: `/api/v1/pods?limit=1`. */
  readonly path: string;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Default `application/json`. */
  readonly contentType?: string;
  readonly signal?: AbortSignal;
  /** For the whole of it; of a stream, until it begins. Default 30 s. */
  readonly timeoutMs?: number;
  /** May be sent once more when a kept connection turns out to be closed. Default: GET only. */
  readonly repeatable?: boolean;
  /** The kind of object that it is about, as in paths: for its errors. */
  readonly plural?: string;
}

export interface StreamRequest extends ApiRequest {
  /** How long it may be silent; then it is broken off. Default: for ever. */
  readonly idleMs?: number;
}

export interface ApiClientOptions {
  readonly connector: Connector;
  /** Default `baykeeper-agent`. */
  readonly userAgent?: string;
  /** How long a connection may take to be made. Default 10 s: a server that works on an answer may well take longer for that. */
  readonly connectMs?: number;
}

export const defaultTimeoutMs = 30_000;
/** No answer that is read as a whole is larger. */
const maxBodyBytes = 64 * 1024 * 1024;
const maxErrorBytes = 256 * 1024;

/**
 * Requests to a Kubernetes API: JSON over kept connections. Rejects with ClusterError and nothing else. What was refused with 401, or could not
 * be sent because the server's certificate was not good, is tried once more when there are other credentials on this machine by now.
 */
export class ApiClient {
  readonly #connector: Connector;
  readonly #userAgent: string;
  readonly #connectMs: number;
  readonly #closing = new AbortController();
  readonly #underWay = new UnderWay();

  constructor({ connector, userAgent = 'baykeeper-agent', connectMs = 10_000 }: ApiClientOptions) {
    this.#connector = connector;
    this.#userAgent = userAgent;
    this.#connectMs = connectMs;
  }

  get target(): string {
    return this.#connector.target;
  }

  /** Aborts when everything is to end. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  /** Resolves to the JSON of a success. */
  async request<T>(options: ApiRequest): Promise<T> {
    const text = await this.#read(options, maxBodyBytes);
    try {
      return (text ? JSON.parse(text) : {}) as T;
    } catch (cause) {
      throw new ClusterError('other', 'the API server answered with something that is no JSON', { cause });
    }
  }

  /** As `request`, for what answers with words. */
  async text(options: ApiRequest): Promise<string> {
    return await this.#read(options, maxErrorBytes);
  }

  /**
   * Resolves when a success begins. `signal` ends the stream as well: then, and when it breaks off or is silent for too long, reading it
   * throws. Destroy it when it is not read to its end.
   */
  async stream(options: StreamRequest): Promise<IncomingMessage> {
    const response = await this.#within(options, (deadline) => this.#send(options, deadline));
    const { signal, idleMs } = options;
    const end = () => response.destroy(new ClusterError('cancelled', 'called off'));
    const signals = signal ? [signal, this.closing] : [this.closing];
    for (const one of signals) one.addEventListener('abort', end, { once: true });
    response.once('close', () => {
      for (const one of signals) one.removeEventListener('abort', end);
    });
    // Reading it throws; without a listener an error that comes before or after that would end the process.
    response.on('error', () => undefined);
    if (idleMs !== undefined) {
      const { socket } = response;
      const silent = () => {
        this.#connector.distrust();
        response.destroy(new ClusterError('timeout', `nothing came for ${idleMs / 1000} s`));
      };
      socket.setTimeout(idleMs).on('timeout', silent);
      // The socket may be used again.
      response.once('close', () => socket.off('timeout', silent));
    }
    if (signals.some((one) => one.aborted)) end();
    return response;
  }

  /** For what is not plain HTTP: calls `attempt` with the way in, and once more with new credentials when it says 401. */
  async connected<T>(
    attempt: (connection: Connection, headers: Record<string, string | string[]>) => Promise<T>,
  ): Promise<T> {
    let connection = this.#connector.fresh ?? (await this.#connector.current());
    for (let tries = 0; ; tries += 1) {
      try {
        return await attempt(connection, { 'User-Agent': this.#userAgent, ...connection.headers });
      } catch (cause) {
        const refused = isCertificateError(cause) || (cause instanceof ClusterError && cause.status === 401);
        const renewed = refused && tries === 0 ? await this.#connector.renew(connection) : undefined;
        if (!renewed) throw connectionError(cause, this.target);
        connection = renewed;
      }
    }
  }

  /** Everything that is under way is called off. */
  close(): void {
    this.#closing.abort();
    this.#connector.close();
  }

  #read(options: ApiRequest, maxBytes: number): Promise<string> {
    return this.#within(options, async (deadline) => readBody(await this.#send(options, deadline), maxBytes));
  }

  /** Rejects with ClusterError, and in time whatever becomes of the work: a credential plugin cannot be called off. */
  async #within<T>(options: ApiRequest, work: (deadline: Deadline) => Promise<T>): Promise<T> {
    const deadline = new Deadline(options, {
      target: this.target,
      underWay: this.#underWay,
      closing: this.closing,
      onTimeout: () => this.#connector.distrust(),
    });
    try {
      deadline.check();
      return await new Promise<T>((resolve, reject) => {
        deadline.onEnd = reject;
        work(deadline).then(resolve, reject);
      });
    } catch (cause) {
      throw deadline.explain(cause);
    } finally {
      deadline.done();
    }
  }

  async #send(options: ApiRequest, deadline: Deadline): Promise<IncomingMessage> {
    const { method, path, contentType = 'application/json', plural } = options;
    const body = options.body === undefined ? undefined : Buffer.from(JSON.stringify(options.body));
    const repeatable = options.repeatable ?? method === 'GET';
    return await this.connected(async (connection, headers) => {
      const all = {
        ...headers,
        Accept: 'application/json',
        ...(body && { 'Content-Type': contentType, 'Content-Length': String(body.byteLength) }),
      };
      for (let tries = 0; ; tries += 1) {
        deadline.check();
        const message = { method, path, headers: all, body, connectMs: this.#connectMs };
        const { response, error, reused } = await once(connection, message, deadline);
        if (response) {
          const status = response.statusCode ?? 0;
          if (status >= 200 && status < 300) return response;
          const answer = await readBody(response, maxErrorBytes);
          throw statusError({ status, headers: response.headers, body: answer, plural });
        }
        // The server closed it just as we began to use it again.
        if (!reused || !repeatable || tries > 2) throw error;
      }
    });
  }
}

interface Outcome {
  readonly response?: IncomingMessage;
  readonly error?: Error;
  /** The connection had been used before, and broke before anything came back. */
  readonly reused: boolean;
}

interface Message {
  readonly method: string;
  readonly path: string;
  readonly headers: Record<string, string | string[]>;
  readonly body: Buffer | undefined;
  readonly connectMs: number;
}

function once(connection: Connection, message: Message, deadline: Deadline): Promise<Outcome> {
  const { method, path, headers, body, connectMs } = message;
  const { protocol, hostname, port, basePath } = connection.address;
  return new Promise((resolve) => {
    const request: ClientRequest = (protocol === 'http:' ? http : https).request({
      hostname,
      port,
      path: `${basePath}${path}`,
      method,
      headers,
      agent: connection.agent,
    });
    deadline.cancel = (error) => request.destroy(error);
    if (!request.reusedSocket) limitConnecting(request, connectMs);
    request.once('response', (response) => resolve({ response, reused: request.reusedSocket }));
    request.on('error', (error: NodeJS.ErrnoException) => {
      const broke = error.code === 'ECONNRESET' || error.code === 'EPIPE';
      resolve({ error, reused: request.reusedSocket && broke && !deadline.over });
    });
    request.end(body);
  });
}

/** Whoever does not take a connection, or hangs in the middle of it, is away: nothing of the request has been sent. */
function limitConnecting(request: ClientRequest, ms: number): void {
  const timer = setTimeout(() => request.destroy(new Error(`it took no connection within ${ms / 1000} s`)), ms);
  const done = () => clearTimeout(timer);
  request.once('socket', (socket) => socket.once(request.protocol === 'https:' ? 'secureConnect' : 'connect', done));
  // By way of a proxy the connection may be there already.
  for (const event of ['finish', 'response', 'close']) request.once(event, done);
}

/** Requests by the signals that end them. A signal has one listener for all of its requests, as there are many, and most are short. */
class UnderWay {
  readonly #bySignal = new WeakMap<AbortSignal, Set<Deadline>>();

  add(signal: AbortSignal, deadline: Deadline): void {
    let all = this.#bySignal.get(signal);
    if (!all) {
      const ended = new Set<Deadline>();
      signal.addEventListener('abort', () => ended.forEach((one) => void one.abort()), { once: true });
      this.#bySignal.set(signal, ended);
      all = ended;
    }
    all.add(deadline);
    if (signal.aborted) deadline.abort();
  }

  remove(signal: AbortSignal, deadline: Deadline): void {
    this.#bySignal.get(signal)?.delete(deadline);
  }
}

interface DeadlineContext {
  readonly closing: AbortSignal;
  readonly underWay: UnderWay;
  readonly target: string;
  readonly onTimeout: () => void;
}

/** Ends a request that takes too long, or that its caller does not want any more, and knows afterwards that this is why. */
class Deadline {
  /** Ends what is under way. */
  cancel: (error: Error) => void = () => undefined;
  /** Told when it is over. */
  onEnd: (reason: ClusterError) => void = () => undefined;
  readonly #context: DeadlineContext;
  readonly #signal: AbortSignal | undefined;
  readonly #timer: NodeJS.Timeout;
  #reason: ClusterError | undefined;

  constructor({ signal, timeoutMs = defaultTimeoutMs }: ApiRequest, context: DeadlineContext) {
    const { underWay, closing, target, onTimeout } = context;
    this.#context = context;
    this.#signal = signal;
    this.#timer = setTimeout(() => {
      onTimeout();
      this.#end(new ClusterError('timeout', `the API server at ${target} did not answer within ${timeoutMs / 1000} s`));
    }, timeoutMs);
    underWay.add(closing, this);
    if (signal) underWay.add(signal, this);
  }

  get over(): boolean {
    return this.#reason !== undefined;
  }

  check(): void {
    if (this.#reason) throw this.#reason;
  }

  abort(): void {
    this.#end(new ClusterError('cancelled', 'called off'));
  }

  explain(cause: unknown): ClusterError {
    return this.#reason ?? connectionError(cause, this.#context.target);
  }

  done(): void {
    const { underWay, closing } = this.#context;
    clearTimeout(this.#timer);
    underWay.remove(closing, this);
    if (this.#signal) underWay.remove(this.#signal, this);
    this.cancel = () => undefined;
  }

  #end(reason: ClusterError): void {
    this.#reason ??= reason;
    this.cancel(this.#reason);
    this.onEnd(this.#reason);
  }
}

/** By listeners, as iterating over a stream costs several times as much as the rest of a small request. */
function readBody(response: IncomingMessage, maxBytes: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const pieces: Buffer[] = [];
    let size = 0;
    response.on('data', (piece: Buffer) => {
      size += piece.byteLength;
      if (size > maxBytes) {
        const limit = `${maxBytes / 1024 / 1024} MB`;
        response.destroy(new ClusterError('other', `the API server's answer is larger than ${limit}`));
        return;
      }
      pieces.push(piece);
    });
    response.once('end', () =>
      resolve((pieces.length === 1 ? pieces[0] : Buffer.concat(pieces, size))?.toString() ?? ''),
    );
    response.on('error', reject);
    response.once('close', () => {
      // An error costs its stack, and every answer is closed.
      if (!response.readableEnded) reject(new Error('the connection was closed in the middle of an answer'));
    });
  });
}
