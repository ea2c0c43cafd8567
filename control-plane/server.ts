import {
  createServer as createHttpServer,
  type IncomingHttpHeaders,
  type Server,
  type ServerResponse,
} from 'node:http';
import {
  constants,
  createServer as createHttp2Server,
  type Http2Server,
  Http2ServerRequest,
  Http2ServerResponse,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import { createServer as createHttpsServer } from 'node:https';
import { isIP } from 'node:net';
import type { DescMethod } from '@bufbuild/protobuf';
import { Code, ConnectError, type ContextValues, createContextValues } from '@connectrpc/connect';
import { parseTimeout as parseConnectTimeout } from '@connectrpc/connect/protocol-connect';
import { parseTimeout as parseGrpcTimeout } from '@connectrpc/connect/protocol-grpc';
import { compressionGzip } from '@connectrpc/connect-node';
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import { type AnswerLimits, Answers, holdAnswers } from './api/answers.ts';
import { cutKey, peerKey } from './api/call.ts';
import type { Api } from './api/create_api.ts';
import { createDirectUnary } from './api/direct_unary.ts';
import { Intake, type IntakeLimits } from './api/intake.ts';
import { mendUnaryAnswers } from './api/unreadable.ts';
import { type Request, type Response, serveCalls } from './call_listener.ts';
import { shareConnections, shareSecureConnections } from './connections.ts';
import { isLoopback } from './domain/ip.ts';
import { type SessionLimits, watchSession } from './http2_session.ts';
import { meter } from './metered_request.ts';
import type { ServerCertificate } from './tls/port.ts';
import { pageOfAuthorities, secureContextOf } from './tls/secure_context.ts';

/** The server cannot listen where it was told to. The message says why, and what to do. */
export class ListenError extends Error {
  override readonly name = 'ListenError';
}

/** Options of {@link startServer}. */
export interface ServerOptions extends SessionLimits {
  /** Without TLS, a name or address that is not loopback is refused. */
  readonly host: string;
  /** 0: one that is free. */
  readonly port: number;
  readonly api: Api;
  readonly registry: Registry;
  readonly log: Logger;
  /** Undefined: no TLS. Followed as it changes, without a connection being lost. */
  readonly certificate?: ServerCertificate;
  /** How long a handshake may take. Default 10 s. */
  readonly handshakeTimeoutMs?: number;
  /** Connections at a time; more are closed at once. Default 16,384. */
  readonly maxConnections?: number;
  /** Largest message taken. Default 4 MiB. */
  readonly readMaxBytes?: number;
  /** Largest message sent. Default 64 MiB. */
  readonly writeMaxBytes?: number;
  /** How much may come in at once. */
  readonly intake?: IntakeLimits;
  /** How much may wait to be taken. */
  readonly answers?: AnswerLimits;
  /** Calls at a time on one HTTP/2 connection. Default 1000. */
  readonly maxConcurrentStreams?: number;
}

/** A server that listens. */
export interface RunningServer {
  /** `http://127.0.0.1:7480`. */
  readonly url: string;
  readonly port: number;
  /** Takes nothing new, ends streams with UNAVAILABLE, lets the rest finish for `graceMs`, and then cuts what is left. Safe to repeat. */
  close(options: { readonly graceMs: number }): Promise<void>;
}

const maxHeaderBytes = 32 * 1024;
/** A misspelt field is told, not dropped. */
const jsonOptions = { ignoreUnknownFields: false };
/** Streams that a client may cancel at once, and each second for long: its connection is closed beyond that. */
const resets = { burst: 1000, perSecond: 100 };

/** Serves Connect, gRPC and gRPC-Web, over HTTP/1.1 and HTTP/2, with TLS or without, on one port. Rejects with ListenError. */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const { host, port, log, certificate } = options;
  if (!certificate) checkLoopback(host);
  const shutdown = new AbortController();
  const intake = new Intake(options.api.identify, options.intake);
  const answers = new Answers(options.answers);
  const handler = createHandler(options, shutdown.signal, intake, answers);
  const sessions = new Set<ServerHttp2Session>();
  const http2 = createSessions(options, handler, sessions, intake, answers);
  const http1 = createHttp1(options, handler);
  http1.maxConnections = options.maxConnections ?? 16_384;
  // A stream may be silent for long; what is dead shows by the connection.
  http1.timeout = 0;
  const sockets = certificate ? shareSecureConnections(http1, http2, log) : shareConnections(http1, http2);
  await listen(http1, host, port);
  const address = http1.address();
  const actualPort = typeof address === 'object' && address ? address.port : port;
  const url = `${certificate ? 'https' : 'http'}://${isIP(host) === 6 ? `[${host}]` : host}:${actualPort}`;
  log.info({ url }, 'listening');

  let closing: Promise<void> | undefined;
  const close = async (graceMs: number): Promise<void> => {
    const closed = new Promise<void>((resolve) => {
      http1.close(() => resolve());
    });
    shutdown.abort(new ConnectError('the server is shutting down: try again in a moment', Code.Unavailable));
    for (const session of sessions) session.close();
    http1.closeIdleConnections();
    // Connections that have not said yet what they are.
    for (const socket of sockets.undecided.values()) socket.destroy();
    const timer = setTimeout(() => {
      log.warn({ connections: sockets.all.size }, 'connections are cut that did not end in time');
      for (const session of sessions) session.destroy();
      for (const socket of sockets.all) socket.destroy();
    }, graceMs);
    await closed;
    clearTimeout(timer);
    http2.close();
  };
  return {
    url,
    port: actualPort,
    close: ({ graceMs }) => {
      closing ??= close(graceMs);
      return closing;
    },
  };
}

/** Throws ListenError for an address that others could reach. */
function checkLoopback(host: string): void {
  if (isLoopback(host)) return;
  throw new ListenError(
    `cannot listen on ${host} without TLS: tokens would cross the network in the clear. Leave --tls off away, or use 127.0.0.1, ::1 or localhost`,
  );
}

type Handler = (request: Request, response: Response) => void;

/** Requests that an HTTP/1.1 connection may have sent before it has its answers. Clients wait for each; who does not has many in memory at once. */
const mostPipelined = 16;

function boundPipeline(handler: Handler): Handler {
  const open = new WeakMap<object, number>();
  return (request, response) => {
    const { socket } = request;
    const count = (open.get(socket) ?? 0) + 1;
    if (count > mostPipelined) {
      socket.destroy();
      return;
    }
    open.set(socket, count);
    response.once('close', () => open.set(socket, (open.get(socket) ?? 1) - 1));
    handler(request, response);
  };
}

function createHttp1({ certificate, handshakeTimeoutMs = 10_000 }: ServerOptions, handle: Handler): Server {
  const handler = boundPipeline(handle);
  const limits = {
    maxHeaderSize: maxHeaderBytes,
    requestTimeout: 60_000,
    headersTimeout: 20_000,
    keepAliveTimeout: 65_000,
  };
  if (!certificate) return createHttpServer(limits, handler);
  const server = createHttpsServer(
    {
      ...limits,
      ...secureContextOf(certificate.current),
      ALPNProtocols: ['h2', 'http/1.1'],
      handshakeTimeout: handshakeTimeoutMs,
    },
    handler,
  );
  const end = certificate.onChange((material) => server.setSecureContext(secureContextOf(material)));
  server.once('close', end);
  return server;
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: NodeJS.ErrnoException): void => {
      const reason =
        error.code === 'EADDRINUSE'
          ? 'the port is in use: stop what uses it, or choose another'
          : error.code === 'EACCES'
            ? 'the port needs rights that this user has not: choose one above 1023'
            : error.message;
      reject(new ListenError(`cannot listen on ${host}:${port}: ${reason}`, { cause: error }));
    };
    server.once('error', fail);
    server.listen({ host, port, backlog: 1024 }, () => {
      server.off('error', fail);
      resolve();
    });
  });
}

function createSessions(
  options: ServerOptions,
  handler: (request: Request, response: Response) => void,
  sessions: Set<ServerHttp2Session>,
  intake: Intake,
  answers: Answers,
): Http2Server {
  const server = createHttp2Server({
    settings: {
      maxConcurrentStreams: options.maxConcurrentStreams ?? 1000,
      maxHeaderListSize: maxHeaderBytes,
      initialWindowSize: 1024 * 1024,
    },
    maxSessionMemory: 64,
    streamResetBurst: resets.burst,
    streamResetRate: resets.perSecond,
    maxSessionInvalidFrames: 100,
  });
  const { api } = options;
  const direct = createDirectUnary({
    ...limitsOf(options),
    jsonOptions,
    routes: api.routes,
    interceptors: api.interceptors,
    intake,
    answers,
  });
  const peers = new WeakMap<object, string>();
  server.on('stream', (stream: ServerHttp2Stream, headers, _flags, rawHeaders: string[]) => {
    const values = () =>
      createContextValues()
        .set(peerKey, (stream.session && peers.get(stream.session)) ?? '')
        .set(cutKey, () => stream.close(constants.NGHTTP2_CANCEL));
    if (direct(stream, headers, values)) return;
    // What node:http2 does for a server with a request listener.
    handler(new Http2ServerRequest(stream, headers, {}, rawHeaders), new Http2ServerResponse(stream));
  });
  server.on('session', (session) => {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
    peers.set(session, session.socket.remoteAddress ?? '');
    watchSession(session, options);
  });
  // What a peer does wrong ends its own session, and nothing else.
  server.on('sessionError', (error) => options.log.debug({ err: error }, 'HTTP/2 session failed'));
  return server;
}

function createHandler(options: ServerOptions, shutdownSignal: AbortSignal, intake: Intake, answers: Answers) {
  const { api, registry, log, certificate } = options;
  const pages: Readonly<Record<string, () => Page | Promise<Page>>> = {
    '/healthz': () => ({ status: 200, type: 'text/plain', body: 'ok\n' }),
    '/readyz': () => {
      const down = Object.entries(api.dependencies).filter(([, isUp]) => !isUp());
      if (shutdownSignal.aborted) return { status: 503, type: 'text/plain', body: 'shutting down\n' };
      if (down.length === 0) return { status: 200, type: 'text/plain', body: 'ready\n' };
      return { status: 503, type: 'text/plain', body: `not ready: ${down.map(([name]) => name).join(', ')}\n` };
    },
    ...(certificate ? { '/ca.pem': () => pageOfAuthorities(certificate.current) } : {}),
    '/metrics': async () => ({ status: 200, type: registry.contentType, body: await registry.metrics() }),
  };
  const fallback = (request: Request, response: Response): void => {
    const path = (request.url ?? '').split('?', 1)[0] ?? '';
    const page = Object.hasOwn(pages, path) ? pages[path] : undefined;
    if (!page) {
      send(response, { status: 404, type: 'text/plain', body: 'not found\n' });
      return;
    }
    Promise.resolve(page()).then(
      (answer) => send(response, answer),
      (error: unknown) => {
        log.error({ err: error, path }, 'page failed');
        send(response, { status: 500, type: 'text/plain', body: 'failed\n' });
      },
    );
  };
  const methods = new Map<string, DescMethod>();
  const { readMaxBytes } = limitsOf(options);
  const valuesOf = new WeakMap<Request, ContextValues>();
  const newValues = (request: Request): ContextValues =>
    createContextValues()
      .set(peerKey, request.socket.remoteAddress ?? '')
      .set(cutKey, () => cut(request));
  const serve = serveCalls({
    log,
    routes: (router) => {
      api.routes(router);
      mendUnaryAnswers(router, api.unread);
      holdAnswers(router, answers);
      for (const { requestPath, method } of router.handlers) methods.set(requestPath, method);
    },
    interceptors: api.interceptors,
    contextValues: (request) => valuesOf.get(request) ?? newValues(request),
    fallback,
    shutdownSignal,
    ...limitsOf(options),
    acceptCompression: [compressionGzip],
    // On the loopback, packing costs a third of the time of a list of thousands, on both sides, and sending next to nothing.
    compressMinBytes: 8 * 1024 * 1024,
    jsonOptions,
  });
  return (request: Request, response: Response): void => {
    try {
      dropEndlessDeadlines(request.headers);
      const method = methods.get((request.url ?? '').split('?', 1)[0] ?? '');
      if (method) {
        const values = newValues(request);
        valuesOf.set(request, values);
        response.once('close', meter(request, { intake, method, values, cut: () => cut(request), readMaxBytes }));
      }
      serve(request, response);
    } catch (error) {
      // A request without a host, or with one that is none: connect-node throws that at whoever calls it.
      log.debug({ err: error }, 'request cannot be read');
      send(response, { status: 400, type: 'text/plain', body: 'bad request: host or path cannot be read\n' });
    }
  };
}

/** Ends a call at once: over HTTP/2 its stream, over HTTP/1.1, which has no such thing, its connection. */
function cut(request: Request): void {
  if (request instanceof Http2ServerRequest) request.stream.close(constants.NGHTTP2_CANCEL);
  else request.socket.destroy();
}

/** Timers of Node.js go no further. */
const longestTimeoutMs = 2 ** 31 - 1;

/** A deadline that is further away than a timer can reach is none; as it is, connect-node's timer would end the call at once. */
function dropEndlessDeadlines(headers: IncomingHttpHeaders): void {
  for (const [name, parse] of [
    ['connect-timeout-ms', parseConnectTimeout],
    ['grpc-timeout', parseGrpcTimeout],
  ] as const) {
    const value = headers[name];
    if (typeof value !== 'string') continue;
    const { timeoutMs } = parse(value, Number.MAX_SAFE_INTEGER);
    if (timeoutMs !== undefined && timeoutMs > longestTimeoutMs) delete headers[name];
  }
}

const limitsOf = ({ readMaxBytes = 4 * 1024 * 1024, writeMaxBytes = 64 * 1024 * 1024 }: ServerOptions) => ({
  readMaxBytes,
  writeMaxBytes,
});

interface Page {
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

function send(response: Response, { status, type, body }: Page): void {
  // The two kinds of response take the same arguments here, which their types cannot say at once.
  const target = response as ServerResponse;
  target.writeHead(status, { 'content-type': type });
  target.end(body);
}
