import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import {
  type Frame,
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
import { downSubject } from '../../proto/subjects.ts';
import type { AuditedCall } from '../audit/port.ts';
import { UnavailableError } from '../domain/errors.ts';
import type { ExecuteInput, Streams, StreamTarget } from './port.ts';
import { addressOf, errorOf, RelayedStream, type RelayedStreamOptions } from './relayed_stream.ts';

/** Options of {@link StreamRelay}. */
export interface StreamRelayOptions extends Pick<RelayedStreamOptions, 'bus' | 'signer'> {
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

const maxKeepaliveMs = 10_000;

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
    this.end(nodeUid, (node) => `the agent of node "${node}" has gone: try again`);
  }

  /** Ends the node's streams, and returns whose they were. */
  end(nodeUid: string, reason: (nodeName: string) => string): AuditedCall[] {
    const ended = [...(this.#streams.get(nodeUid) ?? [])].filter(({ over }) => !over);
    for (const stream of ended) stream.fail(new UnavailableError(reason(stream.nodeName)));
    return ended.map(({ call }) => call);
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

function exitCodeOf({ exitCode }: StreamEnd): number {
  if (exitCode === undefined) throw new UnavailableError('the command ended without an exit code');
  return exitCode;
}
