import { Agent, request } from 'node:https';

export interface ApiRequest {
  /** An object is sent as JSON, text as it is. Default: none. */
  readonly body?: unknown;
  /** Default: application/json. */
  readonly contentType?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Default 30 s; then the promise rejects. */
  readonly timeoutMs?: number;
}

export interface ApiAnswer<T> {
  readonly status: number;
  /** JSON is parsed; what is not JSON is text. */
  readonly body: T;
}

/** Plain requests to an API server, over connections that are kept: without a client library between the test and what it looks at. */
export interface ApiClient extends Disposable {
  /** Any status is an answer; rejects when there is none. `path`: with its query. */
  request<T = unknown>(method: string, path: string, options?: ApiRequest): Promise<ApiAnswer<T>>;
}

export interface ApiClientOptions {
  /** `https://HOST:PORT`. */
  readonly url: string;
  /** PEM. The server's certificate has to be of this authority. */
  readonly ca: string;
  /** PEM. Default: nobody. */
  readonly cert?: string;
  readonly key?: string;
}

export function apiClient({ url, ca, cert, key }: ApiClientOptions): ApiClient {
  const agent = new Agent({ keepAlive: true, ca, cert, key });
  return {
    async request<T>(method: string, path: string, options: ApiRequest = {}) {
      const { body, contentType = 'application/json', headers, timeoutMs = 30_000 } = options;
      const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
      const answer = await new Promise<{ status: number; text: string }>((resolve, reject) => {
        const sent = request(
          new URL(path, url),
          {
            method,
            agent,
            headers: {
              accept: 'application/json',
              ...(text !== undefined && { 'content-type': contentType }),
              ...headers,
            },
            signal: AbortSignal.timeout(timeoutMs),
          },
          (response) => {
            let received = '';
            response.setEncoding('utf8').on('data', (chunk: string) => (received += chunk));
            response.once('end', () => resolve({ status: response.statusCode ?? 0, text: received }));
            response.once('error', reject);
          },
        );
        sent.once('error', (cause) => reject(new Error(`${method} ${path}: ${cause.message}`, { cause })));
        sent.end(text);
      });
      return { status: answer.status, body: parsed(answer.text) as T };
    },
    [Symbol.dispose]: () => agent.destroy(),
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Health checks and logs are plain text.
    return text;
  }
}
