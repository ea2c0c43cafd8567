import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, generateKeyPair, type JWK } from 'jose';
import Provider, { type AdapterConstructor, type Configuration } from 'oidc-provider';
// @ts-expect-error: its types leave out what is in its folders.
import MemoryAdapter from 'oidc-provider/lib/adapters/memory_adapter.js';

/** Whom the provider's tokens are for. */
export const audience = 'urn:baykeeper';
const secret = 'a-secret-of-tests';

/** An OpenID provider that runs. Each of its clients gets tokens with the claims that a test says. */
export interface OidcProvider extends AsyncDisposable {
  readonly issuer: string;
  /** A token (JWT) with these claims. */
  token(
    claims: Readonly<Record<string, unknown>>,
    options?: { audience?: string; ttlSeconds?: number },
  ): Promise<string>;
  /** Signs with another key from now on; the one before is known to nobody any more. */
  rotateKeys(): Promise<void>;
  /** Takes no connections, until {@link start}. */
  stop(): Promise<void>;
  start(): Promise<void>;
  /** How often its keys were asked for. */
  readonly keyReads: number;
}

export async function startOidcProvider(): Promise<OidcProvider> {
  let keyReads = 0;
  let claimsOfNext: Readonly<Record<string, unknown>> = {};
  let ttlSeconds = 600;
  let handle: ReturnType<Provider['callback']> | undefined;
  let server: Server;
  let port = 0;

  const listen = async (): Promise<void> => {
    server = createServer((request, response) => {
      if (request.url?.startsWith('/jwks')) keyReads += 1;
      handle?.(request, response);
    });
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    port = (server.address() as AddressInfo).port;
  };
  const close = async (): Promise<void> => {
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  };
  await listen();
  const issuer = `http://127.0.0.1:${port}`;

  const useKey = async (): Promise<void> => {
    const { privateKey } = await generateKeyPair('ES256', { extractable: true });
    const key: JWK = { ...(await exportJWK(privateKey)), alg: 'ES256', use: 'sig', kid: crypto.randomUUID() };
    handle = new Provider(issuer, configuration(key)).callback();
  };
  const configuration = (key: JWK): Configuration => ({
    // The default, which warns where it is not given.
    adapter: class extends (MemoryAdapter as AdapterConstructor) {},
    jwks: { keys: [key] } as Configuration['jwks'],
    clients: [
      {
        client_id: 'robot',
        id_token_signed_response_alg: 'ES256',
        client_secret: secret,
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
      },
    ],
    ttl: { ClientCredentials: () => ttlSeconds },
    extraTokenClaims: () => claimsOfNext as Record<string, never>,
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => ({
          scope: '',
          audience: resource,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  });
  await useKey();

  return {
    issuer,
    get keyReads() {
      return keyReads;
    },
    rotateKeys: useKey,
    start: listen,
    stop: close,
    async token(claims, options = {}) {
      claimsOfNext = claims;
      ttlSeconds = options.ttlSeconds ?? 600;
      const response = await fetch(`${issuer}/token`, {
        method: 'POST',
        headers: { authorization: `Basic ${Buffer.from(`robot:${secret}`).toString('base64')}` },
        body: new URLSearchParams({ grant_type: 'client_credentials', resource: options.audience ?? audience }),
      });
      const answer = (await response.json()) as { access_token?: string };
      if (!answer.access_token) throw new Error(`the provider gave no token: ${JSON.stringify(answer)}`);
      return answer.access_token;
    },
    async [Symbol.asyncDispose]() {
      if (server.listening) await close();
    },
  };
}
