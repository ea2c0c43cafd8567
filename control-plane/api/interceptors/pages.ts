import { Code, ConnectError, type Interceptor } from '@connectrpc/connect';
import { principalKey } from '../call.ts';

/** Options of {@link pagesInterceptor}. */
export interface PagesOptions {
  /** How many pages one caller may have made at a time. Default 8: enough to keep the store busy. */
  readonly most?: number;
  /** How long a call may wait: after that nobody waits for its answer any more. */
  readonly patienceMs: number;
}

interface Turns {
  busy: number;
  readonly waiting: (() => void)[];
}

/** Has each caller wait for its own pages, and not for those of others: one is megabytes, and costs as much as a hundred other calls. */
export function pagesInterceptor({ most = 8, patienceMs }: PagesOptions): Interceptor {
  const callers = new Map<string, Turns>();
  return (next) => async (request) => {
    if (request.stream || !request.method.input.field.pageSize) return next(request);
    const { subject = '', project = '' } = request.contextValues.get(principalKey) ?? {};
    const caller = `${project}/${subject}`;
    const turns = callers.get(caller) ?? { busy: 0, waiting: [] };
    callers.set(caller, turns);
    if (turns.busy >= most) {
      const sinceMs = performance.now();
      await new Promise<void>((resolve) => turns.waiting.push(resolve));
      if (request.signal.aborted || performance.now() - sinceMs >= patienceMs) {
        leave();
        throw new ConnectError('nobody waits for this page any more', Code.Canceled);
      }
    } else {
      turns.busy += 1;
    }
    try {
      return await next(request);
    } finally {
      leave();
    }

    function leave(): void {
      const following = turns.waiting.shift();
      if (following) following();
      else turns.busy -= 1;
      if (turns.busy === 0) callers.delete(caller);
    }
  };
}
