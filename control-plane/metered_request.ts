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
  /** Of one message. */
  readonly readMaxBytes: number;
}

/** Has the body of a request counted as connect-node reads it. Returns what says that the call is over. */
export function meter(request: MeteredRequest, options: MeterOptions): () => void {
  return options.method.methodKind === 'unary' ? meterCall(request, options) : meterStream(request, options);
}

function meterCall(request: MeteredRequest, { intake, method, values, cut }: MeterOptions): () => void {
  const header = headerOf(request);
  const packed = (header.get('grpc-encoding') ?? header.get('content-encoding') ?? 'identity') !== 'identity';
  let incoming: Incoming | undefined;
  replaceBody(request, values, async function* (begin) {
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
    } finally {
      if (!isWhole) void leaveOut(chunks);
    }
  });
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

/** Before each message of a stream: flags, of which the first says that it is packed, and the length. */
const headBytes = 5;

/** Of a stream what counts is the message that is coming in: who calls is looked at before the first, and each is gone when the next is read. */
function meterStream(request: MeteredRequest, { intake, method, values, cut, readMaxBytes }: MeterOptions): () => void {
  const arrival = { method, header: headerOf(request), values };
  let whole: Incoming | undefined;
  let message: Incoming | undefined;
  replaceBody(request, values, async function* (begin) {
    whole = intake.begin(arrival, cut);
    const head = Buffer.alloc(headBytes);
    let seen = 0;
    let left = 0;
    for await (const chunk of { [Symbol.asyncIterator]: begin }) {
      for (let at = 0; at < chunk.length; ) {
        const size = Math.min(left > 0 ? left : headBytes - seen, chunk.length - at);
        if (left > 0) {
          left -= size;
        } else {
          chunk.copy(head, seen, at, at + size);
          seen += size;
        }
        at += size;
        if (left > 0 || seen < headBytes) continue;
        if (message) {
          message.end();
          message = undefined;
          seen = 0;
          continue;
        }
        left = head.readUInt32BE(1);
        // What is too large for anybody is refused by who reads it, without waiting for it.
        const held = left > readMaxBytes ? 0 : left;
        message = intake.begin(arrival, cut);
        // It may be us who wait: for a command that takes its input when it likes.
        message.complete();
        await message.take(held, ((head[0] ?? 0) & 1) === 1);
        whole.complete();
        if (left === 0) {
          message.end();
          message = undefined;
          seen = 0;
        }
      }
      yield chunk;
    }
    whole.complete();
  });
  return () => {
    message?.end();
    whole?.end();
  };
}

const headerOf = ({ headers }: MeteredRequest): { get(name: string): string | null } => ({
  get: (name) => headers[name]?.toString() ?? null,
});

function replaceBody(
  request: MeteredRequest,
  values: ContextValues,
  counted: (begin: () => AsyncIterator<Buffer>) => AsyncIterable<Buffer>,
): void {
  const begin = request[Symbol.asyncIterator].bind(request);
  const value = async function* () {
    try {
      yield* counted(begin);
    } catch (error) {
      // What breaks on its way is no refusal of ours.
      if (!(error instanceof DomainError || error instanceof ConnectError)) throw error;
      const refusal = toConnectError(error, () => undefined);
      values.set(unreadKey, refusal);
      throw refusal;
    }
  };
  Object.defineProperty(request, Symbol.asyncIterator, { value });
}
