import { Code, ConnectError, type Interceptor } from '@connectrpc/connect';

/**
 * Ends a unary call that takes longer than `unaryTimeoutMs`, whatever its caller allows it: a caller that waits is told. A shorter deadline of the
 * caller's own is kept by the protocol. What was being written may still be. Streams last as long as their caller likes.
 */
export function deadlinesInterceptor(unaryTimeoutMs: number): Interceptor {
  return (next) => (request) => {
    if (request.stream) return next(request);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new ConnectError(`not done within ${unaryTimeoutMs / 1000} s`, Code.DeadlineExceeded));
      }, unaryTimeoutMs);
      next(request)
        .then(resolve, reject)
        .finally(() => clearTimeout(timer));
    });
  };
}
