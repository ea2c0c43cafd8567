import {
  type ConnectRouter,
  type ConnectRouterOptions,
  type ContextValues,
  createConnectRouter,
} from '@connectrpc/connect';
import { universalRequestFromNodeRequest, universalResponseToNodeResponse } from '@connectrpc/connect-node';
import type { Logger } from 'pino';
import { DomainError } from './domain/errors.ts';

/** What both of Node.js's kinds of HTTP servers ask with. */
export type Request = Parameters<typeof universalRequestFromNodeRequest>[0];
/** What both of Node.js's kinds of HTTP servers answer with. */
export type Response = Parameters<typeof universalResponseToNodeResponse>[1];

/** Options of {@link serveCalls}. */
export interface CallListenerOptions extends ConnectRouterOptions {
  readonly routes: (router: ConnectRouter) => void;
  readonly contextValues: (request: Request) => ContextValues;
  /** Answers what is no call. */
  readonly fallback: (request: Request, response: Response) => void;
  readonly log: Logger;
}

/**
 * Answers calls in all of Connect's protocols, over HTTP/1.1 and HTTP/2, as connect-node's own adapter does. That one writes to the console, with a
 * stack, whenever a caller goes away in the middle of an answer: lines that anybody can cause, and no reader of the log can parse.
 */
export function serveCalls(options: CallListenerOptions): (request: Request, response: Response) => void {
  const { contextValues, fallback, log } = options;
  const router = createConnectRouter(options);
  options.routes(router);
  const handlers = new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
  return (request, response) => {
    const handler = handlers.get((request.url ?? '').split('?', 1)[0] ?? '');
    if (!handler) {
      fallback(request, response);
      return;
    }
    handler(universalRequestFromNodeRequest(request, response, undefined, contextValues(request)))
      .then((answer) => universalResponseToNodeResponse(answer, response))
      .catch((error: unknown) => {
        const level = isGone(response) || error instanceof DomainError ? 'debug' : 'error';
        log[level](
          { err: error, method: `${handler.service.typeName}/${handler.method.name}` },
          'answer did not reach the caller',
        );
        response.destroy();
      });
  };
}

/** Whether nobody waits for this answer any more. */
function isGone(response: Response): boolean {
  return 'stream' in response ? response.stream.destroyed : response.socket?.destroyed !== false;
}
