import { toBinary } from '@bufbuild/protobuf';
import { InvalidError } from './errors.ts';
import { type KindName, kinds } from './kinds.ts';
import { fieldName, type ObjectMessage } from './object.ts';

/**
 * How large what users write of one object may be, as protobuf: metadata and spec together. An assignment travels in one message of the bus, of 1 MiB
 * by default, so a larger object could never reach its node; and a page of objects stays within what is sent in one answer.
 */
export const maxObjectBytes = 512 * 1024;

/** How large an object is, with its status. */
export const sizeOf = (kind: KindName, object: ObjectMessage): number =>
  toBinary(kinds[kind].schema, object).byteLength;

/** Throws InvalidError for an object that is too large. `encodedBytes`: its size with its status, where that is known. */
export function checkSize(kind: KindName, object: ObjectMessage, encodedBytes = Number.POSITIVE_INFINITY): void {
  if (encodedBytes <= maxObjectBytes) return;
  const bytes = sizeOf(kind, { ...object, status: undefined });
  if (bytes <= maxObjectBytes) return;
  throw new InvalidError(
    fieldName[kind],
    `is ${bytes} bytes large, and may be ${maxObjectBytes} at most: put what is large into the image, or into a volume`,
  );
}
