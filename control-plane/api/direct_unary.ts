import { constants, type IncomingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import { create, type DescMethodUnary, type DescService, isMessage, type Message } from '@bufbuild/protobuf';
import {
  Code,
  ConnectError,
  type ConnectRouter,
  type ContextValues,
  type HandlerContext,
  type Interceptor,
  type ServiceImpl,
  type UnaryRequest,
  type UnaryResponse,
} from '@connectrpc/connect';
import { DomainError } from '../domain/errors.ts';
import type { Answers } from './answers.ts';
import { timeoutKey, unreadKey } from './call.ts';
import { toConnectError } from './connect_error.ts';
import { type Codec, type CodecOptions, codecs } from './direct_codec.ts';
import type { Incoming, Intake } from './intake.ts';

/*
 * Unary calls over HTTP/2, in the gRPC and Connect protocols, without compression: nearly every call there is. connect-node serves them too, by way of
 * web Requests, async generators and abort signals that a unary call has no use for; that costs more than all the rest of a call. What is not
 * plain (streams, compression, GET, gRPC-Web, HTTP/1.1, a content type that is not known here) is left to it.
 */

/** Options of {@link createDirectUnary}. */
export interface DirectUnaryOptions extends CodecOptions {
  readonly routes: (router: ConnectRouter) => void;
  readonly interceptors: readonly Interceptor[];
  readonly readMaxBytes: number;
  readonly writeMaxBytes: number;
  readonly intake: Intake;
  readonly answers: Answers;
}

/** Serves a stream if it can. False: it is somebody else's. */
export type DirectUnary = (
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  contextValues: () => ContextValues,
) => boolean;

type Next = (request: UnaryRequest) => Promise<UnaryResponse>;
interface DirectMethod {
  readonly method: DescMethodUnary;
  readonly service: DescService;
  readonly call: Next;
}

/** Collects the unary methods of the routes; the chain of interceptors is put together once for each. */
export function createDirectUnary(options: DirectUnaryOptions): DirectUnary {
  const methods = collect(options);
  return (stream, headers, contextValues) => {
    if (headers[':method'] !== 'POST') return false;
    const codec = codecs.get(headers['content-type'] ?? '');
    const target = codec && methods.get(headers[':path'] ?? '');
    if (!target || isCompressed(headers)) return false;
    serve(options, target, codec, stream, headers, contextValues());
    return true;
  };
}

function isCompressed(headers: IncomingHttpHeaders): boolean {
  const encoding = headers['grpc-encoding'] ?? headers['content-encoding'];
  return encoding !== undefined && encoding !== 'identity';
}

function collect({ routes, interceptors }: DirectUnaryOptions): ReadonlyMap<string, DirectMethod> {
  const methods = new Map<string, DirectMethod>();
  const recorder: ConnectRouter = {
    handlers: [],
    service<T extends DescService>(service: T, implementation: Partial<ServiceImpl<T>>) {
      for (const method of service.methods) {
        const handle = (implementation as Record<string, Handle | undefined>)[method.localName];
        if (method.methodKind !== 'unary' || !handle) continue;
        const unary = method as DescMethodUnary;
        const call = chain(service, unary, handle.bind(implementation), interceptors);
        methods.set(`/${service.typeName}/${method.name}`, { service, method: unary, call });
      }
      return recorder;
    },
    // Routes of single methods are none of ours.
    rpc: () => recorder,
  };
  routes(recorder);
  return methods;
}

type Handle = (request: Message, context: HandlerContext) => Promise<Answer> | Answer;
type Answer = Record<string, unknown>;

function chain(
  service: DescService,
  method: DescMethodUnary,
  handle: Handle,
  interceptors: readonly Interceptor[],
): Next {
  const { output } = method;
  const last: Next = async (request) => {
    const answer = await handle(request.message, contextOf(request));
    return {
      stream: false,
      service,
      method,
      header: new Headers(),
      trailer: new Headers(),
      message: isMessage(answer, output) ? answer : create(output, answer),
    };
  };
  // An interceptor takes any call and returns its like: of unary calls it makes unary calls.
  return interceptors.reduceRight<Next>(
    (next, interceptor) => interceptor(next as ReturnType<Interceptor>) as Next,
    last,
  );
}

function contextOf(request: UnaryRequest): HandlerContext {
  return {
    service: request.service,
    method: request.method,
    signal: request.signal,
    timeoutMs: () => request.contextValues.get(timeoutKey),
    requestMethod: request.requestMethod,
    requestHeader: request.header,
    responseHeader: new Headers(),
    responseTrailer: new Headers(),
    protocolName: '',
    values: request.contextValues,
    url: request.url,
  };
}

function serve(
  options: DirectUnaryOptions,
  target: DirectMethod,
  codec: Codec,
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  contextValues: ContextValues,
): void {
  const chunks: Buffer[] = [];
  let size = 0;
  let ended = false;
  const finish = (write: () => void): void => {
    if (ended) return;
    ended = true;
    if (stream.destroyed || stream.closed) return;
    try {
      write();
    } catch {
      // Headers that HTTP/2 does not take, or a stream that has ended in this moment: this call is lost, and no other.
      stream.close(constants.NGHTTP2_INTERNAL_ERROR);
    }
  };
  const fail = (error: unknown): void => {
    finish(() => codec.fail(stream, ConnectError.from(error, Code.Internal)));
  };
  // A caller that goes away: nobody is left to be told.
  stream.on('error', () => undefined);
  let incoming: Incoming | undefined;
  let called = false;
  // What cannot be read is refused by the interceptors, as other calls are: once it is known whose it is.
  const call = (read: () => Message): void => {
    if (called) return;
    called = true;
    incoming?.complete();
    let message: Message;
    try {
      message = read();
      takeTimeout(codec, headers, contextValues);
    } catch (error) {
      message = create(target.method.input);
      contextValues.set(unreadKey, error instanceof Error ? error : new Error(String(error)));
    }
    let request: UnaryRequest;
    try {
      request = requestOf(target, message, stream, headers, contextValues);
    } catch (error) {
      fail(error);
      return;
    }
    target
      .call(request)
      .then(({ message, header }) => {
        const body = codec.encode(target.method, message, options);
        if (body.byteLength > options.writeMaxBytes + codec.overheadBytes) {
          const limit = `the answer is larger than ${options.writeMaxBytes} bytes: ask for less at a time`;
          throw new ConnectError(limit, Code.ResourceExhausted);
        }
        const release = options.answers.hold(target.method, contextValues, body.byteLength);
        stream.once('close', release);
        if (stream.closed) release();
        finish(() => codec.answer(stream, header, body));
      })
      .catch((error: unknown) => fail(error instanceof DomainError ? toConnectError(error, () => undefined) : error));
  };
  const refuse = (error: unknown): void => {
    chunks.length = 0;
    call(() => {
      throw error;
    });
  };
  stream.once('close', () => incoming?.end());
  try {
    const header = { get: (name: string) => headerOf(headers, name) };
    incoming = options.intake.begin({ method: target.method, header, values: contextValues }, refuse);
  } catch (error) {
    refuse(error);
  }
  stream.on('data', (chunk: Buffer) => {
    if (called) return;
    size += chunk.length;
    try {
      if (size > options.readMaxBytes + codec.overheadBytes) {
        const limit = `the message is larger than ${options.readMaxBytes} bytes`;
        throw new ConnectError(limit, Code.ResourceExhausted);
      }
      chunks.push(chunk);
      const known = incoming?.take(chunk.length);
      if (!known) return;
      stream.pause();
      known.catch(refuse).finally(() => stream.resume());
    } catch (error) {
      refuse(error);
    }
  });
  stream.on('end', () => {
    call(() =>
      codec.decode(target.method, chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks), options),
    );
  });
}

function headerOf(headers: IncomingHttpHeaders, name: string): string | null {
  const value = headers[name];
  if (value === undefined) return null;
  return Array.isArray(value) ? value.join(', ') : value;
}

function requestOf(
  { service, method }: DirectMethod,
  message: Message,
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  contextValues: ContextValues,
): UnaryRequest {
  const header = new Headers();
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined && !name.startsWith(':')) header.set(name, Array.isArray(value) ? value.join(', ') : value);
  }
  const abort = new AbortController();
  stream.once('aborted', () => abort.abort(new ConnectError('the caller went away', Code.Canceled)));
  return {
    stream: false,
    service,
    method,
    message,
    header,
    contextValues,
    signal: abort.signal,
    requestMethod: 'POST',
    url: headers[':path'] ?? '',
  };
}

function takeTimeout(codec: Codec, headers: IncomingHttpHeaders, contextValues: ContextValues): void {
  const value = headers[codec.timeoutHeader];
  if (value === undefined) return;
  const timeout = codec.parseTimeout(String(value), Number.MAX_SAFE_INTEGER);
  if (timeout.error) throw timeout.error;
  contextValues.set(timeoutKey, timeout.timeoutMs);
}
