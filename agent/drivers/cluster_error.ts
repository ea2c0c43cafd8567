export type ClusterErrorKind =
  /** 401, or there are no credentials to be had (a file is missing, a plugin failed). */
  | 'unauthorized'
  /** 403 by the cluster's access rules. */
  | 'forbidden'
  /** 403 or other by admission: a webhook that said no or could not be asked (then it is retryable), a quota, a pod security rule. */
  | 'admission-denied'
  /** Of an object, a kind or a path. */
  | 'not-found'
  /** The object's namespace does not exist. */
  | 'namespace-not-found'
  /** The object's namespace is being deleted. */
  | 'namespace-terminating'
  | 'already-exists'
  /** 409: somebody else's fields, another resourceVersion, another uid. */
  | 'conflict'
  /** 400, 413, 415, 422: the cluster will not have it as it is. */
  | 'invalid'
  /** 429. */
  | 'throttled'
  /** 410: of a resourceVersion or a continue token. */
  | 'gone'
  /** A container that does not run, for streams. */
  | 'not-running'
  /** No connection, or 5xx. */
  | 'unavailable'
  /** No answer in time; it may have been done. */
  | 'timeout'
  /** Called off by the caller. */
  | 'cancelled'
  | 'other';

/** One of several things that are wrong. */
export interface ClusterErrorCause {
  /** As `FieldValueInvalid`, `FieldManagerConflict`; may be empty. */
  readonly reason: string;
  readonly message: string;
  /** As `spec.containers[0].image`; may be empty. */
  readonly field: string;
}

export interface ClusterErrorOptions extends ErrorOptions {
  readonly status?: number;
  readonly reason?: string;
  readonly causes?: readonly ClusterErrorCause[];
  readonly retryAfterMs?: number;
  /** Default: by kind. */
  readonly retryable?: boolean;
}

/** Kinds that stay as they are until somebody changes the object, the rights or the cluster: tried again rarely. */
const lasting: ReadonlySet<ClusterErrorKind> = new Set([
  'unauthorized',
  'forbidden',
  'admission-denied',
  'not-found',
  'namespace-not-found',
  'already-exists',
  'conflict',
  'invalid',
  'not-running',
]);

/** All that a cluster driver rejects with. The message is for the user: the cluster's own words where it said something. */
export class ClusterError extends Error {
  override readonly name = 'ClusterError';
  readonly kind: ClusterErrorKind;
  /** Of HTTP. Undefined: there was no answer. */
  readonly status: number | undefined;
  /** The cluster's, as `AlreadyExists`; empty when it gave none. */
  readonly reason: string;
  /** The cluster's details; may be empty. */
  readonly causes: readonly ClusterErrorCause[];
  /** How long the cluster asks to wait before the next try. */
  readonly retryAfterMs: number | undefined;
  /** Whether it may go away by itself soon. */
  readonly retryable: boolean;
  constructor(kind: ClusterErrorKind, message: string, options: ClusterErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.kind = kind;
    this.status = options.status;
    this.reason = options.reason ?? '';
    this.causes = options.causes ?? [];
    this.retryAfterMs = options.retryAfterMs;
    this.retryable = options.retryable ?? !lasting.has(kind);
  }
}
