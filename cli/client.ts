import type {
  DescMessage,
  DescMethodStreaming,
  DescMethodUnary,
  MessageInitShape,
  MessageShape,
} from '@bufbuild/protobuf';
import { MethodOptions_IdempotencyLevel } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, type Interceptor, type Transport } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { newAuthority } from './ca_renewal.ts';
import { Connection } from './connection.ts';
import type { Settings } from './context.ts';
import { CliError, codeName, codeStatus, exitStatus } from './errors.ts';
import { distrustOf } from './trust.ts';

/** Attempts of a read that found the server unavailable, the first included. */
const readAttempts = 4;
const firstRetryMs = 100;
/** A page of the API is smaller by far. */
const readMaxBytes = 64 * 1024 * 1024;

/** The API as commands use it: every call ends, and what it throws is a CliError that says what to do. */
export interface Api {
  readonly settings: Settings;
  /** One answer, within the request time-out (or `timeoutMs`). A read without side effects is tried again while the server is UNAVAILABLE. */
  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    input: MessageInitShape<I>,
    timeoutMs?: number,
  ): Promise<MessageShape<O>>;
  /** A stream of answers, as long as it lasts; only connecting is limited in time. A dead peer ends it with UNAVAILABLE. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    input: MessageInitShape<I> | AsyncIterable<MessageInitShape<I>>,
    signal?: AbortSignal,
  ): AsyncIterable<MessageShape<O>>;
  /** The CA, as PEM, that the server is of by now, when the one that is trusted only vouches for it. Rejects when the server cannot be asked. */
  newAuthority(): Promise<string | undefined>;
  close(): void;
}

/** What a client is made of. */
export interface ApiOptions {
  readonly settings: Settings;
  readonly requestTimeoutMs: number;
  readonly userAgent: string;
  readonly signal: AbortSignal;
  /** Gets what `-v` shows. */
  readonly trace?: (line: string) => void;
}

/** A call failed, with the code that the server (or the way to it) gave. */
export class ApiError extends CliError {
  readonly code: Code;
  constructor(message: string, code: Code, options?: ErrorOptions & { requestId?: string }) {
    super(message, codeStatus(code), options);
    this.code = code;
  }
}

/** Makes a client. Nothing is sent before the first call. */
export function createApi(options: ApiOptions): Api {
  const { settings, requestTimeoutMs, signal } = options;
  const connection = new Connection(settings.server, settings.ca);
  const transport: Transport = createConnectTransport({
    baseUrl: settings.server,
    httpVersion: '2',
    sessionManager: connection,
    readMaxBytes,
    interceptors: [identify(options)],
  });

  async function open(timeoutMs: number): Promise<void> {
    try {
      await connection.open(timeoutMs);
    } catch (cause) {
      if (systemCodes(cause).includes('ETIMEDOUT')) {
        throw new ApiError(`no answer from ${settings.server} within ${timeoutMs / 1000} s`, Code.DeadlineExceeded, {
          cause,
        });
      }
      throw connectFailure(cause, settings.server);
    }
  }

  /** That of now: a login's is renewed when it is about to end. */
  const currentToken = async (): Promise<string> => (await settings.freshToken?.()) ?? settings.token;
  const bearer = (token: string): Record<string, string> => (token ? { authorization: `Bearer ${token}` } : {});

  async function once<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    input: MessageInitShape<I>,
    timeoutMs: number,
  ): Promise<MessageShape<O>> {
    const startedMs = performance.now();
    const header = bearer(await currentToken());
    await open(timeoutMs);
    // The protocol counts in whole milliseconds, ten digits at most.
    const leftMs = Math.min(9_999_999_999, Math.max(1, Math.ceil(timeoutMs - (performance.now() - startedMs))));
    try {
      return (await transport.unary(method, signal, leftMs, header, input)).message;
    } catch (cause) {
      throw apiError(cause, settings, signal);
    }
  }

  return {
    settings,
    async unary(method, input, timeoutMs = requestTimeoutMs) {
      const mayRepeat = method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS;
      for (let attempt = 1; ; attempt++) {
        try {
          return await once(method, input, timeoutMs);
        } catch (error) {
          const again =
            mayRepeat && attempt < readAttempts && isUnavailable(error) && !isRefused(error) && !signal.aborted;
          if (!again) throw error;
          options.trace?.(`${method.name}: unavailable, trying again`);
          await pause(Math.random() * firstRetryMs * 2 ** attempt, signal);
        }
      }
    },
    async *stream(method, input, ownSignal) {
      const both = ownSignal ? AbortSignal.any([signal, ownSignal]) : signal;
      const token = await currentToken();
      await open(requestTimeoutMs);
      try {
        const inputs = isAsyncIterable(input) ? input : single(input);
        const response = await transport.stream(method, both, 0, bearer(token), inputs);
        yield* response.message;
      } catch (cause) {
        if (ownSignal?.aborted) return;
        const error = apiError(cause, settings, signal);
        if (hasCode(error, Code.Unauthenticated) && (await currentToken()) !== token) {
          throw new ApiError('the token of this stream has ended, and there is another', Code.Unavailable, { cause });
        }
        throw error;
      }
    },
    newAuthority: () => newAuthority(connection, settings.ca),
    close() {
      connection.close();
    },
  };
}

/** Whether the same call may succeed later. */
export function isUnavailable(error: unknown): error is ApiError {
  return error instanceof ApiError && error.code === Code.Unavailable;
}

/** Whether an error is an ApiError with this code. */
export function hasCode(error: unknown, code: Code): error is ApiError {
  return error instanceof ApiError && error.code === code;
}

/** Waits, or returns early when the signal is aborted. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const finish = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', finish);
      resolve();
    };
    const timer = setTimeout(finish, ms);
    signal.addEventListener('abort', finish);
  });
}

function identify({ settings, userAgent, trace }: ApiOptions): Interceptor {
  return (next) => async (request) => {
    if (settings.project) request.header.set('x-baykeeper-project', settings.project);
    request.header.set('user-agent', userAgent);
    const startedMs = performance.now();
    const traced = (code: string, headers: Headers): void =>
      trace?.(
        `${request.method.name}: ${code}, ${(performance.now() - startedMs).toFixed(1)} ms, request id ${requestIdOf(headers) || 'unknown'}`,
      );
    try {
      const response = await next(request);
      traced('OK', response.header);
      return response;
    } catch (cause) {
      const error = ConnectError.from(cause);
      traced(codeName(error.code), error.metadata);
      throw cause;
    }
  };
}

function requestIdOf(headers: Headers): string {
  return headers.get('x-request-id') ?? headers.get('request-id') ?? '';
}

function isAsyncIterable<T>(value: unknown): value is AsyncIterable<T> {
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value;
}

async function* single<T>(value: T): AsyncIterable<T> {
  yield value;
}

/** System error codes that mean: nothing there answers. */
const refused = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'EADDRNOTAVAIL']);
/** Those that mean: the connection went away under the call. */
const broken = new Set([
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ERR_STREAM_DESTROYED',
  'ERR_STREAM_PREMATURE_CLOSE',
  'ERR_HTTP2_INVALID_STREAM',
]);

function isRefused(error: ApiError): boolean {
  return systemCodes(error).some((code) => refused.has(code));
}

function systemCodes(error: unknown): string[] {
  const found: string[] = [];
  let current = error;
  for (let depth = 0; current instanceof Error && depth < 10; depth++) {
    if ('code' in current && typeof current.code === 'string') found.push(current.code);
    current = current.cause;
  }
  return found;
}

function connectFailure(cause: unknown, server: string): ApiError {
  const system = systemCodes(cause);
  if (system.some((code) => refused.has(code))) {
    const what = system.includes('ECONNREFUSED') ? 'connection refused' : system.join(', ');
    return new ApiError(
      `no control plane answers at ${server} (${what}): start one with \`npm start\`, or name another with --server or \`bayctl config use-context\``,
      Code.Unavailable,
      { cause },
    );
  }
  const message = cause instanceof Error ? cause.message : String(cause);
  const distrust = distrustOf(system, message);
  if (distrust) return new ApiError(`will not speak to ${server}: ${distrust}`, Code.Unavailable, { cause });
  if (system.includes('ECONNRESET') && server.startsWith('http:')) {
    return new ApiError(
      `what answers at ${server} closes the connection: does it speak TLS (https://)?`,
      Code.Unavailable,
      { cause },
    );
  }
  if (system.some((code) => code.startsWith('ERR_HTTP2_')) || /protocol error/i.test(message)) {
    return new ApiError(
      `what answers at ${server} does not speak HTTP/2: is it a control plane of Baykeeper?`,
      Code.Unavailable,
      {
        cause,
      },
    );
  }
  return new ApiError(`cannot connect to ${server}: ${message}`, Code.Unavailable, { cause });
}

/** One place gives each failed call its message. */
function apiError(cause: unknown, settings: Settings, signal: AbortSignal): CliError {
  if (cause instanceof CliError) return cause;
  const error = ConnectError.from(cause);
  const system = systemCodes(error);
  const requestId = requestIdOf(error.metadata);
  if (system.some((code) => refused.has(code))) return connectFailure(cause, settings.server);
  if (system.some((code) => broken.has(code))) {
    return new ApiError(`the connection to ${settings.server} broke`, Code.Unavailable, { cause });
  }
  if (system.some((code) => code.startsWith('ERR_HTTP2_')) || /goaway|session closed|http2/i.test(error.rawMessage)) {
    const detail = error.rawMessage ? `: ${error.rawMessage}` : '';
    return new ApiError(`the connection to ${settings.server} ended${detail}`, Code.Unavailable, { cause });
  }
  const message = error.rawMessage || codeName(error.code);
  switch (error.code) {
    case Code.Canceled:
      // A server that goes away resets its streams as if we had cancelled them.
      if (!signal.aborted)
        return new ApiError(`the connection to ${settings.server} broke`, Code.Unavailable, { cause, requestId });
      return new CliError('interrupted', exitStatus.interrupted, { cause, requestId });
    case Code.Unauthenticated: {
      const note = settings.tokenNote ? ` (${settings.tokenNote})` : '';
      return new ApiError(`${message}${note}`, error.code, { cause, requestId });
    }
    case Code.DeadlineExceeded:
      return new ApiError(`no answer from ${settings.server} in time: ${message}`, error.code, { cause, requestId });
    default:
      return new ApiError(message, error.code, { cause, requestId });
  }
}
