import type { DescMethod } from '@bufbuild/protobuf';
import { Code, ConnectError, type Interceptor } from '@connectrpc/connect';
import { timeoutKey } from '../call.ts';

/** Options of {@link deadlinesInterceptor}. */
export interface DeadlinesOptions {
  readonly unaryTimeoutMs: number;
  /** Methods that may take a quarter of an hour, as they read all there is. */
  readonly long: readonly DescMethod[];
}

const longTimeoutMs = 15 * 60_000;

/**
 * Ends a unary call that takes longer than `unaryTimeoutMs`, or than its caller waits: a caller that does not say still gets an
 * answer. What was being written may still be. Streams last as long as their caller likes.
 */
export function deadlinesInterceptor({ unaryTimeoutMs, long }: DeadlinesOptions): Interceptor {
  return (next) => (request) => {
    if (request.stream) return next(request);
    const mostMs = long.includes(request.method) ? longTimeoutMs : unaryTimeoutMs;
    const timeoutMs = Math.min(mostMs, request.contextValues.get(timeoutKey) ?? mostMs);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new ConnectError(`not done within ${timeoutMs / 1000} s`, Code.DeadlineExceeded));
      }, timeoutMs);
      // connect-node tells the caller's deadline by the signal only. That a caller goes away, or that the server is to stop, ends no call.
      const { signal } = request;
      const aborted = (): void => {
        if (ConnectError.from(signal.reason).code !== Code.DeadlineExceeded) return;
        clearTimeout(timer);
        reject(signal.reason);
      };
      if (signal.aborted) aborted();
      else signal.addEventListener('abort', aborted);
      next(request)
        .then(resolve, reject)
        .finally(() => {
          clearTimeout(timer);
          signal.removeEventListener('abort', aborted);
        });
    });
  };
}
