import { type DescMessage, type MessageShape, toJson } from '@bufbuild/protobuf';
import { ErrorReason } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';

/** A message of an agent that is not taken, and what the agent should do about it. */
export class RefusedError extends Error {
  override readonly name: string = 'RefusedError';
  readonly reason: ErrorReason;
  constructor(reason: ErrorReason, message: string) {
    super(message);
    this.reason = reason;
  }
}

/**
 * Throws RefusedError unless what an agent says has a JSON form. A time outside of the years 1 to 9999 has none: kept, it would make every
 * answer fail that it is a part of.
 */
export function refuseUnreadable<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): void {
  try {
    toJson(schema, message);
  } catch (error) {
    throw new RefusedError(
      ErrorReason.INVALID,
      `a ${schema.name} that cannot be shown: ${error instanceof Error ? error.message : error}`,
    );
  }
}
