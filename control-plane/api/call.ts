import { createContextKey, type HandlerContext } from '@connectrpc/connect';
import { UnauthenticatedError } from '../domain/errors.ts';
import type { Principal } from '../domain/principal.ts';

/** Who is calling; set by the identity interceptor. */
export const principalKey = createContextKey<Principal | undefined>(undefined, { description: 'principal' });
/** The caller's network address; set by the server. Empty: not known. */
export const peerKey = createContextKey<string>('', { description: 'peer' });

/** Breaks the caller's stream, whether it reads or not; set by the server for calls that may last. */
export const cutKey = createContextKey<() => void>(() => undefined, { description: 'cut' });
/** What the call is named; set by the outermost interceptor. */
export const requestIdKey = createContextKey<string>('', { description: 'request id' });

/** How long the caller waits, in milliseconds; set by the server. Undefined: without end. */
export const timeoutKey = createContextKey<number | undefined>(undefined, { description: 'timeout' });

/** Who is calling. Throws UnauthenticatedError when nobody has been let in: a method that needs nobody does not ask. */
export function principalOf(context: Pick<HandlerContext, 'values'>): Principal {
  const principal = context.values.get(principalKey);
  if (!principal) throw new UnauthenticatedError('the caller is not known');
  return principal;
}

/** Why the message of a call cannot be read: the call is to be refused with it, once it is known whose it is. Undefined: it was read. */
export const unreadKey = createContextKey<Error | undefined>(undefined, { description: 'unread' });
