import { createHash } from 'node:crypto';
import {
  createRemoteJWKSet,
  customFetch,
  decodeJwt,
  errors,
  type FetchImplementation,
  type JWTPayload,
  jwtVerify,
} from 'jose';
import { allowInsecureRequests, discovery, None } from 'openid-client';
import type { Logger } from 'pino';
import { DeniedError, UnavailableError } from '../../domain/errors.ts';
import type { Principal } from '../../domain/principal.ts';
import type { AuthenticateOptions, Authenticator, Credentials } from '../port.ts';
import { principalOfClaims } from './claims.ts';
import type { OidcConfig } from './oidc_options.ts';

/** Options of {@link oidcAuthenticator}. */
export interface OidcAuthenticatorOptions {
  readonly config: OidcConfig;
  readonly clock: { now(): number };
  readonly log: Logger;
  /** How long one question to the provider may take. Default 5 s. */
  readonly timeoutMs?: number;
  /** How long an answer is believed without looking at the signature again. Default 60 s. */
  readonly cacheMs?: number;
  /** How long the provider's keys are believed: one that it takes back is void after that. Default 5 min. */
  readonly keysMs?: number;
  /** A key that is not known is looked for at most so often, and a provider that is away asked again. Default 10 s. */
  readonly cooldownMs?: number;
}

type Keys = ReturnType<typeof createRemoteJWKSet>;
interface Known {
  readonly principal: Principal;
  readonly seenMs: number;
}

/** How many tokens are remembered; those that were looked at longest ago are forgotten. */
const maxKnown = 10_000;
/** Signatures by keys that both sides have to keep secret are none here. */
const algorithms = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA'];

/**
 * Lets in whoever has a token that an OpenID provider has signed for us. The provider is found when it is first needed, and need not be there when the
 * control plane starts. A token of another issuer, or no JWT at all, is somebody else's to know.
 */
export function oidcAuthenticator(options: OidcAuthenticatorOptions): Authenticator {
  const { config, clock, log, cacheMs = 60_000 } = options;
  const known = new Map<string, Known>();
  const provider = new Provider(options);

  const verify = async (token: string): Promise<Principal | undefined> => {
    const keys = await provider.keys();
    try {
      const { payload } = await jwtVerify(token, keys, {
        issuer: config.issuer,
        audience: [...config.audiences],
        algorithms,
        clockTolerance: config.clockSkewMs / 1000,
        currentDate: new Date(clock.now()),
        requiredClaims: ['exp'],
      });
      checkParty(payload, config.audiences);
      const expireTimeMs = (payload.exp ?? 0) * 1000 + config.clockSkewMs;
      return { ...principalOfClaims(payload, config.claims), expireTimeMs };
    } catch (error) {
      if (error instanceof DeniedError) throw error;
      if (error instanceof KeysError || error instanceof errors.JWKSInvalid) throw provider.away(error);
      // Unknown keys among them, which were looked for anew as far as that is allowed, and keys that cannot be used.
      const reason = error instanceof errors.JOSEError ? error.code : String(error);
      log.debug({ reason }, 'a token of the OpenID provider does not hold');
      return undefined;
    }
  };

  return {
    authenticate({ token }: Credentials, { maxAgeMs = cacheMs }: AuthenticateOptions = {}) {
      if (!token.startsWith('ey')) return undefined;
      const key = createHash('sha256').update(token).digest('base64');
      const nowMs = clock.now();
      const before = known.get(key);
      if (before && isFresh(before, nowMs, Math.min(cacheMs, maxAgeMs))) return before.principal;
      if (issuerOf(token) !== config.issuer) return undefined;
      return verify(token).then(
        (principal) => {
          known.delete(key);
          if (!principal) return undefined;
          if (known.size >= maxKnown) forgetFirst(known);
          known.set(key, { principal, seenMs: nowMs });
          return principal;
        },
        (error: unknown) => {
          // It was wanted newer than it is, and cannot be had newer.
          if (error instanceof UnavailableError && before && isFresh(before, clock.now(), cacheMs))
            return before.principal;
          known.delete(key);
          throw error;
        },
      );
    },
  };
}

/** The provider's keys could not be had. */
class KeysError extends Error {
  override readonly name = 'KeysError';
}

/** Where the provider's keys are, and the keys. */
class Provider {
  readonly #options: OidcAuthenticatorOptions;
  #keys: Promise<Keys> | undefined;
  #keysFailedMs = Number.NEGATIVE_INFINITY;
  #askedMs = Number.NEGATIVE_INFINITY;
  #failure: unknown;

  constructor(options: OidcAuthenticatorOptions) {
    this.#options = options;
  }

  /** Rejects with UnavailableError. */
  keys(): Promise<Keys> {
    const { clock, cooldownMs = 10_000 } = this.#options;
    const nowMs = clock.now();
    if (!this.#keys) {
      // One that is away is not asked for each call.
      if (Math.abs(nowMs - this.#askedMs) < cooldownMs) return Promise.reject(this.away(this.#failure));
      this.#askedMs = nowMs;
      this.#keys = this.#discover().catch((error: unknown) => {
        this.#keys = undefined;
        this.#failure = error;
        this.#options.log.error({ err: error }, 'the OpenID provider cannot be found');
        throw this.away(error);
      });
    }
    return this.#keys;
  }

  away(cause: unknown): UnavailableError {
    const message = 'the OpenID provider cannot be asked at the moment for its keys: try again a little later';
    return new UnavailableError(message, { cause });
  }

  async #discover(): Promise<Keys> {
    const { config, timeoutMs = 5_000, keysMs = 300_000, cooldownMs = 10_000 } = this.#options;
    const url = new URL(config.issuer);
    const found = await discovery(url, config.audiences[0] ?? '', undefined, None(), {
      timeout: timeoutMs / 1000,
      execute: url.protocol === 'http:' ? [allowInsecureRequests] : [],
    });
    const { jwks_uri: address } = found.serverMetadata();
    if (!address) throw new Error(`the OpenID provider ${config.issuer} does not say where its keys are`);
    const keysUrl = new URL(address);
    if (keysUrl.protocol !== 'https:' && url.protocol === 'https:') {
      throw new Error(`the OpenID provider ${config.issuer} has its keys at an address that is not https`);
    }
    return createRemoteJWKSet(keysUrl, {
      timeoutDuration: timeoutMs,
      cacheMaxAge: keysMs,
      cooldownDuration: cooldownMs,
      [customFetch]: (...request) => this.#fetchKeys(...request),
    });
  }

  /** By itself, the library asks for each call as long as it gets no keys. */
  async #fetchKeys(...[address, request]: Parameters<FetchImplementation>): Promise<Response> {
    const { clock, log, cooldownMs = 10_000 } = this.#options;
    if (Math.abs(clock.now() - this.#keysFailedMs) < cooldownMs) throw new KeysError('they could not be had just now');
    try {
      const response = await fetch(address, request);
      if (response.status !== 200) throw new Error(`the answer has status ${response.status}`);
      const answer: unknown = await response.json();
      if (!Array.isArray((answer as { keys?: unknown } | null)?.keys))
        throw new Error('the answer has no list of keys');
      return Response.json(answer);
    } catch (cause) {
      this.#keysFailedMs = clock.now();
      log.error({ err: cause, address }, 'the keys of the OpenID provider cannot be had');
      throw new KeysError('they could not be had', { cause });
    }
  }
}

/**
 * A token for several has to have been given to us, or to another of ours: else somebody it is also for could pass it on to us (OpenID Connect
 * Core 3.1.3.7). Throws DeniedError.
 */
function checkParty({ aud, azp }: JWTPayload, audiences: readonly string[]): void {
  if (!Array.isArray(aud) || aud.length < 2 || (typeof azp === 'string' && audiences.includes(azp))) return;
  throw new DeniedError(
    azp === undefined
      ? 'this token is for several audiences, and has no claim "azp" that says to whom it was given'
      : 'this token is for several audiences, and claim "azp" says that it was given to somebody who is unknown here',
  );
}

/** The issuer that a token names, whether that is true or not. Undefined: it is no JWT. */
function issuerOf(token: string): string | undefined {
  try {
    return decodeJwt(token).iss;
  } catch {
    return undefined;
  }
}

const isFresh = ({ principal, seenMs }: Known, nowMs: number, mostMs: number): boolean =>
  nowMs >= seenMs && nowMs - seenMs <= mostMs && (principal.expireTimeMs ?? 0) > nowMs;

function forgetFirst(known: Map<string, unknown>): void {
  const first = known.keys().next();
  if (!first.done) known.delete(first.value);
}
