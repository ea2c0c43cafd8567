import type { Problem } from '../delivery.ts';
import { ClusterError, type ClusterErrorKind } from '../drivers/cluster_error.ts';
import type { forbiddenReason } from '../policy.ts';

/** How a cluster's refusals read for users and programs. */

const reasons: { readonly [K in ClusterErrorKind]: string } = {
  unauthorized: 'Unauthorized',
  forbidden: 'Forbidden',
  'admission-denied': 'AdmissionDenied',
  'not-found': 'NotFound',
  'namespace-not-found': 'NamespaceNotFound',
  'namespace-terminating': 'NamespaceTerminating',
  'already-exists': 'Conflict',
  conflict: 'Conflict',
  invalid: 'Invalid',
  throttled: 'Throttled',
  gone: 'Expired',
  'not-running': 'NotRunning',
  unavailable: 'ClusterUnavailable',
  timeout: 'ClusterTimeout',
  cancelled: 'Cancelled',
  other: 'ClusterError',
};

const remedies: Partial<Record<ClusterErrorKind, string>> = {
  unauthorized: "check the agent's credentials for the cluster",
  forbidden: "give the agent's user or service account that right",
  'namespace-not-found': 'make the namespace, or ask for it to be made (--create-namespace)',
  'namespace-terminating': 'it is made once the namespace is gone and there again',
};

/** gRPC codes, for verdicts. */
const codes: { readonly [K in ClusterErrorKind]: number } = {
  unauthorized: 14,
  forbidden: 7,
  'admission-denied': 9,
  'not-found': 5,
  'namespace-not-found': 9,
  'namespace-terminating': 9,
  'already-exists': 6,
  conflict: 10,
  invalid: 3,
  throttled: 8,
  gone: 10,
  'not-running': 9,
  unavailable: 14,
  timeout: 14,
  cancelled: 1,
  other: 13,
};

export const reasonOf = ({ kind }: ClusterError): string => reasons[kind];
export const codeOf = ({ kind }: ClusterError): number => codes[kind];

/** Longest message in a status. */
const maxMessageChars = 2048;
export const bounded = (message: string): string =>
  message.length > maxMessageChars ? `${message.slice(0, maxMessageChars - 1)}…` : message;

/** In the cluster's own words, and what can be done about it. */
export function messageOf(error: ClusterError): string {
  const remedy = remedies[error.kind];
  return bounded(remedy ? `${error.message}; ${remedy}` : error.message);
}

/** Why an object is not as asked. */
export function problemOf(error: unknown, retryTimeMs: number | undefined): Problem {
  if (error instanceof ClusterError) return { reason: reasonOf(error), message: messageOf(error), retryTimeMs };
  if (error instanceof ObjectError) return { reason: error.reason, message: bounded(error.message), retryTimeMs };
  return {
    reason: 'AgentError',
    message: bounded(error instanceof Error ? error.message : String(error)),
    retryTimeMs,
  };
}

/** Something about an object that the cluster does not refuse, and that cannot be done nevertheless. */
export class ObjectError extends Error {
  override readonly name = 'ObjectError';
  /** One word in CamelCase. */
  readonly reason: 'Conflict' | 'CannotReplace' | 'NotAsApplied' | typeof forbiddenReason;
  constructor(reason: ObjectError['reason'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

/** Whether it may go away by itself soon, without anybody changing anything. */
export const isPassing = (error: unknown): boolean => error instanceof ClusterError && error.retryable;

/** Whether the cluster could not be asked at all, which says nothing about an object. */
export const isAway = (error: unknown): error is ClusterError =>
  error instanceof ClusterError && (error.kind === 'unavailable' || error.kind === 'timeout');
