import type { OutgoingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import {
  type DescMethodUnary,
  fromBinary,
  fromJsonString,
  type JsonReadOptions,
  type JsonWriteOptions,
  type Message,
  toBinary,
  toJsonString,
} from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import {
  codeToHttpStatus,
  errorToJsonBytes,
  parseTimeout as parseConnectTimeout,
} from '@connectrpc/connect/protocol-connect';
import { parseTimeout as parseGrpcTimeout, setTrailerStatus } from '@connectrpc/connect/protocol-grpc';
import { shortened } from './connect_error.ts';

/** What the codecs of plain unary calls are given. */
export interface CodecOptions {
  readonly jsonOptions: Partial<JsonReadOptions & JsonWriteOptions>;
}

/** How one protocol reads a request and writes an answer. */
export interface Codec {
  readonly timeoutHeader: string;
  readonly parseTimeout: typeof parseConnectTimeout;
  /** Bytes around a message. */
  readonly overheadBytes: number;
  decode(method: DescMethodUnary, body: Buffer, options: CodecOptions): Message;
  encode(method: DescMethodUnary, message: Message, options: CodecOptions): Uint8Array;
  answer(stream: ServerHttp2Stream, header: Headers, body: Uint8Array): void;
  fail(stream: ServerHttp2Stream, error: ConnectError): void;
}

/** Reads by `read`; what cannot be read is the caller's mistake. */
function reading<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof ConnectError) throw error;
    const detail = shortened(error instanceof Error ? error.message : String(error), 500);
    throw new ConnectError(`the message cannot be read: ${detail}`, Code.InvalidArgument, undefined, undefined, error);
  }
}

function fieldsOf(header: Headers): OutgoingHttpHeaders {
  const fields: OutgoingHttpHeaders = {};
  header.forEach((value, name) => {
    fields[name] = value;
  });
  return fields;
}

const frameBytes = 5;

function unframe(body: Buffer): Buffer {
  if (body.length < frameBytes || body.readUInt32BE(1) !== body.length - frameBytes) {
    throw new ConnectError('protocol error: not exactly one message was sent', Code.InvalidArgument);
  }
  if (body[0] !== 0)
    throw new ConnectError('protocol error: a message is compressed, and nothing says how', Code.Internal);
  return body.subarray(frameBytes);
}

function frame(body: Uint8Array): Buffer {
  const framed = Buffer.allocUnsafe(frameBytes + body.byteLength);
  framed[0] = 0;
  framed.writeUInt32BE(body.byteLength, 1);
  framed.set(body, frameBytes);
  return framed;
}

const grpc: Codec = {
  timeoutHeader: 'grpc-timeout',
  parseTimeout: parseGrpcTimeout,
  overheadBytes: frameBytes,
  decode: (method, body) => {
    const bytes = unframe(body);
    return reading(() => fromBinary(method.input, bytes));
  },
  encode: (method, message) => frame(toBinary(method.output, message)),
  answer(stream, header, body) {
    stream.respond(
      { ':status': 200, 'content-type': 'application/grpc+proto', ...fieldsOf(header) },
      { waitForTrailers: true },
    );
    stream.once('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end(body);
  },
  fail(stream, error) {
    const trailer = fieldsOf(setTrailerStatus(new Headers(), error));
    stream.respond({ ':status': 200, 'content-type': 'application/grpc+proto', ...trailer }, { endStream: true });
  },
};

const connect = {
  timeoutHeader: 'connect-timeout-ms',
  parseTimeout: parseConnectTimeout,
  overheadBytes: 0,
  fail(stream: ServerHttp2Stream, error: ConnectError): void {
    const body = errorToJsonBytes(error, undefined);
    stream.respond({
      ':status': codeToHttpStatus(error.code),
      ...fieldsOf(error.metadata),
      'content-type': 'application/json',
      'content-length': body.byteLength,
    });
    stream.end(body);
  },
};

function respond(stream: ServerHttp2Stream, type: string, header: Headers, body: Uint8Array): void {
  stream.respond({ ':status': 200, 'content-type': type, 'content-length': body.byteLength, ...fieldsOf(header) });
  stream.end(body);
}

const connectProto: Codec = {
  ...connect,
  decode: (method, body) => reading(() => fromBinary(method.input, body)),
  encode: (method, message) => toBinary(method.output, message),
  answer: (stream, header, body) => respond(stream, 'application/proto', header, body),
};

const connectJson: Codec = {
  ...connect,
  decode: (method, body, { jsonOptions }) =>
    reading(() => fromJsonString(method.input, body.length === 0 ? '{}' : body.toString('utf8'), jsonOptions)),
  encode: (method, message, { jsonOptions }) => Buffer.from(toJsonString(method.output, message, jsonOptions)),
  answer: (stream, header, body) => respond(stream, 'application/json', header, body),
};

/** By content type. */
export const codecs: ReadonlyMap<string, Codec> = new Map([
  ['application/grpc', grpc],
  ['application/grpc+proto', grpc],
  ['application/proto', connectProto],
  ['application/json', connectJson],
]);
