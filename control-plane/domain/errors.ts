/**
 * What can go wrong, as the rules see it. One interceptor (api/interceptors/errors.ts) maps each to its gRPC code.
 * The message is for the caller: it names what is wrong and what was expected, and holds no secret.
 */
export abstract class DomainError extends Error {
  override get name(): string {
    return this.constructor.name;
  }
}

/** A field has a value that it cannot have. INVALID_ARGUMENT. */
export class InvalidError extends DomainError {
  /** Path of the field, as `container.spec.image`. */
  readonly field: string;
  constructor(field: string, message: string, options?: ErrorOptions) {
    super(field ? `${field}: ${message}` : message, options);
    this.field = field;
  }
}

/** There is no such object, or it is not the caller's to see. NOT_FOUND. */
export class NotFoundError extends DomainError {}

/** The name is taken. ALREADY_EXISTS. */
export class AlreadyExistsError extends DomainError {}

/** The object's state does not allow it. FAILED_PRECONDITION. */
export class PreconditionError extends DomainError {}

/** Somebody else was faster: the etag is not the object's any more. ABORTED. */
export class ConflictError extends DomainError {}

/** A limit is reached. RESOURCE_EXHAUSTED. */
export class ExhaustedError extends DomainError {}

/** Not built yet, and said so. UNIMPLEMENTED. */
export class UnimplementedError extends DomainError {}

/** The caller proves no identity. UNAUTHENTICATED. */
export class UnauthenticatedError extends DomainError {}

/** The caller may not. PERMISSION_DENIED. */
export class DeniedError extends DomainError {
  /** Who it is that has no rights here at all. Empty: whoever is the call's principal. */
  readonly subject: string;
  constructor(message: string, options: ErrorOptions & { readonly subject?: string } = {}) {
    super(message, options);
    this.subject = options.subject ?? '';
  }
}

/** Something that we need is away; it may be tried again. UNAVAILABLE. */
export class UnavailableError extends DomainError {}

/** The revision to go on from is no longer kept. OUT_OF_RANGE. */
export class CompactedError extends DomainError {
  readonly oldestRevision: number;
  constructor(revision: number, oldestRevision: number) {
    super(
      `revision ${revision} is no longer kept, the oldest to go on from is ${oldestRevision}: list again, and watch from there`,
    );
    this.oldestRevision = oldestRevision;
  }
}
