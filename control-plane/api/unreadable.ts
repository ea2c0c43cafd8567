import type { DescMethod } from '@bufbuild/protobuf';
import { Code, ConnectError, type ConnectRouter, type ContextValues } from '@connectrpc/connect';
import type { UniversalHandler, UniversalServerResponse } from '@connectrpc/connect/protocol';
import { codeToHttpStatus } from '@connectrpc/connect/protocol-connect';
import { trailerFlag, trailerParse, trailerSerialize } from '@connectrpc/connect/protocol-grpc-web';
import { requestIdKey, unreadKey } from './call.ts';

/*
 * To connect-node a binary message that cannot be read is INTERNAL, an error of ours; it is the caller's. Streams pass it through the
 * interceptors, where `readable` mends it. Of unary calls it is found before them, and all that is left to mend is the answer.
 */

const marker = 'parse binary: ';
const told = (detail: string): string => `the message cannot be read: ${detail}`;

/** The error as it should have been, if it says that a message cannot be read; else as it is. */
export function readable(error: ConnectError): ConnectError {
  if (error.code !== Code.Internal || !error.rawMessage.startsWith(marker)) return error;
  return new ConnectError(
    told(error.rawMessage.slice(marker.length)),
    Code.InvalidArgument,
    undefined,
    undefined,
    error,
  );
}

/** Hears of a unary call that was refused before the interceptors saw it: its message cannot be read, or is too large. */
export type Unread = (method: DescMethod, values: ContextValues, code: Code) => void;

/** Has the unary handlers of a router answer INVALID_ARGUMENT to what they cannot read. */
export function mendUnaryAnswers(router: ConnectRouter, unread: Unread): void {
  for (const [i, handler] of router.handlers.entries()) {
    if (handler.method.methodKind !== 'unary') continue;
    const mended: UniversalHandler = Object.assign(async (request: Parameters<UniversalHandler>[0]) => {
      const response = await handler(request);
      const { contextValues } = request;
      if (contextValues && contextValues.get(requestIdKey) === '') {
        const known = contextValues.get(unreadKey);
        const code = isExhausted(response) ? Code.ResourceExhausted : Code.InvalidArgument;
        unread(handler.method, contextValues, known instanceof ConnectError ? known.code : code);
      }
      return mend(response);
    }, handler);
    router.handlers[i] = mended;
  }
}

const isExhausted = ({ status, trailer }: UniversalServerResponse): boolean =>
  status === codeToHttpStatus(Code.ResourceExhausted) || trailer?.get('grpc-status') === String(Code.ResourceExhausted);

function mend(response: UniversalServerResponse): UniversalServerResponse | Promise<UniversalServerResponse> {
  const type = response.header?.get('content-type') ?? '';
  if (response.status === codeToHttpStatus(Code.Internal) && type === 'application/json') return mendConnect(response);
  // An answer without a message: its status is there from the start.
  if (response.trailer) mendStatus(response.trailer);
  return type.startsWith('application/grpc-web') ? mendGrpcWeb(response) : response;
}

async function mendConnect(response: UniversalServerResponse): Promise<UniversalServerResponse> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of response.body ?? []) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const answer = parseJson(body);
  const message = answer?.message;
  if (typeof message !== 'string' || !message.startsWith(marker)) return { ...response, body: once(body) };
  const mended = Buffer.from(
    JSON.stringify({ ...answer, code: 'invalid_argument', message: told(message.slice(marker.length)) }),
  );
  response.header?.set('content-length', String(mended.byteLength));
  return { ...response, status: codeToHttpStatus(Code.InvalidArgument), body: once(mended) };
}

/** An error as the protocol writes it. Undefined when the body is packed, or none. */
function parseJson(body: Buffer): { readonly message?: unknown } | undefined {
  try {
    const value: unknown = JSON.parse(body.toString('utf8'));
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}

function mendStatus(fields: Headers): boolean {
  if (fields.get('grpc-status') !== String(Code.Internal)) return false;
  const message = decodeURIComponent(fields.get('grpc-message') ?? '');
  if (!message.startsWith(marker)) return false;
  fields.set('grpc-status', String(Code.InvalidArgument));
  fields.set('grpc-message', encodeURIComponent(told(message.slice(marker.length))));
  return true;
}

const headBytes = 5;

/** In gRPC-Web the status is the last frame of the body; of a failed unary call it is the only one, and the whole of its chunk. */
function mendGrpcWeb(response: UniversalServerResponse): UniversalServerResponse {
  const { body } = response;
  if (!body || !(Symbol.asyncIterator in body)) return response;
  return { ...response, body: mendFrames(body) };
}

async function* mendFrames(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  for await (const chunk of body) {
    const bytes = Buffer.from(chunk);
    const fields = bytes[0] === trailerFlag ? trailerParse(bytes.subarray(headBytes)) : undefined;
    if (!fields || !mendStatus(fields)) {
      yield bytes;
      continue;
    }
    const trailer = trailerSerialize(fields);
    const head = Buffer.alloc(headBytes);
    head[0] = trailerFlag;
    head.writeUInt32BE(trailer.byteLength, 1);
    yield Buffer.concat([head, trailer]);
  }
}

async function* once<T>(value: T): AsyncGenerator<T> {
  yield value;
}
