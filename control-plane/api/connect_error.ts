import { Code, ConnectError } from '@connectrpc/connect';
import {
  AlreadyExistsError,
  CompactedError,
  ConflictError,
  DeniedError,
  DomainError,
  ExhaustedError,
  InvalidError,
  NotFoundError,
  PreconditionError,
  UnauthenticatedError,
  UnavailableError,
  UnimplementedError,
} from '../domain/errors.ts';
import { badRequestDetail, errorInfoDetail } from './error_details.ts';
import { RulesError } from './message_rules.ts';
import { readable } from './unreadable.ts';

type ErrorClass = abstract new (...args: never[]) => DomainError;

/** Which code each error of the rules has: the one place where that is said. */
const codes: readonly (readonly [ErrorClass, Code])[] = [
  [InvalidError, Code.InvalidArgument],
  [NotFoundError, Code.NotFound],
  [AlreadyExistsError, Code.AlreadyExists],
  [PreconditionError, Code.FailedPrecondition],
  [ConflictError, Code.Aborted],
  [ExhaustedError, Code.ResourceExhausted],
  [UnimplementedError, Code.Unimplemented],
  [UnauthenticatedError, Code.Unauthenticated],
  [DeniedError, Code.PermissionDenied],
  [UnavailableError, Code.Unavailable],
  [CompactedError, Code.OutOfRange],
];

/**
 * The error as the caller gets it. What is not an error of the rules is INTERNAL: it goes to `onUnexpected`, and the caller learns nothing of
 * it but `requestId`.
 */
export function toConnectError(error: unknown, onUnexpected: (error: unknown) => void, requestId = ''): ConnectError {
  if (error instanceof ConnectError) return readable(error);
  if (error instanceof DomainError) {
    const code = codes.find(([type]) => error instanceof type)?.[1] ?? Code.Unknown;
    const converted = new ConnectError(shortened(error.message, maxMessageLength), code, undefined, undefined, error);
    if (error instanceof InvalidError) converted.details.push(badRequestDetail(violationsOf(error)));
    if (error instanceof CompactedError) {
      converted.details.push(errorInfoDetail('REVISION_COMPACTED', { oldest_revision: String(error.oldestRevision) }));
    }
    return converted;
  }
  onUnexpected(error);
  const reference = requestId ? ` (request ${requestId})` : '';
  return new ConnectError(
    `something went wrong that should not; the server's log says more${reference}`,
    Code.Internal,
  );
}

function violationsOf(error: InvalidError): readonly { readonly field: string; readonly message: string }[] {
  const violations =
    error instanceof RulesError
      ? error.violations
      : [{ field: error.field, message: error.message.replace(`${error.field}: `, '') }];
  return violations.map(({ field, message }) => ({
    field: shortened(field, maxFieldLength),
    message: shortened(message, maxDetailLength),
  }));
}

/*
 * What a caller sent may be in the message, a name of a megabyte say. In gRPC an error travels in headers, of which many clients take no more
 * than 8 KiB.
 */
const maxMessageLength = 1000;
const maxFieldLength = 128;
const maxDetailLength = 200;

/** The beginning of a text, as text that any encoder takes. */
export function shortened(text: string, length: number): string {
  return (text.length > length ? `${text.slice(0, length - 1)}…` : text).toWellFormed();
}

const codeNames = new Map<number, string>(
  Object.entries(Code).flatMap(([name, code]) =>
    typeof code === 'number'
      ? [[code, name.replaceAll(/(?<=[a-z])[A-Z]/g, (c) => `_${c}`).toLowerCase()] as const]
      : [],
  ),
);
/** As gRPC names it, in small letters: `permission_denied`. */
export const codeName = (code: Code): string => codeNames.get(code) ?? String(code);
