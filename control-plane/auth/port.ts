import type { Principal } from '../domain/principal.ts';

/** Finds out who is calling: by the admin token, and by others behind the same interface. */
export interface Authenticator {
  /**
   * Undefined: these credentials are not of a kind that it knows, or not valid. Throws or rejects with DeniedError for who is known, and has no
   * rights here; with ExhaustedError as `mayAsk` says; with UnavailableError while it cannot find out, as whoever knows is away. With nothing else for what a caller sends.
   */
  authenticate(
    credentials: Credentials,
    options?: AuthenticateOptions,
  ): Principal | undefined | Promise<Principal | undefined>;
}

/** How credentials are to be looked at. */
export interface AuthenticateOptions {
  /** How old an answer may be that is still remembered, in milliseconds. Default: as the authenticator thinks right. */
  readonly maxAgeMs?: number;
  /**
   * Asked before somebody else is asked about credentials that were not seen before. False: too many such have come from where these do, and
   * ExhaustedError is thrown. Default: always.
   */
  readonly mayAsk?: () => boolean;
}

/** What a caller sends to prove who it is. */
export interface Credentials {
  /** Of `Authorization: Bearer`, or of `X-Auth-Token` as OpenStack's clients send it. */
  readonly token: string;
}

/** Challenges for nodes to prove that they have the private part of a key. Nothing is kept of a challenge. */
export interface NodeProofs {
  /** Good for a minute and for this key only. */
  challenge(publicKey: string): Uint8Array;
  /** Throws DeniedError when the proof does not hold. */
  verify(proof: { readonly publicKey: string; readonly challenge: Uint8Array; readonly signature: Uint8Array }): void;
}

/** Hears of what was changed beside the API about who is let in. `code`: for the audit log, as `token_file_read`. */
export type OnRightsChange = (code: string, message: string) => void;
