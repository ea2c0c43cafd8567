import type { Interceptor, StreamResponse, UnaryResponse } from '@connectrpc/connect';
import type { Logger } from 'pino';
import { peerKey, principalKey, requestIdKey } from '../call.ts';
import { codeName, toConnectError } from '../connect_error.ts';
import type { ApiMetrics } from '../metrics.ts';

/** The header that names a request, both ways. */
export const requestIdHeader = 'x-request-id';

/** Options of {@link requestsInterceptor}. */
export interface RequestsOptions {
  readonly log: Logger;
  readonly metrics: ApiMetrics;
  readonly newRequestId: () => string;
}

type Call = Parameters<ReturnType<Interceptor>>[0];

/**
 * The outermost: gives each request an id, turns its error into one for callers, counts it and logs it. What callers do is logged at debug, what
 * we did wrong at error with its cause. Never a message's content, and never a token.
 */
export function requestsInterceptor({ log, metrics, newRequestId }: RequestsOptions): Interceptor {
  return (next) => async (request) => {
    const startMs = performance.now();
    const requestId = idOf(request.header) ?? newRequestId();
    request.contextValues.set(requestIdKey, requestId);
    const method = `${request.service.typeName}/${request.method.name}`;
    const fail = (error: unknown): Error => {
      const converted = toConnectError(
        error,
        (cause) => log.error({ requestId, method, err: cause }, 'call failed unexpectedly'),
        requestId,
      );
      converted.metadata.set(requestIdHeader, requestId);
      ended(codeName(converted.code));
      return converted;
    };
    const ended = (code: string): void => {
      const durationMs = performance.now() - startMs;
      metrics.called(method, code, durationMs, request.stream);
      if (log.isLevelEnabled('debug')) log.debug(fieldsOf(request, requestId, method, code, durationMs), 'call');
    };
    let response: UnaryResponse | StreamResponse;
    try {
      response = await next(request);
    } catch (error) {
      throw fail(error);
    }
    response.header.set(requestIdHeader, requestId);
    if (!response.stream) {
      ended('ok');
      return response;
    }
    return { ...response, message: watched(response.message, request.signal, fail, ended) };
  };
}

async function* watched<T>(
  messages: AsyncIterable<T>,
  signal: AbortSignal,
  fail: (error: unknown) => Error,
  ended: (code: string) => void,
): AsyncGenerator<T> {
  let failed = false;
  let done = false;
  try {
    yield* messages;
    // What ended it was no end of its own: the server is shutting down, or time is up.
    if (signal.aborted) throw signal.reason;
    done = true;
  } catch (error) {
    failed = true;
    throw fail(error);
  } finally {
    // A caller that goes away ends the stream from outside, with neither.
    if (!failed) ended(done ? 'ok' : 'canceled');
  }
}

/** What the caller has called it, if that is something that can be logged. */
function idOf(header: Headers): string | undefined {
  const id = header.get(requestIdHeader);
  return id !== null && /^[A-Za-z0-9._:-]{1,64}$/.test(id) ? id : undefined;
}

function fieldsOf(request: Call, requestId: string, method: string, code: string, durationMs: number): object {
  const principal = request.contextValues.get(principalKey);
  return {
    requestId,
    method,
    code,
    durationMs: Math.round(durationMs * 100) / 100,
    subject: principal?.subject,
    project: principal?.project,
    peer: request.contextValues.get(peerKey),
  };
}
