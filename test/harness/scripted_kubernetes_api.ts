import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A request as it came. */
export interface ApiCall {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingMessage['headers'];
  /** Parsed JSON; undefined without a body. */
  readonly body: unknown;
}

/** An API server that says what a test wants, over plain HTTP: for what a real one does rarely, or not when it is told to. */
export interface ScriptedKubernetesApi {
  readonly url: string;
  readonly server: Server;
  /** So far. */
  readonly calls: ApiCall[];
  [Symbol.asyncDispose](): Promise<void>;
}

export async function scriptedKubernetesApi(
  answer: (call: ApiCall, response: ServerResponse) => void | Promise<void>,
): Promise<ScriptedKubernetesApi> {
  const calls: ApiCall[] = [];
  const server = createServer(async (request, response) => {
    let text = '';
    for await (const piece of request.setEncoding('utf8') as AsyncIterable<string>) text += piece;
    const url = new URL(request.url ?? '', 'http://api');
    const call = {
      method: request.method ?? '',
      path: url.pathname,
      query: url.searchParams,
      headers: request.headers,
      body: text ? JSON.parse(text) : undefined,
    };
    calls.push(call);
    await answer(call, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    server,
    calls,
    async [Symbol.asyncDispose]() {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}

export function json(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
}

/** An error as the API server says it. */
export function failure(
  response: ServerResponse,
  code: number,
  reason: string,
  message: string,
  more: object = {},
): void {
  json(response, code, { kind: 'Status', apiVersion: 'v1', status: 'Failure', code, reason, message, ...more });
}
