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
    options?: { audience?: string | readonly string[]; ttlSeconds?: number },
  ): Promise<string>;
  /** Lets whoever waits with this user code log in as somebody with these claims. */
  approve(userCode: string, claims: Readonly<Record<string, unknown>>): Promise<void>;
  /** Signs with another key from now on; the one before is known to nobody any more. */
  rotateKeys(): Promise<void>;
  /** Takes no connections, until {@link start}. */
  stop(): Promise<void>;
  start(): Promise<void>;
  /** How often its keys were asked for. */
  readonly keyReads: number;
  /** Gives this as its keys, and all else as before. Undefined: its keys. */
  giveKeys(text: string | undefined): void;
}

export async function startOidcProvider(): Promise<OidcProvider> {
  let keyReads = 0;
  let givenKeys: string | undefined;
  let claimsOfNext: Readonly<Record<string, unknown>> = {};
  let ttlSeconds = 600;
  let audiencesOfNext: readonly string[] = [];
  let handle: ReturnType<Provider['callback']> | undefined;
  let provider: Provider | undefined;
  let server: Server;
  let port = 0;

  const listen = async (): Promise<void> => {
    server = createServer((request, response) => {
      const isOfKeys = request.url?.startsWith('/jwks') ?? false;
      if (isOfKeys) keyReads += 1;
      if (isOfKeys && givenKeys !== undefined) response.end(givenKeys);
      else handle?.(request, response);
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
    provider = new Provider(issuer, configuration(key));
    // Without it, clients wait for five seconds before they ask at all.
    provider.use(async (context, next) => {
      await next();
      if (context.path === '/device/auth' && context.status === 200)
        Object.assign(context.body as object, { interval: 1 });
    });
    handle = provider.callback();
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
      {
        client_id: 'bayctl',
        id_token_signed_response_alg: 'ES256',
        token_endpoint_auth_method: 'none',
        grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'],
        redirect_uris: [],
        response_types: [],
      },
    ],
    claims: { openid: ['sub', 'project', 'roles'], profile: ['preferred_username'], email: ['email'] },
    conformIdTokenClaims: false,
    findAccount: (_context, sub) => ({ accountId: sub, claims: async () => ({ ...claimsOfNext, sub }) }),
    // What is given expires as it would anyway; what is not comes with a notice.
    ttl: {
      ClientCredentials: () => ttlSeconds,
      IdToken: () => ttlSeconds,
      AccessToken: 600,
      DeviceCode: 600,
      Grant: 3600,
      RefreshToken: 3600,
    },
    formats: {
      customizers: {
        // Of itself it makes no token for several.
        jwt: (_context, _token, { payload }) => {
          if (payload && audiencesOfNext.length > 1) Object.assign(payload, { aud: audiencesOfNext });
        },
      },
    },
    extraTokenClaims: () => claimsOfNext as Record<string, never>,
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      revocation: {
        enabled: true,
        allowedPolicy: async (_context, client, token) => token.clientId === client.clientId,
      },
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
    async approve(userCode, claims) {
      claimsOfNext = claims;
      const code = await provider?.DeviceCode.findByUserCode(userCode.replaceAll('-', ''));
      if (!provider || !code) throw new Error(`nobody waits with code ${userCode}`);
      const scope = 'openid profile email offline_access';
      const grant = new provider.Grant({ clientId: 'bayctl', accountId: 'alice' });
      grant.addOIDCScope(scope);
      const grantId = await grant.save();
      Object.assign(code, { accountId: 'alice', grantId, scope, authTime: Math.floor(Date.now() / 1000) });
      await code.save();
    },
    giveKeys: (text) => {
      givenKeys = text;
    },
    rotateKeys: useKey,
    start: listen,
    stop: close,
    async token(claims, options = {}) {
      claimsOfNext = claims;
      ttlSeconds = options.ttlSeconds ?? 600;
      audiencesOfNext = [options.audience ?? audience].flat();
      const response = await fetch(`${issuer}/token`, {
        method: 'POST',
        headers: { authorization: `Basic ${Buffer.from(`robot:${secret}`).toString('base64')}` },
        body: new URLSearchParams({ grant_type: 'client_credentials', resource: audiencesOfNext[0] ?? audience }),
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
