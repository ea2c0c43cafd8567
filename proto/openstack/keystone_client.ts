import { readFile } from 'node:fs/promises';
import { Agent, request } from 'undici';
import type { Cloud, CloudTls, Credential, Scope } from './cloud.ts';
import { CloudError, KeystoneError } from './errors.ts';
import { parseToken, type TokenInfo } from './token.ts';

/** A token, and what it stands for. */
export interface IssuedToken {
  readonly token: string;
  readonly info: TokenInfo;
}

/** Identity API v3 (https://docs.openstack.org/api-ref/identity/v3/), as far as tokens go. All of it rejects with KeystoneError. */
export interface KeystoneClient {
  /** Asks for a token. */
  issue(credential: Credential, scope: Scope): Promise<IssuedToken>;
  /** What `subject` stands for; undefined when it is no token, or not any more. `token`: who asks. `url`: default the one of the cloud. */
  validate(options: {
    readonly token: string;
    readonly subject: string;
    readonly url?: string;
  }): Promise<TokenInfo | undefined>;
  /** Takes a token back, by itself. One that is none any more is as good. */
  revoke(token: string): Promise<void>;
  close(): Promise<void>;
}

export interface KeystoneClientOptions extends Pick<Cloud, 'authUrl' | 'tls'> {
  /** Of one request, connecting included. Default 5 s. */
  readonly timeoutMs?: number;
}

/** The rule of Keystone's policy that says who may ask about tokens: it names it to whoever may not. */
const validateRule = 'identity:validate_token';

/** A catalogue of a large cloud has some hundred kilobytes. */
const maxAnswerBytes = 2 * 1024 * 1024;

/** Opens a client. Nothing is sent before the first request. Rejects with CloudError when a file of its TLS cannot be read. */
export async function openKeystoneClient(options: KeystoneClientOptions): Promise<KeystoneClient> {
  const { authUrl, timeoutMs = 5_000 } = options;
  const agent = new Agent({
    connect: { ...(await tlsOptions(options.tls)), timeout: timeoutMs },
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    maxResponseSize: maxAnswerBytes,
    connections: 32,
  });

  async function send(method: 'GET' | 'POST' | 'DELETE', url: string, more: Sent): Promise<Answer> {
    const body = more.body === undefined ? null : JSON.stringify(more.body);
    const headers = {
      accept: 'application/json',
      ...(body && { 'content-type': 'application/json' }),
      ...more.headers,
    };
    try {
      const signal = AbortSignal.timeout(timeoutMs);
      const response = await request(url, { method, dispatcher: agent, signal, headers, body });
      const text = await response.body.text();
      return { status: response.statusCode, headers: response.headers, text, url };
    } catch (cause) {
      throw new KeystoneError(
        'unavailable',
        `Keystone does not answer at ${new URL(url).origin}: ${reasonOf(cause, timeoutMs)}`,
        { cause },
      );
    }
  }

  return {
    async issue(credential, scope) {
      const answer = await send('POST', `${authUrl}/auth/tokens`, { body: { auth: authRequest(credential, scope) } });
      if (answer.status === 401) {
        if (answer.headers['openstack-auth-receipt']) {
          throw new KeystoneError(
            'unauthorized',
            'Keystone asks this user for more than one proof, which is not supported here: use an application credential',
          );
        }
        throw new KeystoneError('unauthorized', 'Keystone does not know these credentials, or not for this project');
      }
      if (answer.status !== 201) throw failureOf(answer);
      const token = answer.headers['x-subject-token'];
      if (typeof token !== 'string' || !/^[\x21-\x7e]{1,16384}$/.test(token)) {
        throw new KeystoneError('invalid', 'Keystone answered without a token');
      }
      return { token, info: parseToken(json(answer)) };
    },
    async validate({ token, subject, url = authUrl }) {
      const answer = await send('GET', `${url}/auth/tokens?nocatalog`, {
        headers: { 'x-auth-token': token, 'x-subject-token': subject },
      });
      if (answer.status === 404 && isError(answer)) return undefined;
      // A trust whose trustor is disabled, or has lost what was lent: it is the subject that is forbidden, and not that we ask.
      if (answer.status === 403 && isError(answer) && !answer.text.includes(validateRule)) return undefined;
      if (answer.status !== 200) throw failureOf(answer);
      return parseToken(json(answer));
    },
    async revoke(token) {
      const headers = { 'x-auth-token': token, 'x-subject-token': token };
      const answer = await send('DELETE', `${authUrl}/auth/tokens`, { headers });
      if (answer.status !== 204 && answer.status !== 401 && !(answer.status === 404 && isError(answer)))
        throw failureOf(answer);
    },
    close: () => agent.destroy(),
  };
}

interface Sent {
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
  readonly url: string;
}

async function tlsOptions({ caFile, certFile, keyFile, verify }: CloudTls) {
  const read = (file: string | undefined) =>
    file &&
    readFile(file, 'utf8').catch((cause: Error) => {
      throw new CloudError(`cannot read ${file}: ${cause.message}`, { cause });
    });
  const [ca, cert, key] = await Promise.all([read(caFile), read(certFile), read(keyFile)]);
  return { ...(ca && { ca }), ...(cert && { cert, key: key || cert }), rejectUnauthorized: verify };
}

/** `auth` of `POST /v3/auth/tokens`. Throws CloudError for a credential without its secret. */
function authRequest(credential: Credential, scope: Scope): object {
  if (credential.kind === 'applicationCredential') {
    const { credential: ref, secret } = credential;
    if (secret === undefined) throw new CloudError('the secret of the application credential is missing');
    const named = 'id' in ref ? ref : { name: ref.name, user: ref.user };
    return { identity: { methods: ['application_credential'], application_credential: { ...named, secret } } };
  }
  if (credential.kind === 'token') {
    return { identity: { methods: ['token'], token: { id: credential.token } }, scope: scopeOf(scope) };
  }
  const { user, password } = credential;
  if (password === undefined) throw new CloudError('the password is missing');
  return {
    identity: { methods: ['password'], password: { user: { ...user, password } } },
    scope: scopeOf(scope),
  };
}

function scopeOf(scope: Scope): object | string {
  switch (scope.kind) {
    case 'project':
      return { project: scope.project };
    case 'domain':
      return { domain: scope.domain };
    case 'trust':
      return { 'OS-TRUST:trust': { id: scope.id } };
    case 'system':
      return { system: { all: true } };
    case 'unscoped':
      return 'unscoped';
  }
}

function failureOf(answer: Answer): KeystoneError {
  const { status, url } = answer;
  const at = new URL(url).origin;
  if (status >= 500 || status === 429 || status === 408) {
    return new KeystoneError('unavailable', `Keystone at ${at} answers with status ${status}`);
  }
  if (status === 401) return new KeystoneError('unauthorized', `Keystone at ${at} does not know who asks`);
  if (status === 403) return new KeystoneError('forbidden', `Keystone at ${at} does not allow it`);
  return new KeystoneError(
    'invalid',
    `no Keystone v3 answers at ${url.replace(/\/auth\/tokens.*$/, '')}: status ${status}`,
  );
}

/** Whether it is Keystone that says so, and not a web server that knows nothing of it. */
function isError(answer: Answer): boolean {
  const body = json(answer);
  return typeof body === 'object' && body !== null && 'error' in body;
}

function json(answer: Answer): unknown {
  try {
    return JSON.parse(answer.text);
  } catch (cause) {
    throw new KeystoneError(
      'invalid',
      `no Keystone v3 answers at ${new URL(answer.url).origin}: what it says is not JSON`,
      { cause },
    );
  }
}

function reasonOf(cause: unknown, timeoutMs: number): string {
  if (!(cause instanceof Error)) return String(cause);
  const code = 'code' in cause ? String(cause.code) : '';
  if (cause.name === 'TimeoutError' || /TIMEOUT/.test(code)) return `not within ${timeoutMs / 1000} s`;
  if (code === 'UND_ERR_RES_EXCEEDED_MAX_SIZE') return `more than ${maxAnswerBytes} bytes`;
  return code || cause.message;
}
