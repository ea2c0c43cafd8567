/** A request to Keystone, as tests send it. */
export interface KeystoneRequest {
  readonly body?: unknown;
  /** Default: nobody's. */
  readonly token?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface KeystoneAnswer {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: whatever the test looks for in it.
  readonly body: any;
}

/** One request, without a client library between the test and what it looks at. Any status is an answer. */
export async function request(
  url: string,
  method: string,
  path: string,
  { body, token, headers }: KeystoneRequest = {},
): Promise<KeystoneAnswer> {
  const response = await fetch(`${url}${path}`, {
    method,
    headers: {
      accept: 'application/json',
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...(token === undefined ? {} : { 'x-auth-token': token }),
      ...headers,
    },
    body: body === undefined ? null : JSON.stringify(body),
    signal: AbortSignal.timeout(30_000),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: text === '' ? undefined : JSON.parse(text) };
}

/** Of everybody in the fixture. */
export const password = 'keystone-fixture-secret';

/** What a token is to be for. */
export type Scope = { readonly project: string } | { readonly domain: string } | 'system' | 'unscoped';

/** Logs a user of the domain Default in. Throws when Keystone says no. */
export async function issueToken(url: string, user: string, scope: Scope): Promise<string> {
  const domain = { name: 'Default' };
  const scopes =
    scope === 'unscoped'
      ? 'unscoped'
      : scope === 'system'
        ? { system: { all: true } }
        : 'domain' in scope
          ? { domain: { name: scope.domain } }
          : { project: { name: scope.project, domain } };
  const identity = { methods: ['password'], password: { user: { name: user, domain, password } } };
  return issue(url, { identity, scope: scopes });
}

/** Asks for a token. Throws when Keystone says no. */
export async function issue(url: string, auth: object): Promise<string> {
  const answer = await request(url, 'POST', '/auth/tokens', { body: { auth } });
  const token = answer.headers.get('x-subject-token');
  if (answer.status !== 201 || token === null)
    throw new Error(`no token: ${answer.status} ${JSON.stringify(answer.body)}`);
  return token;
}
