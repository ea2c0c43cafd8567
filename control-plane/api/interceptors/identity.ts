import type { DescMethod } from '@bufbuild/protobuf';
import { MethodOptions_IdempotencyLevel } from '@bufbuild/protobuf/wkt';
import type { Interceptor } from '@connectrpc/connect';
import type { Authenticator, Credentials } from '../../auth/port.ts';
import { DeniedError, ExhaustedError, UnauthenticatedError } from '../../domain/errors.ts';
import { peerKey, principalKey } from '../call.ts';
import { type RateLimit, TokenBuckets } from '../token_bucket.ts';

/** Options of {@link identityInterceptor}. */
export interface IdentityOptions {
  readonly authenticator: Authenticator;
  /** Full names of the services that anybody may call. */
  readonly openServices: ReadonlySet<string>;
  /** Of calls of one subject. */
  readonly callerLimit: RateLimit;
  /** Of calls of open services, and of failures to say who is calling, from one address. */
  readonly peerLimit: RateLimit;
  readonly clock: { now(): number };
}

/** Turns a token into a principal, and lets nobody call more than their share. */
export function identityInterceptor(options: IdentityOptions): Interceptor {
  const callers = new TokenBuckets(options.callerLimit, options.clock);
  const peers = new TokenBuckets(options.peerLimit, options.clock);
  return (next) => async (request) => {
    const peer = request.contextValues.get(peerKey);
    if (options.openServices.has(request.service.typeName)) {
      if (!peers.take(peer)) throw tooMany(options.peerLimit);
      return next(request);
    }
    const credentials = credentialsOf(request.header);
    // Awaited only where it has to be: most answers are at hand.
    const answer = credentials && options.authenticator.authenticate(credentials);
    const principal = answer instanceof Promise ? await answer : answer;
    if (!principal) {
      if (!peers.take(peer)) throw tooMany(options.peerLimit);
      throw new UnauthenticatedError(
        credentials
          ? 'this token is not known here'
          : 'a token is required: "Authorization: Bearer TOKEN", or "X-Auth-Token: TOKEN"',
      );
    }
    if (!callers.take(`${principal.project}/${principal.subject}`)) throw tooMany(options.callerLimit);
    if (principal.role === 'reader' && !isRead(request.method)) {
      throw new DeniedError(
        `${principal.subject} has role reader in project ${principal.project}, which may only read`,
      );
    }
    request.contextValues.set(principalKey, principal);
    return next(request);
  };
}

const tooMany = ({ perSecond }: RateLimit): ExhaustedError =>
  new ExhaustedError(`too many calls: ${perSecond} a second are allowed. Try again a little later`);

/** Methods that say so in the contract, watches, and logs. */
function isRead(method: DescMethod): boolean {
  return (
    method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS ||
    (method.methodKind === 'server_streaming' && (method.name.startsWith('Watch') || method.name === 'Logs'))
  );
}

/** The credentials in a request's headers. Undefined: none. */
function credentialsOf(header: Headers): Credentials | undefined {
  const authorization = header.get('authorization');
  if (authorization !== null) {
    const match = /^Bearer +(\S+) *$/i.exec(authorization);
    return match?.[1] ? { token: match[1] } : undefined;
  }
  const token = header.get('x-auth-token');
  return token ? { token } : undefined;
}
