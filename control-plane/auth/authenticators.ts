import type { Principal } from '../domain/principal.ts';
import type { AuthenticateOptions, Authenticator, Credentials } from './port.ts';

/**
 * Several authenticators as one: they are asked in order, and the first that knows the caller answers. Those that answer from memory come first: what
 * one of them knows is never sent to another. One that fails hides nobody else's yes; where nobody says yes, its failure is the answer, not a no.
 */
export function firstOf(authenticators: readonly Authenticator[]): Authenticator {
  return {
    authenticate(credentials, options) {
      let failure: Failure | undefined;
      for (const [i, authenticator] of authenticators.entries()) {
        try {
          const answer = authenticator.authenticate(credentials, options);
          // Waited for only where it has to be: most answers are at hand, and a call without a wait is cheaper.
          if (answer instanceof Promise) {
            return firstOfRest({ answer, rest: authenticators.slice(i + 1), failure, credentials, options });
          }
          if (answer) return answer;
        } catch (error) {
          failure ??= { error };
        }
      }
      if (failure) throw failure.error;
      return undefined;
    },
  };
}

interface Failure {
  readonly error: unknown;
}

interface Rest {
  /** Of the one that is being waited for. */
  readonly answer: Promise<Principal | undefined>;
  readonly rest: readonly Authenticator[];
  readonly failure: Failure | undefined;
  readonly credentials: Credentials;
  readonly options: AuthenticateOptions | undefined;
}

async function firstOfRest({
  answer,
  rest,
  failure: earlier,
  credentials,
  options,
}: Rest): Promise<Principal | undefined> {
  let failure = earlier;
  try {
    const principal = await answer;
    if (principal) return principal;
  } catch (error) {
    failure ??= { error };
  }
  for (const authenticator of rest) {
    try {
      const principal = await authenticator.authenticate(credentials, options);
      if (principal) return principal;
    } catch (error) {
      failure ??= { error };
    }
  }
  if (failure) throw failure.error;
  return undefined;
}
