import { randomUUID } from 'node:crypto';
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import {
  type Frame,
  FrameSchema,
  type StreamEnd,
  StreamOpenReplySchema,
  StreamOpenSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import {
  type ExecuteResponse,
  ExecuteResponseSchema,
  type ExecuteStart,
  type LogsRequest,
  type LogsResponse,
  LogsResponseSchema,
} from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import {
  type ExecutePodResponse,
  ExecutePodResponseSchema,
  type ExecutePodStart,
  type PodLogsRequest,
  type PodLogsResponse,
  PodLogsResponseSchema,
} from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import { downStreamSubject, downSubject, type NodeAddress, upStreamSubject } from '../../proto/subjects.ts';
import type { Bus, MessageSigner } from '../broker/port.ts';
import {
  type DomainError,
  InvalidError,
  NotFoundError,
  PreconditionError,
  UnavailableError,
} from '../domain/errors.ts';
import type { ExecuteInput, Streams, StreamTarget } from './port.ts';

/** Options of {@link StreamRelay}. */
export interface StreamRelayOptions {
  readonly bus: Bus;
  readonly signer: Pick<MessageSigner, 'seal'>;
  /** What an agent drew for its session; undefined: none is known. */
  readonly sessionOf: (nodeUid: string) => Uint8Array | undefined;
  /** How many bytes may be on their way from an agent. Default 256 KiB. */
  readonly windowBytes?: number;
  /** How often agents are to say how they are. A frame goes out at least as often, and every 10 s. Default 10 s. */
  readonly heartbeatMs?: number;
  /** Default: of `heartbeatMs`, at least 1 s. */
  readonly keepaliveMs?: number;
  /** Default: three times `keepaliveMs`. */
  readonly silenceMs?: number;
  /** How long an agent may take to open a stream. Default 15 s. */
  readonly openTimeoutMs?: number;
}

type What = NonNullable<MessageInitShape<typeof StreamOpenSchema>['what']>;
type FrameBody = NonNullable<MessageInitShape<typeof FrameSchema>['body']>;

const maxKeepaliveMs = 10_000;
/** Input is cut in pieces of this size. */
const inputChunkBytes = 64 * 1024;

/**
 * Carries the bytes of logs and commands between an agent and a caller. Neither side sends more than the other has said it has room for, so
 * a caller that reads slowly slows down the container's output and nothing piles up in between.
 */
export class StreamRelay implements Streams {
  readonly #options: Required<StreamRelayOptions>;
  /** By node. */
  readonly #streams = new Map<string, Set<RelayedStream>>();

  constructor(options: StreamRelayOptions) {
    const keepaliveMs =
      options.keepaliveMs ?? Math.min(maxKeepaliveMs, Math.max(1_000, options.heartbeatMs ?? maxKeepaliveMs));
    this.#options = {
      windowBytes: 256 * 1024,
      heartbeatMs: maxKeepaliveMs,
      keepaliveMs,
      silenceMs: 3 * keepaliveMs,
      openTimeoutMs: 15_000,
      ...options,
    };
  }

  /** How many streams are open now. */
  get open(): number {
    return [...this.#streams.values()].reduce((sum, { size }) => sum + size, 0);
  }

  /** The node's agent has lost its connection, or begun another session: it knows nothing any more of what is open. */
  agentGone(nodeUid: string): void {
    for (const stream of [...(this.#streams.get(nodeUid) ?? [])]) {
      stream.fail(new UnavailableError(`the agent of node "${stream.nodeName}" has gone: try again`));
    }
  }

  async *logs(target: StreamTarget, request: LogsRequest, signal: AbortSignal): AsyncIterable<LogsResponse> {
    for await (const frame of this.#run(target, { case: 'logs', value: request }, undefined, signal)) {
      const { body } = frame;
      if (body.case === 'stdout' || body.case === 'stderr') yield create(LogsResponseSchema, { output: body });
      if (body.case === 'end') return;
    }
  }

  async *execute(
    target: StreamTarget,
    start: ExecuteStart,
    input: AsyncIterable<ExecuteInput>,
    signal: AbortSignal,
  ): AsyncIterable<ExecuteResponse> {
    for await (const frame of this.#run(target, { case: 'execute', value: start }, input, signal)) {
      const { body } = frame;
      if (body.case === 'stdout' || body.case === 'stderr') yield create(ExecuteResponseSchema, { output: body });
      if (body.case === 'end') {
        yield create(ExecuteResponseSchema, { output: { case: 'exitCode', value: exitCodeOf(body.value) } });
        return;
      }
    }
  }

  async *podLogs(target: StreamTarget, request: PodLogsRequest, signal: AbortSignal): AsyncIterable<PodLogsResponse> {
    for await (const { body } of this.#run(target, { case: 'podLogs', value: request }, undefined, signal)) {
      if (body.case === 'stdout') yield create(PodLogsResponseSchema, { output: body.value });
      if (body.case === 'end') return;
    }
  }

  async *executePod(
    target: StreamTarget,
    start: ExecutePodStart,
    input: AsyncIterable<ExecuteInput>,
    signal: AbortSignal,
  ): AsyncIterable<ExecutePodResponse> {
    for await (const { body } of this.#run(target, { case: 'executePod', value: start }, input, signal)) {
      if (body.case === 'stdout' || body.case === 'stderr') yield create(ExecutePodResponseSchema, { output: body });
      if (body.case === 'end') {
        yield create(ExecutePodResponseSchema, { output: { case: 'exitCode', value: exitCodeOf(body.value) } });
        return;
      }
    }
  }

  async *#run(
    target: StreamTarget,
    what: What,
    input: AsyncIterable<ExecuteInput> | undefined,
    signal: AbortSignal,
  ): AsyncIterable<Frame> {
    const { bus, signer, sessionOf } = this.#options;
    const nonce = sessionOf(target.nodeUid);
    if (!nonce) throw new UnavailableError(`the agent of node "${target.nodeName}" has no session: try again`);
    const stream = new RelayedStream(target, nonce, this.#options);
    const ofNode = this.#streams.get(target.nodeUid) ?? new Set();
    this.#streams.set(target.nodeUid, ofNode.add(stream));
    const abort = () => {
      const { code, rawMessage } = ConnectError.from(signal.reason);
      // A server that is to stop says so.
      stream.fail(new UnavailableError(code === Code.Unavailable ? rawMessage : 'the call was cancelled'));
    };
    try {
      signal.addEventListener('abort', abort);
      if (signal.aborted) return;
      const request = create(StreamOpenSchema, {
        streamId: stream.id,
        objectUid: target.objectUid,
        creditBytes: this.#options.windowBytes,
        what,
      });
      const sealed = signer.seal(
        { ...addressOf(target), purpose: 'stream-open', nonce },
        toBinary(StreamOpenSchema, request),
      );
      const asked = bus
        .request(downSubject(target, 'open'), sealed, this.#options.openTimeoutMs)
        .catch((cause: unknown) => {
          // It has just gone, and nobody has noticed yet; or its engine takes too long.
          throw new UnavailableError(`the agent of node "${target.nodeName}" does not answer: try again`, { cause });
        });
      const answer = await Promise.race([asked, stream.failed]);
      const reply = fromBinary(StreamOpenReplySchema, answer);
      if (reply.error) throw errorOf(reply.error.code, reply.error.message);
      stream.opened(reply.creditBytes);
      if (input) stream.pump(input);
      yield* stream.frames();
    } finally {
      signal.removeEventListener('abort', abort);
      stream.close();
      ofNode.delete(stream);
      if (ofNode.size === 0) this.#streams.delete(target.nodeUid);
    }
  }
}

/** One open stream. */
class RelayedStream {
  readonly id = randomUUID();
  readonly #target: StreamTarget;
  /** Of the session that it is opened in. */
  readonly #nonce: Uint8Array;
  readonly #options: Required<StreamRelayOptions>;
  readonly #subscription: { unsubscribe(): void };
  readonly #queue: Frame[] = [];
  readonly #keepalive: NodeJS.Timeout;
  #wake: (() => void) | undefined;
  #wakeCredit: (() => void) | undefined;
  #failure: Error | undefined;
  readonly #failed = Promise.withResolvers<never>();
  #ended = false;
  #closed = false;
  #sequenceIn = 0;
  #sequenceOut = 0;
  #inputCredit = 0;
  #queuedBytes = 0;
  #owedBytes = 0;
  #lastHeardMs = Date.now();
  #opened = false;

  constructor(target: StreamTarget, nonce: Uint8Array, options: Required<StreamRelayOptions>) {
    this.#target = target;
    this.#nonce = nonce;
    this.#options = options;
    // Whoever waits for it hears of it; mostly nobody does.
    this.#failed.promise.catch(() => undefined);
    this.#subscription = options.bus.subscribe(upStreamSubject(target, this.id), ({ data }) => this.#take(data));
    this.#keepalive = setInterval(() => {
      if (!this.#opened) return;
      if (Date.now() - this.#lastHeardMs > options.silenceMs) {
        this.fail(
          new UnavailableError(`nothing was heard from node ${target.nodeName} for ${options.silenceMs / 1000} s`),
        );
      } else this.#send({ case: 'keepalive', value: true });
    }, options.keepaliveMs);
  }

  get nodeName(): string {
    return this.#target.nodeName;
  }

  /** Rejects when it fails. */
  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  opened(inputCredit: number): void {
    this.#opened = true;
    this.#lastHeardMs = Date.now();
    this.#inputCredit += inputCredit;
  }

  /** Output and the end, in order. */
  async *frames(): AsyncIterable<Frame> {
    for (;;) {
      const frame = this.#queue.shift();
      if (frame) {
        const { body } = frame;
        const size = body.case === 'stdout' || body.case === 'stderr' ? body.value.byteLength : 0;
        this.#queuedBytes -= size;
        yield frame;
        // Only now has the caller taken it.
        this.#grant(size);
        if (body.case === 'end') return;
        continue;
      }
      if (this.#failure) throw this.#failure;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Sends input as the agent has room for it. */
  pump(input: AsyncIterable<ExecuteInput>): void {
    const run = async () => {
      for await (const item of input) {
        if (this.#ended || this.#closed) return;
        if (item.case === 'stdin') await this.#write(item.value);
        else this.#send(item);
      }
    };
    run().catch((error: unknown) => this.fail(new UnavailableError('the input broke off', { cause: error })));
  }

  fail(error: Error): void {
    this.#failure ??= error;
    this.#failed.reject(error);
    this.#wake?.();
    this.#wakeCredit?.();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#keepalive);
    this.#subscription.unsubscribe();
    // Also when the request to open it timed out: it may have been opened after all.
    if (!this.#ended) this.#send({ case: 'end', value: {} });
    this.#queue.length = 0;
    this.#wakeCredit?.();
  }

  async #write(data: Uint8Array): Promise<void> {
    for (let from = 0; from < data.byteLength; ) {
      while (this.#inputCredit <= 0 && !this.#closed && !this.#failure && !this.#ended) {
        await new Promise<void>((resolve) => {
          this.#wakeCredit = resolve;
        });
      }
      if (this.#closed || this.#failure || this.#ended) return;
      const size = Math.min(inputChunkBytes, this.#inputCredit, data.byteLength - from);
      this.#inputCredit -= size;
      this.#send({ case: 'stdin', value: data.subarray(from, from + size) });
      from += size;
    }
  }

  #take(data: Uint8Array): void {
    this.#lastHeardMs = Date.now();
    let frame: Frame;
    try {
      frame = fromBinary(FrameSchema, data);
    } catch (error) {
      this.fail(new UnavailableError(`node ${this.#target.nodeName} sent what is not a frame`, { cause: error }));
      return;
    }
    if (frame.sequence !== this.#sequenceIn) {
      this.fail(new UnavailableError(`a part of the stream from node ${this.#target.nodeName} was lost`));
      return;
    }
    this.#sequenceIn += 1;
    const { body } = frame;
    switch (body.case) {
      case 'stdout':
      case 'stderr':
        this.#queuedBytes += body.value.byteLength;
        if (this.#queuedBytes > 2 * this.#options.windowBytes) {
          this.fail(new UnavailableError(`node ${this.#target.nodeName} sends more than it was given room for`));
          return;
        }
        this.#queue.push(frame);
        break;
      case 'creditBytes':
        this.#inputCredit += body.value;
        this.#wakeCredit?.();
        return;
      case 'end':
        this.#ended = true;
        if (body.value.error) this.#failure ??= errorOf(body.value.error.code, body.value.error.message);
        else this.#queue.push(frame);
        this.#wakeCredit?.();
        break;
      default:
        return;
    }
    this.#wake?.();
  }

  #grant(bytes: number): void {
    this.#owedBytes += bytes;
    if (this.#ended || this.#owedBytes < this.#options.windowBytes / 4) return;
    this.#send({ case: 'creditBytes', value: this.#owedBytes });
    this.#owedBytes = 0;
  }

  #send(body: FrameBody): void {
    try {
      const { bus, signer } = this.#options;
      const frame = toBinary(FrameSchema, create(FrameSchema, { sequence: this.#sequenceOut, body }));
      const context = {
        ...addressOf(this.#target),
        purpose: 'stream-frame',
        nonce: this.#nonce,
        streamId: this.id,
      } as const;
      bus.publish(downStreamSubject(this.#target, this.id), signer.seal(context, frame));
      this.#sequenceOut += 1;
    } catch (error) {
      this.fail(new UnavailableError('the connection to the broker is down', { cause: error }));
    }
  }
}

const addressOf = ({ bayUid, nodeUid }: StreamTarget): NodeAddress => ({ bayUid, nodeUid });

function exitCodeOf({ exitCode }: StreamEnd): number {
  if (exitCode === undefined) throw new UnavailableError('the command ended without an exit code');
  return exitCode;
}

/** What an agent refused, as the rules name it. */
function errorOf(code: number, message: string): DomainError {
  switch (code) {
    case Code.NotFound:
      return new NotFoundError(message);
    case Code.FailedPrecondition:
      return new PreconditionError(message);
    case Code.InvalidArgument:
      return new InvalidError('', message);
    default:
      return new UnavailableError(message);
  }
}
