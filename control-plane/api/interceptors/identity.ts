import type { DescMethod } from '@bufbuild/protobuf';
import { MethodOptions_IdempotencyLevel } from '@bufbuild/protobuf/wkt';
import type { ContextValues, Interceptor, StreamRequest } from '@connectrpc/connect';
import { type ApplyRequest, ApplyRequestSchema } from '../../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import type { Authenticator, Credentials } from '../../auth/port.ts';
import { DeniedError, ExhaustedError, UnauthenticatedError } from '../../domain/errors.ts';
import { networkOf } from '../../domain/ip.ts';
import { inProject, type Principal, projectHeader } from '../../domain/principal.ts';
import { type RateLimit, TokenBuckets } from '../../domain/token_bucket.ts';
import { auditedCall } from '../audited_call.ts';
import { cutKey, peerKey, principalKey } from '../call.ts';
import type { Identify } from '../intake.ts';
import { includesRole, type Permission } from '../permissions.ts';
import { guarded, type SessionGuard } from '../session_guard.ts';

/** Options of {@link createIdentity}. */
export interface IdentityOptions {
  readonly authenticator: Authenticator;
  /** What it takes to call a method: that of permissions.ts. Undefined: nobody may. */
  readonly permissionOf: (method: DescMethod) => Permission | undefined;
  /** Of calls of one subject; each manifest that is applied is one. */
  readonly callerLimit: RateLimit;
  /** Of calls of open methods, questions in their streams among them, and of failures to say who is calling, from one address. */
  readonly peerLimit: RateLimit;
  readonly clock: { now(): number };
  /** Watches over the callers of open streams. */
  readonly guard: SessionGuard;
}

/** Who is calling, and what they may. */
export interface Identity {
  /** Turns a token into a principal, and lets nobody call what is not theirs, or more than their share. */
  readonly interceptor: Interceptor;
  /** Who makes a call that is not read yet. */
  readonly identify: Identify;
}

export function createIdentity(options: IdentityOptions): Identity {
  const callers = new TokenBuckets(options.callerLimit, options.clock);
  const peers = new TokenBuckets(options.peerLimit, options.clock);
  const takePeer = (values: ContextValues): boolean => peers.take(networkOf(values.get(peerKey)));

  const find = (credentials: Credentials | undefined, values: ContextValues): Principal | Promise<Principal> => {
    let counted = false;
    const mayAsk = (): boolean => {
      counted = true;
      return takePeer(values);
    };
    const known = (principal: Principal | undefined): Principal => {
      if (principal) return principal;
      if (!counted && !takePeer(values)) throw tooMany(options.peerLimit);
      throw new UnauthenticatedError(
        credentials
          ? 'this token is not known here'
          : 'a token is required: "Authorization: Bearer TOKEN", or "X-Auth-Token: TOKEN"',
      );
    };
    const failed = (error: unknown): never => {
      // Whoever has no rights here has no share of calls, either.
      if (error instanceof DeniedError && !counted && !takePeer(values)) throw tooMany(options.peerLimit);
      throw error;
    };
    let answer: ReturnType<Authenticator['authenticate']>;
    try {
      answer = credentials && options.authenticator.authenticate(credentials, { mayAsk });
    } catch (error) {
      return failed(error);
    }
    // Awaited only where it has to be: most answers are at hand.
    return answer instanceof Promise ? answer.then(known, failed) : known(answer);
  };

  const identify: Identify = ({ method, header, values }) => {
    if (options.permissionOf(method) === 'open') {
      throw new ExhaustedError(`the message is larger than what ${method.name} takes`);
    }
    const found = find(credentialsOf(header), values);
    return found instanceof Promise ? found.then(nameOf) : nameOf(found);
  };

  const interceptor: Interceptor = (next) => async (request) => {
    const { contextValues } = request;
    const needed = options.permissionOf(request.method);
    if (needed === 'open') {
      const count = (): void => {
        if (!takePeer(contextValues)) throw tooMany(options.peerLimit);
      };
      count();
      return next(request.stream ? { ...request, message: eachCounted(request.message, count) } : request);
    }
    const credentials = credentialsOf(request.header);
    const found = find(credentials, contextValues);
    const principal = found instanceof Promise ? await found : found;
    // Also of one that is refused it is recorded who it was.
    contextValues.set(principalKey, principal);
    if (!callers.take(nameOf(principal), callsIn(request))) throw tooMany(options.callerLimit);
    if (!needed || !includesRole(principal.role, needed)) throw denied(principal, request.method, needed);
    const project = request.header.get(projectHeader);
    const caller = project === null ? principal : inProject(principal, project, reads(request.method, needed));
    contextValues.set(principalKey, caller);
    return request.stream && credentials
      ? guardStream(options.guard, credentials, principal, request, next)
      : next(request);
  };
  return { interceptor, identify };
}

/** Many manifests in one call are as many calls. */
const callsIn = ({ stream, method, message }: Parameters<Next>[0]): number =>
  !stream && method.input.typeName === ApplyRequestSchema.typeName
    ? Math.max(1, (message as ApplyRequest).manifests.length)
    : 1;

const nameOf = ({ project, subject }: Principal): string => `${project}/${subject}`;

/** Each question of a stream is one, as if it were a call; the first is the call. */
async function* eachCounted<T>(messages: AsyncIterable<T>, count: () => void): AsyncGenerator<T> {
  let isFirst = true;
  for await (const message of messages) {
    if (!isFirst) count();
    isFirst = false;
    yield message;
  }
}

type Next = Parameters<Interceptor>[0];

/** A call that may last: it ends when its caller is not let in any more. */
async function guardStream(
  guard: SessionGuard,
  credentials: Credentials,
  principal: Principal,
  request: StreamRequest,
  next: Next,
): ReturnType<Next> {
  const { method, contextValues } = request;
  const call = () => auditedCall(method, contextValues);
  const stream = guard.watch(credentials, principal, contextValues.get(cutKey), call);
  // Whoever goes away before the first answer leaves nobody to go through the others.
  request.signal.addEventListener('abort', () => stream.end(), { once: true });
  try {
    const response = await next({ ...request, signal: AbortSignal.any([request.signal, stream.signal]) });
    if (response.stream) return { ...response, message: guarded(response.message, stream) };
    stream.end();
    return response;
  } catch (error) {
    stream.end();
    stream.signal.throwIfAborted();
    throw error;
  }
}

const tooMany = ({ perSecond }: RateLimit): ExhaustedError =>
  new ExhaustedError(`too many calls: ${perSecond} a second are allowed. Try again a little later`);

/** Watches and logs do not say in the contract that they only read; what a reader may call does. */
const reads = ({ idempotency }: DescMethod, needed: Permission): boolean =>
  needed === 'reader' || idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS;

function denied(
  { subject, project, role }: Principal,
  { name }: DescMethod,
  needed: Permission | undefined,
): DeniedError {
  if (!needed) return new DeniedError(`nobody may call ${name}: it is not in the table of permissions`);
  return new DeniedError(`${subject} has role ${role} in project ${project}, and ${name} needs role ${needed}`);
}

/** The credentials in a request's headers. Undefined: none. */
function credentialsOf(header: Pick<Headers, 'get'>): Credentials | undefined {
  const authorization = header.get('authorization');
  if (authorization !== null) {
    const match = /^Bearer +(\S+) *$/i.exec(authorization);
    return match?.[1] ? { token: match[1] } : undefined;
  }
  const token = header.get('x-auth-token');
  return token ? { token } : undefined;
}
