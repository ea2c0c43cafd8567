import { createHash } from 'node:crypto';
import { type DescMessage, type Message, toBinary } from '@bufbuild/protobuf';

/** How a write is repeated safely: the same id means the same request. */
export interface RequestId {
  /** Empty: none. */
  readonly id: string;
  /** Digest of what is asked for; made only when there is an id. */
  fingerprint(): string;
}
export const noRequestId: RequestId = { id: '', fingerprint: () => '' };

/** A request id with the digest of its request, by which a repetition is told from another request with the same id. */
export function requestIdOf(schema: DescMessage, request: Message & { readonly requestId: string }): RequestId {
  if (!request.requestId) return noRequestId;
  // Taken before the request's parts are given away.
  const fingerprint = createHash('sha256')
    .update(schema.typeName)
    .update(toBinary(schema, request))
    .digest('base64url');
  return { id: request.requestId, fingerprint: () => fingerprint };
}
