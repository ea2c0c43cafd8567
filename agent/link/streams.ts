import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import {
  type Frame,
  FrameSchema,
  type StreamOpen,
  StreamOpenReplySchema,
  StreamOpenSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import {
  downSubject,
  everyDownStreamSubject,
  type NodeAddress,
  parseDownStreamSubject,
  upStreamSubject,
} from '../../proto/subjects.ts';
import type { Clock } from '../clock.ts';
import type { Log } from '../log.ts';
import { execRefusal, type PolicySource } from '../policy.ts';
import { type OpenStream, StreamError, type StreamSink, type Workloads } from '../ports.ts';
import { isUid } from './chain.ts';
import type { Link, LinkMessage } from './link.ts';
import { AgentStream, inputWindowBytes } from './stream.ts';
import type { Verifier } from './verifier.ts';

export interface StreamsOptions {
  readonly address: NodeAddress;
  readonly link: Pick<Link, 'publish' | 'subscribe'>;
  readonly workloads: Pick<Workloads, 'openLogs' | 'openExecute' | 'cluster'>;
  /** Whether commands may be executed. */
  readonly policy: PolicySource;
  readonly verifier: Pick<Verifier, 'open'>;
  /** Asked for when so many streams were opened in a session that no more can be told apart: begins another. */
  readonly onWorn: () => void;
  readonly clock: Clock;
  readonly log: Log;
  /** Most streams at a time. Default 64. */
  readonly maxStreams?: number;
  /** A frame goes out at least this often. Default: each heartbeat, and at least every 10 s. */
  readonly keepaliveMs?: number;
  /** A stream whose other side is silent for so long is dropped. Default: three times that. */
  readonly silenceMs?: number;
  /** After so many streams there is to be another session, once none is open; after twice as many no more are opened. Default 10,000. */
  readonly maxIds?: number;
}

type Refusal = NonNullable<MessageInitShape<typeof StreamOpenReplySchema>['error']>;

const minKeepaliveMs = 1_000;
const maxKeepaliveMs = 10_000;
/** As the contract has it; the control plane reckons in the same way. */
const keepaliveOf = (heartbeatMs: number): number => Math.min(maxKeepaliveMs, Math.max(minKeepaliveMs, heartbeatMs));

const permissionDenied = 7;
/** gRPC codes. */
export const codes: Record<StreamError['kind'], number> = {
  'not-found': 5,
  'not-running': 9,
  'engine-unavailable': 14,
  invalid: 3,
  forbidden: 7,
};

/** The streams of bytes that the control plane opens into objects of this node: logs, and commands. */
export class Streams {
  readonly #options: StreamsOptions & { readonly maxStreams: number; readonly maxIds: number };
  #keepaliveMs = maxKeepaliveMs;
  readonly #streams = new Map<string, AgentStream>();
  /** Those in which a command runs. */
  readonly #commands = new Set<AgentStream>();
  /** What was drawn for the session; undefined: there is none. */
  #session: Uint8Array | undefined;
  /** Of all streams of the session: a request to open one is good for one, whoever sends it again. */
  readonly #used = new Set<string>();
  #cancelTick: (() => void) | undefined;
  #unsubscribe: () => void = () => undefined;

  constructor(options: StreamsOptions) {
    this.#options = { maxStreams: 64, maxIds: 10_000, ...options };
  }

  /** How many there are. */
  get size(): number {
    return this.#streams.size;
  }

  start(): void {
    const { link, address, policy } = this.#options;
    this.#unsubscribe = policy.subscribe(() => this.#onPolicy());
    link.subscribe(downSubject(address, 'open'), (message) => void this.#open(message));
    link.subscribe(everyDownStreamSubject(address), ({ subject, data }) => this.#receive(subject, data));
  }

  /** There is a session, with heartbeats of this interval: streams may be opened. */
  serve(heartbeatMs: number, session: Uint8Array): void {
    this.#session = session;
    this.#used.clear();
    this.#keepaliveMs = this.#options.keepaliveMs ?? keepaliveOf(heartbeatMs);
  }

  /** There is no session, or no agent, any more: everything is freed. `reason` is for the other side, should it still listen. */
  closeAll(reason: string): void {
    this.#session = undefined;
    for (const stream of [...this.#streams.values()]) stream.fail(14, reason);
  }

  stop(reason: string): void {
    this.#unsubscribe();
    this.closeAll(reason);
  }

  /** What is no longer allowed does not go on because it was begun in time. */
  #onPolicy(): void {
    const { current } = this.#options.policy;
    if (current.rules.exec === 'allow') return;
    for (const stream of [...this.#commands]) stream.fail(permissionDenied, execRefusal(current));
  }

  async #open({ data, respond }: LinkMessage): Promise<void> {
    const answer = (reply: MessageInitShape<typeof StreamOpenReplySchema>) =>
      respond(toBinary(StreamOpenReplySchema, create(StreamOpenReplySchema, reply)));
    // Another agent with this identity is the one to answer.
    if (!this.#session) return;
    const opened = this.#options.verifier.open('stream-open', this.#session, data);
    if (!opened) {
      answer({ error: { code: 14, message: 'the request is not of this session of the agent: try again' } });
      return;
    }
    let open: StreamOpen;
    try {
      open = fromBinary(StreamOpenSchema, opened.payload);
    } catch {
      answer({ error: { code: 3, message: 'the request could not be read' } });
      return;
    }
    const refusal = this.#refusal(open);
    if (refusal) {
      answer({ error: refusal });
      return;
    }
    const stream = this.#add(open);
    try {
      const source = await this.#source(open, stream);
      if (!stream.closed) answer({ creditBytes: inputWindowBytes });
      stream.start(source);
    } catch (error) {
      stream.close();
      answer({ error: this.#explained(error) });
    }
  }

  #refusal(open: StreamOpen): Refusal | undefined {
    const { maxStreams, maxIds, policy } = this.#options;
    if (isCommand(open) && policy.current.rules.exec !== 'allow') {
      return { code: permissionDenied, message: execRefusal(policy.current) };
    }
    if (!isUid(open.streamId)) return { code: 3, message: 'a malformed stream id' };
    if (!isUid(open.objectUid)) return { code: 3, message: 'a malformed uid' };
    if (open.what.case === undefined) return { code: 12, message: 'this agent does not know that kind of stream' };
    if (this.#used.has(open.streamId)) return { code: 6, message: 'there is, or was, a stream with that id' };
    if (this.#used.size >= 2 * maxIds) {
      return {
        code: 8,
        message: 'too many streams were opened in this session: close those that are open, and try again',
      };
    }
    if (this.#streams.size >= maxStreams) {
      return { code: 8, message: `there are ${maxStreams} open streams on this node: close one, and try again` };
    }
    return undefined;
  }

  #add(open: StreamOpen): AgentStream {
    const { streamId, creditBytes } = open;
    const { link, address, clock, maxIds, onWorn } = this.#options;
    const subject = upStreamSubject(address, streamId);
    const stream: AgentStream = new AgentStream({
      send: (frame) => link.publish(subject, frame),
      onClosed: () => {
        this.#streams.delete(streamId);
        this.#commands.delete(stream);
        if (this.#streams.size > 0) return;
        this.#endTick();
        if (this.#session && this.#used.size >= maxIds) onWorn();
      },
      now: () => clock.now(),
      creditBytes,
    });
    this.#streams.set(streamId, stream);
    if (isCommand(open)) this.#commands.add(stream);
    this.#used.add(streamId);
    if (!this.#cancelTick) this.#tick();
    return stream;
  }

  #source({ objectUid, what }: StreamOpen, sink: StreamSink): Promise<OpenStream> {
    const { workloads } = this.#options;
    if (what.case === 'logs') return workloads.openLogs(objectUid, what.value, sink);
    if (what.case === 'execute') return workloads.openExecute(objectUid, what.value, sink);
    const { cluster } = workloads;
    if (cluster && what.case === 'podLogs') return cluster.openPodLogs(objectUid, what.value, sink);
    if (cluster && what.case === 'executePod') return cluster.openPodExecute(objectUid, what.value, sink);
    throw new StreamError('invalid', 'this agent does not know that kind of stream');
  }

  #explained(error: unknown): Refusal {
    if (error instanceof StreamError) return { code: codes[error.kind], message: error.message.slice(0, 4096) };
    this.#options.log.error({ error: (error as Error).message }, 'a stream could not be opened');
    return { code: 13, message: 'the agent could not open the stream; its log says why' };
  }

  #receive(subject: string, data: Uint8Array): void {
    const streamId = parseDownStreamSubject(subject) ?? '';
    const stream = this.#streams.get(streamId);
    if (!stream || !this.#session) return;
    // What the control plane has not sent is no gap either.
    const opened = this.#options.verifier.open('stream-frame', this.#session, data, streamId);
    if (!opened) return;
    let frame: Frame;
    try {
      frame = fromBinary(FrameSchema, opened.payload);
    } catch {
      stream.fail(3, 'a frame could not be read');
      return;
    }
    stream.receive(frame);
  }

  #tick(): void {
    const keepaliveMs = this.#keepaliveMs;
    const { clock, silenceMs = 3 * keepaliveMs } = this.#options;
    this.#cancelTick = clock.after(keepaliveMs / 4, () => {
      const now = clock.now();
      for (const stream of [...this.#streams.values()]) {
        if (now - stream.lastHeardMs >= silenceMs) stream.fail(14, 'nothing was heard from the other side');
        else if (now - stream.lastSentMs >= keepaliveMs * 0.75) stream.keepalive();
      }
      this.#cancelTick = undefined;
      if (this.#streams.size > 0) this.#tick();
    });
  }

  #endTick(): void {
    this.#cancelTick?.();
    this.#cancelTick = undefined;
  }
}

const isCommand = ({ what }: StreamOpen): boolean => what.case === 'execute' || what.case === 'executePod';
