/** Why there are no credentials. The message is for people and is complete. */
export class EnrollError extends Error {
  override readonly name = 'EnrollError';
  /**
   * `unavailable`: the control plane did not answer, it may be tried again. `clock`: the node's clock is too far off.
   * `denied`: the token is no good, or the node was revoked. `invalid`: asking again changes nothing.
   */
  readonly kind: 'unavailable' | 'clock' | 'denied' | 'invalid';
  constructor(kind: EnrollError['kind'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}
