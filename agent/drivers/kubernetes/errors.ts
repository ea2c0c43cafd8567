import type { IncomingHttpHeaders } from 'node:http';
import type { V1Status } from '@kubernetes/client-node/dist/gen/models/V1Status.js';
import { ClusterError, type ClusterErrorCause, type ClusterErrorKind } from '../cluster_error.ts';

/** What a cluster's errors mean. Past this file an error is a kind. */

/** An answer that is no success. */
export interface ErrorAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  /** The kind of object that the request was about, as in paths. */
  readonly plural?: string;
}

/** Of what a proxy or a broken server says instead of a Status. */
const maxForeignWords = 500;

/** The API server's Status, or whatever came instead of it. */
export function statusError({ status, headers, body, plural }: ErrorAnswer): ClusterError {
  const said = parseStatus(body);
  const message = said?.message?.trim() || foreignWords(body) || `the API server answered ${status}`;
  const causes = (said?.details?.causes ?? []).map(
    ({ reason, message: words, field }): ClusterErrorCause => ({
      reason: reason ?? '',
      message: words ?? '',
      field: field ?? '',
    }),
  );
  const kind = kindOf(status, said, message, causes, plural);
  return new ClusterError(kind, message, {
    status,
    reason: said?.reason ?? '',
    causes,
    retryAfterMs: retryAfterMs(said, headers),
    retryable: retryable(status, kind, causes, message),
  });
}

/** As `statusError`, for a Status that came by itself: in a watch, or at the end of a command. */
export function statusObjectError(status: V1Status): ClusterError {
  return statusError({ status: status.code ?? 500, headers: {}, body: JSON.stringify(status) });
}

export function parseStatus(body: string): V1Status | undefined {
  if (!body.startsWith('{')) return undefined;
  try {
    const value = JSON.parse(body) as V1Status;
    return value.kind === 'Status' ? value : undefined;
  } catch {
    return undefined;
  }
}

function kindOf(
  status: number,
  said: V1Status | undefined,
  message: string,
  causes: readonly ClusterErrorCause[],
  plural: string | undefined,
): ClusterErrorKind {
  // A webhook chooses the code of its refusal itself; that it could not be asked comes as 500.
  if (/^admission webhook "[^"]*" (denied|attempted)|failed calling (admission )?webhook/.test(message)) {
    return 'admission-denied';
  }
  // That a manifest does not fit the schema (an unknown field, a list with the same key twice) comes from an apply as 500.
  if (status === 500 && /^failed to create typed/.test(message)) return 'invalid';
  switch (status) {
    case 401:
      return 'unauthorized';
    case 403:
      if (
        causes.some(({ reason }) => reason === 'NamespaceTerminating') ||
        /because it is being terminated/.test(message)
      ) {
        return 'namespace-terminating';
      }
      // Access rules speak of a user; what else forbids is a quota, a security rule or another check at admission.
      return /forbidden: User "/.test(message) || !/ is forbidden: /.test(message) ? 'forbidden' : 'admission-denied';
    case 404:
      return said?.details?.kind === 'namespaces' && plural !== 'namespaces' ? 'namespace-not-found' : 'not-found';
    case 409:
      return said?.reason === 'AlreadyExists' ? 'already-exists' : 'conflict';
    case 410:
      return 'gone';
    case 429:
      return 'throttled';
    case 408:
    case 504:
      return 'timeout';
    case 400:
    case 406:
    case 413:
    case 415:
    case 422:
      return 'invalid';
    default:
      return status >= 500 ? 'unavailable' : 'other';
  }
}

/** A namespace that was just made has no service account for a moment, and no pod can be in it. */
const notReadyYet = /error looking up service account|no API token found for service account/;

/** Undefined: by kind. */
function retryable(
  status: number,
  kind: ClusterErrorKind,
  causes: readonly ClusterErrorCause[],
  message: string,
): boolean | undefined {
  if (kind === 'admission-denied') return status >= 500 || notReadyYet.test(message);
  // Somebody else was faster; only fields that belong to others stay theirs.
  if (kind === 'conflict') return !causes.some(({ reason }) => reason === 'FieldManagerConflict');
  return undefined;
}

function retryAfterMs(said: V1Status | undefined, headers: IncomingHttpHeaders): number | undefined {
  const seconds = said?.details?.retryAfterSeconds ?? Number(headers['retry-after'] || Number.NaN);
  return Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : undefined;
}

function foreignWords(body: string): string {
  const words = body.replaceAll(/(?:<[^>]*>|\s)+/g, ' ').trim();
  return words.length > maxForeignWords ? `${words.slice(0, maxForeignWords)}…` : words;
}

/** Errors of OpenSSL's and Node.js' checks of a certificate. */
const certificateCode =
  /^(CERT_|UNABLE_TO_|DEPTH_ZERO_|SELF_SIGNED_|ERR_TLS_CERT_|HOSTNAME_MISMATCH|INVALID_CA|PATH_LENGTH)/;

/** Whether the API server could not prove who it is. */
export const isCertificateError = (cause: unknown): boolean => certificateCode.test(codeOf(cause));

/** A connection that could not be made, or that broke off. */
export function connectionError(cause: unknown, target: string): ClusterError {
  if (cause instanceof ClusterError) return cause;
  const code = codeOf(cause);
  const message = cause instanceof Error ? cause.message || code : String(cause);
  if (isCertificateError(cause)) {
    return new ClusterError('unavailable', `the certificate of the API server at ${target} is not good: ${message}`, {
      cause,
      reason: 'Certificate',
    });
  }
  const why = code && !message.includes(code) ? `${code}: ${message}` : message;
  return new ClusterError('unavailable', `the API server at ${target} is away (${why})`, { cause });
}

function codeOf(cause: unknown): string {
  const code: unknown = typeof cause === 'object' && cause !== null ? Reflect.get(cause, 'code') : undefined;
  return typeof code === 'string' ? code : '';
}
