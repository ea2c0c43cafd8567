import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import type { Store } from '../store/port.ts';
import { AccessTokens } from './access_tokens.ts';
import { AdminToken } from './admin_token.ts';
import type { AuthConfig } from './auth_options.ts';
import { firstOf } from './authenticators.ts';
import type { Authenticator, OnRightsChange } from './port.ts';
import { TokenFile } from './token_file.ts';
import { TokenRetention } from './token_retention.ts';

/** Options of {@link openAuthenticators}. */
export interface OpenAuthenticatorsOptions {
  readonly config: AuthConfig;
  readonly dataDir: string;
  readonly store: Store;
  readonly clock: { now(): number };
  readonly log: Logger;
  readonly registry: Registry;
  readonly onChange?: OnRightsChange;
}

/** All ways to say who is calling, as one. */
export interface OpenAuthenticators extends AsyncDisposable {
  readonly authenticator: Authenticator;
}

/**
 * Opens every way to say who is calling that is configured. The admin token is always one of them, so that nothing is ever open and nobody is ever locked
 * out. Rejects with one sentence.
 */
export async function openAuthenticators(options: OpenAuthenticatorsOptions): Promise<OpenAuthenticators> {
  const stack = new AsyncDisposableStack();
  try {
    // Those that answer from memory first: what they know is sent to nobody else.
    const authenticators: Authenticator[] = [
      stack.use(await AdminToken.open(options)),
      stack.use(await AccessTokens.open(options)),
    ];
    const { keystone, oidc, tokenFile, keepTokensMs } = options.config;
    stack.use(new TokenRetention({ ...options, keepTokensMs }));
    if (tokenFile) authenticators.push(stack.use(await TokenFile.open({ ...options, file: tokenFile })));
    if (oidc) {
      // Loaded only where it is wanted.
      const { oidcAuthenticator } = await import('./oidc/authenticator.ts');
      authenticators.push(oidcAuthenticator({ ...options, config: oidc }));
    }
    if (keystone) {
      const { openKeystone } = await import('./keystone/open_keystone.ts');
      const opened = stack.use(await openKeystone({ ...options, config: keystone }));
      authenticators.push(opened.authenticator);
    }
    const built = stack.move();
    return { authenticator: firstOf(authenticators), [Symbol.asyncDispose]: () => built.disposeAsync() };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}
