import { randomUUID } from 'node:crypto';
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import { connect, type NatsConnection } from 'nats';
import {
  type Assign,
  type Frame,
  FrameSchema,
  type Heartbeat,
  HeartbeatSchema,
  type Hello,
  HelloReplySchema,
  type HelloReplySchema as HelloReplySchemaType,
  HelloSchema,
  type ObjectReport,
  RenewReplySchema,
  RenewRequestSchema,
  type Report,
  ReportReplySchema,
  type ReportReplySchema as ReportReplySchemaType,
  ReportSchema,
  type StreamOpenReply,
  StreamOpenReplySchema,
  StreamOpenSchema,
  SyncReplySchema,
  type SyncReplySchema as SyncReplySchemaType,
  type SyncRequest,
  SyncRequestSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { Credentials } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import {
  downStreamSubject,
  downSubject,
  type NodeAddress,
  type UpVerb,
  upStreamSubject,
  upSubject,
} from '../../proto/subjects.ts';
import { ChainModel, chunksOf } from './chain_model.ts';
import { testNonce, testSigner } from './signing.ts';

type HelloAnswer = MessageInitShape<typeof HelloReplySchemaType>;
type SyncAnswer = MessageInitShape<typeof SyncReplySchemaType>;
type ReportAnswer = MessageInitShape<typeof ReportReplySchemaType>;

/** What goes wrong on the way down: gets a message, returns what arrives of it, and when. */
export type Weather = (assign: Assign) => readonly Assign[];

/**
 * The control plane's end of the bus, for one agent, doing as a test says: on a real nats-server, with a chain of its own. Unless it is
 * told otherwise it behaves.
 */
export class ScriptedControlPlane implements AsyncDisposable {
  readonly address: NodeAddress;
  chain = new ChainModel();
  epoch = 0n;
  /** What the agent drew for its session. */
  nonce: Uint8Array = testNonce;
  /** Whose signature is under everything that is sent. */
  signer = testSigner;
  heartbeatMs = 250;
  /** How large the pieces of a snapshot are. */
  chunkBytes = 200;
  weather: Weather = (assign) => [assign];
  onHello: ((hello: Hello) => HelloAnswer | undefined) | undefined;
  onSync: ((request: SyncRequest) => SyncAnswer | undefined) | undefined;
  onReport: ((report: Report) => ReportAnswer | undefined) | undefined;
  /** Credentials for a RenewRequest. */
  onRenew: (() => Credentials | undefined) | undefined;
  /** Answers nothing at all. */
  deaf = false;
  readonly hellos: Hello[] = [];
  readonly syncs: SyncRequest[] = [];
  readonly reports: Report[] = [];
  readonly heartbeats: Heartbeat[] = [];
  /** The latest word on each object. */
  readonly status = new Map<string, ObjectReport>();
  readonly #connection: NatsConnection;

  /** Connects to a broker that lets everybody in. */
  static async start(url: string, address: NodeAddress): Promise<ScriptedControlPlane> {
    return new ScriptedControlPlane(
      await connect({ servers: url, maxReconnectAttempts: -1, reconnectTimeWait: 50, reconnectJitter: 0 }),
      address,
    );
  }

  constructor(connection: NatsConnection, address: NodeAddress) {
    this.#connection = connection;
    this.address = address;
    this.#answer('hello', (data) => {
      const hello = fromBinary(HelloSchema, data);
      const reply = toBinary(HelloReplySchema, create(HelloReplySchema, this.#hello(hello)));
      return this.signer.seal({ ...this.address, purpose: 'hello-reply', nonce: hello.session }, reply);
    });
    this.#answer('sync', (data) => {
      const request = fromBinary(SyncRequestSchema, data);
      const reply = toBinary(SyncReplySchema, create(SyncReplySchema, this.#sync(request)));
      return this.signer.seal({ ...this.address, purpose: 'sync-reply', nonce: request.nonce }, reply);
    });
    this.#answer('report', (data) =>
      toBinary(ReportReplySchema, create(ReportReplySchema, this.#report(fromBinary(ReportSchema, data)))),
    );
    this.#answer('renew', (data) => {
      const { nonce } = fromBinary(RenewRequestSchema, data);
      const credentials = this.onRenew?.();
      const refusal = { code: 14, message: 'not now' };
      const reply = create(RenewReplySchema, credentials ? { credentials } : { error: refusal });
      const context = { ...this.address, purpose: 'renew-reply', nonce } as const;
      return this.signer.seal(context, toBinary(RenewReplySchema, reply));
    });
    connection.subscribe(upSubject(address, 'heartbeat'), {
      callback: (_, { data }) => void this.heartbeats.push(fromBinary(HeartbeatSchema, data)),
    });
  }

  /** Publishes to the agent as it is, past the weather. */
  send(assign: Assign): void {
    this.sendRaw(downSubject(this.address, 'assign'), this.signer.assign(this.address, assign, this.nonce));
  }

  sendRaw(subject: string, data: Uint8Array): void {
    this.#connection.publish(subject, data);
  }

  /** Changes the chain and publishes the link, through the weather. */
  put(uid: string, image?: string): void {
    this.chain.put(uid, image);
    this.#publish(this.chain.newest(this.epoch));
  }
  delete(uid: string): void {
    this.chain.delete(uid);
    this.#publish(this.chain.newest(this.epoch));
  }
  forget(uid: string): void {
    this.chain.forget(uid);
    this.#publish(this.chain.newest(this.epoch));
  }

  sendSnapshot(): void {
    for (const chunk of chunksOf(this.epoch, this.chain.snapshot(), this.chunkBytes)) this.#publish(chunk);
  }

  /** Opens a stream. */
  async open(open: MessageInitShape<typeof StreamOpenSchema>, timeoutMs = 5_000): Promise<ScriptedStream> {
    const streamId = open.streamId ?? randomUUID();
    const stream = new ScriptedStream(this, this.#connection, streamId);
    const message = create(StreamOpenSchema, { creditBytes: 64 * 1024, ...open, streamId });
    const context = { ...this.address, purpose: 'stream-open', nonce: this.nonce } as const;
    const request = this.signer.seal(context, toBinary(StreamOpenSchema, message));
    const answer = await this.#connection.request(downSubject(this.address, 'open'), request, { timeout: timeoutMs });
    stream.reply = fromBinary(StreamOpenReplySchema, answer.data);
    return stream;
  }

  /** Resolves when the broker has everything that was sent. */
  flush(): Promise<void> {
    return this.#connection.flush();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#connection.close();
  }

  #publish(assign: Assign): void {
    for (const arriving of this.weather(assign)) this.send(arriving);
  }

  #answer(verb: UpVerb, reply: (data: Uint8Array) => Uint8Array): void {
    this.#connection.subscribe(upSubject(this.address, verb), {
      callback: (_, message) => {
        if (!this.deaf) message.respond(reply(message.data));
      },
    });
  }

  #hello(hello: Hello): HelloAnswer {
    this.hellos.push(hello);
    this.nonce = hello.session;
    const answer = this.onHello?.(hello);
    if (answer) return answer;
    this.epoch += 1n;
    return { epoch: this.epoch, heartbeatInterval: durationFromMs(this.heartbeatMs) };
  }

  #sync(request: SyncRequest): SyncAnswer {
    this.syncs.push(request);
    const answer = this.onSync?.(request);
    if (answer) return answer;
    const { chain } = this;
    const { appliedRevision } = request;
    if (
      appliedRevision !== chain.revision ||
      appliedRevision === 0n ||
      !Buffer.from(chain.digest).equals(request.digest)
    ) {
      const known = chain.links.some((link) => link.to === appliedRevision) && appliedRevision !== chain.revision;
      const delta = known ? chain.since(this.epoch, appliedRevision) : undefined;
      if (delta) this.#publish(delta);
      else this.sendSnapshot();
    }
    return { revision: chain.revision };
  }

  #report(report: Report): ReportAnswer {
    this.reports.push(report);
    const answer = this.onReport?.(report);
    if (answer) return answer;
    for (const object of report.objects) this.status.set(object.uid, object);
    return {};
  }
}

/** The control plane's end of a stream. */
export class ScriptedStream {
  reply: StreamOpenReply = create(StreamOpenReplySchema);
  readonly frames: Frame[] = [];
  /** How many bytes of output have come. */
  bytes = 0;
  #sequence = 0;
  readonly #from: ScriptedControlPlane;
  readonly #streamId: string;
  /** Told of each frame. */
  onFrame: ((frame: Frame) => void) | undefined;
  /** Whether data is kept in `frames`. */
  keep = true;

  constructor(from: ScriptedControlPlane, connection: NatsConnection, streamId: string) {
    this.#from = from;
    this.#streamId = streamId;
    connection.subscribe(upStreamSubject(from.address, streamId), {
      callback: (_, { data }) => {
        const frame = fromBinary(FrameSchema, data);
        if (frame.body.case === 'stdout' || frame.body.case === 'stderr') this.bytes += frame.body.value.byteLength;
        if (this.keep) this.frames.push(frame);
        this.onFrame?.(frame);
      },
    });
  }

  get end(): Frame | undefined {
    return this.frames.find((frame) => frame.body.case === 'end');
  }

  text(of: 'stdout' | 'stderr'): string {
    const data = this.frames.flatMap(({ body }) => (body.case === of ? [body.value] : []));
    return Buffer.concat(data).toString('utf8');
  }

  send(body: NonNullable<MessageInitShape<typeof FrameSchema>['body']>, sequence = this.#sequence): void {
    this.#sequence = sequence + 1;
    const { address, nonce, signer } = this.#from;
    const context = { ...address, purpose: 'stream-frame', nonce, streamId: this.#streamId } as const;
    const frame = signer.seal(context, toBinary(FrameSchema, create(FrameSchema, { sequence, body })));
    this.#from.sendRaw(downStreamSubject(address, this.#streamId), frame);
  }
}
