import {
  allowInsecureRequests,
  type Configuration,
  discovery,
  initiateDeviceAuthorization,
  None,
  pollDeviceAuthorizationGrant,
  refreshTokenGrant,
  type TokenEndpointResponse,
  type TokenEndpointResponseHelpers,
  tokenRevocation,
} from 'openid-client';
import { CliError, exitStatus, UsageError } from './errors.ts';
import type { Io } from './io.ts';
import type { Login, LoginMethod, NewToken } from './login_method.ts';

const timeoutS = 10;
/** Errors of a provider that has trouble of its own (RFC 6749 4.1.2.1, RFC 8628 3.5). */
const temporary: ReadonlySet<string> = new Set(['server_error', 'temporarily_unavailable', 'slow_down']);
const defaultScope = 'openid profile email offline_access';

/** Which provider, and as which of its clients. */
export interface OidcLoginOptions {
  readonly issuer: string;
  /** A public client that may use the device flow. */
  readonly clientId: string;
  /** Default: `openid profile email offline_access`. */
  readonly scope?: string | undefined;
  /** Shown to the user: where to go, and with which code. */
  readonly show: (instruction: { readonly url: string; readonly code: string }) => Promise<void>;
}

/** Gets a token that the user lets us have in a browser of any machine. Rejects with CliError. */
export async function loginToOidc(io: Io, options: OidcLoginOptions): Promise<NewToken> {
  const scope = options.scope ?? defaultScope;
  const detail = { issuer: options.issuer, clientId: options.clientId, scope };
  return translated(io, async () => {
    const provider = await find(detail);
    if (!provider.serverMetadata().device_authorization_endpoint) {
      throw new CliError(`${options.issuer} lets nobody log in by a code: it has no device flow`);
    }
    const device = await initiateDeviceAuthorization(provider, { scope });
    await options.show({ url: device.verification_uri, code: device.user_code });
    const tokens = await pollDeviceAuthorizationGrant(provider, device, undefined, { signal: io.signal });
    return newToken(tokens, detail, '');
  });
}

/** Logins by OpenID providers, renewed by what the provider gave for that. */
export const oidcLogin: LoginMethod = {
  async renew(io, { detail, refreshToken }) {
    if (!refreshToken) return undefined;
    return translated(io, async () => {
      const tokens = await refreshTokenGrant(await find(detail), refreshToken);
      return tokens.id_token ? newToken(tokens, detail, refreshToken) : undefined;
    });
  },
  async revoke(io, { detail, refreshToken }) {
    if (!refreshToken) return;
    await translated(io, async () => {
      const provider = await find(detail);
      if (provider.serverMetadata().revocation_endpoint) await tokenRevocation(provider, refreshToken);
    });
  },
};

async function find({ issuer = '', clientId = '' }: Login['detail']): Promise<Configuration> {
  const url = URL.canParse(issuer) ? new URL(issuer) : undefined;
  const loopback = url?.protocol === 'http:' && ['localhost', '127.0.0.1', '[::1]'].includes(url.hostname);
  if (!url || (url.protocol !== 'https:' && !loopback)) {
    throw new UsageError(`"${issuer}" is not the address of an OpenID provider: expected https://…`);
  }
  const execute = loopback ? [allowInsecureRequests] : [];
  return discovery(url, clientId, undefined, None(), { timeout: timeoutS, execute });
}

function newToken(
  tokens: TokenEndpointResponse & TokenEndpointResponseHelpers,
  detail: Login['detail'],
  refreshToken: string,
): NewToken {
  const claims = tokens.claims();
  if (!tokens.id_token || !claims) throw new CliError('the provider gave no ID token: is "openid" in the scope?');
  const named = [claims.preferred_username, claims.email].find((name) => typeof name === 'string' && name !== '');
  return {
    token: tokens.id_token,
    issueTimeMs: claims.iat * 1000,
    expireTimeMs: claims.exp * 1000,
    who: String(named ?? claims.sub),
    detail,
    // Some give another one each time, and some keep the first.
    refreshToken: tokens.refresh_token ?? refreshToken,
  };
}

/** What goes wrong is told in one sentence, and nothing of a token with it. */
async function translated<T>(io: Io, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof CliError) throw cause;
    if (io.signal.aborted) throw new CliError('interrupted', exitStatus.interrupted, { cause });
    const said = cause instanceof Error ? cause : new Error(String(cause));
    // Only what the provider answers is a no: all else is that it cannot be asked.
    const code = 'error' in said && typeof said.error === 'string' ? said.error : '';
    if (code === '' || temporary.has(code)) {
      const { cause: why } = said;
      const detail = why instanceof Error && 'code' in why && typeof why.code === 'string' ? ` (${why.code})` : '';
      const message = `the OpenID provider cannot be asked: ${code || said.message}${detail}`;
      throw new CliError(message, exitStatus.unavailable, { cause });
    }
    const reason =
      { access_denied: 'it was refused', expired_token: 'the code has expired', invalid_grant: 'the login has ended' }[
        code
      ] ?? code;
    throw new CliError(`the OpenID provider does not let you in: ${reason}`, exitStatus.denied, { cause });
  }
}
