import type { IncomingHttpHeaders } from 'node:http';
import type { DescMethod } from '@bufbuild/protobuf';
import { ConnectError, type ContextValues } from '@connectrpc/connect';
import { unreadKey } from './api/call.ts';
import { toConnectError } from './api/connect_error.ts';
import type { Incoming, Intake } from './api/intake.ts';
import { DomainError } from './domain/errors.ts';

/** What of a request of Node.js, over HTTP/1.1 or HTTP/2, is needed here. */
interface MeteredRequest extends AsyncIterable<Buffer> {
  readonly headers: IncomingHttpHeaders;
}

export interface MeterOptions {
  readonly intake: Intake;
  readonly method: DescMethod;
  /** Of the call. Why it cannot be read is left there. */
  readonly values: ContextValues;
  /** Ends the call when it takes too long to come in. */
  readonly cut: () => void;
}

/** Has the body of a request counted as connect-node reads it. Returns what says that the call is over. */
export function meter(request: MeteredRequest, { intake, method, values, cut }: MeterOptions): () => void {
  const { headers } = request;
  const header = { get: (name: string) => headers[name]?.toString() ?? null };
  const packed = (header.get('grpc-encoding') ?? header.get('content-encoding') ?? 'identity') !== 'identity';
  let incoming: Incoming | undefined;
  const begin = request[Symbol.asyncIterator].bind(request);
  const refused = (error: unknown): ConnectError => {
    const converted = toConnectError(error, () => undefined);
    values.set(unreadKey, converted);
    return converted;
  };
  const counted = async function* () {
    const chunks = begin();
    let isWhole = false;
    try {
      incoming = intake.begin({ method, header, values }, cut);
      for (let next = await chunks.next(); !next.done; next = await chunks.next()) {
        await incoming.take(next.value.length, packed);
        yield next.value;
      }
      isWhole = true;
      incoming.complete();
    } catch (error) {
      // What breaks on its way is no refusal of ours.
      throw error instanceof DomainError || error instanceof ConnectError ? refused(error) : error;
    } finally {
      if (!isWhole) void leaveOut(chunks);
    }
  };
  Object.defineProperty(request, Symbol.asyncIterator, { value: counted });
  return () => incoming?.end();
}

/** Takes the rest for nothing: over HTTP/1.1 the next call comes after it on the same connection, and its answer would not be read before it is sent. */
async function leaveOut(chunks: AsyncIterator<Buffer>): Promise<void> {
  try {
    while (!(await chunks.next()).done);
  } catch {
    // The caller went away.
  }
}
