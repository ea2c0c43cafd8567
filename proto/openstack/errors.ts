/** What is said of a cloud (clouds.yaml, `OS_*` variables) cannot be used. The message names the field, and what was expected. */
export class CloudError extends Error {
  override readonly name = 'CloudError';
}

/**
 * Why Keystone did not do what it was asked: `unavailable` (away, too slow, or failing: it may be tried again), `unauthorized` (it does not know
 * these credentials, or not any more), `forbidden` (it does, and they do not suffice), `invalid` (what answers is no Keystone v3, or says what
 * nobody can understand).
 */
export type KeystoneFailure = 'unavailable' | 'unauthorized' | 'forbidden' | 'invalid';

/** Keystone did not do what it was asked. The message holds no secret. */
export class KeystoneError extends Error {
  override readonly name = 'KeystoneError';
  readonly failure: KeystoneFailure;
  constructor(failure: KeystoneFailure, message: string, options?: ErrorOptions) {
    super(message, options);
    this.failure = failure;
  }
}
