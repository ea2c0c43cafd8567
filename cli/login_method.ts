import type { Io } from './io.ts';

/** What `bayctl login` keeps for a context: a token that ends, and what it takes to get the next one. Never a password. */
export interface Login {
  /** How it was got: the key of `loginMethods` in login.ts. */
  readonly method: string;
  /** The control plane that it is for. */
  readonly server: string;
  readonly token: string;
  /** Unix milliseconds. */
  readonly issueTimeMs: number;
  readonly expireTimeMs: number;
  /** Who it is, for people: `alice@Default in red`. */
  readonly who: string;
  /** What the method needs to know of it. No secrets. */
  readonly detail: Readonly<Record<string, string>>;
  /** What the next token is got with, where the method has such a thing. */
  readonly refreshToken?: string;
}

/** A token, and what is known of it. */
export type NewToken = Omit<Login, 'method' | 'server'>;

/** A way to log in. */
export interface LoginMethod {
  /** The next token, without asking anybody. Undefined: what it takes is not at hand. Rejects with CliError. */
  renew(io: Io, login: Login): Promise<NewToken | undefined>;
  /** Makes the token nobody's. Rejects with CliError. */
  revoke(io: Io, login: Login): Promise<void>;
}
