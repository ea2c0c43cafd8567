import { randomUUID } from 'node:crypto';
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import { type Frame, FrameSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { downStreamSubject, type NodeAddress, upStreamSubject } from '../../proto/subjects.ts';
import type { AuditedCall } from '../audit/port.ts';
import type { Bus, MessageSigner } from '../broker/port.ts';
import {
  DeniedError,
  type DomainError,
  InvalidError,
  NotFoundError,
  PreconditionError,
  UnavailableError,
} from '../domain/errors.ts';
import type { ExecuteInput, StreamTarget } from './port.ts';

/** Options of {@link RelayedStream}. */
export interface RelayedStreamOptions {
  readonly bus: Bus;
  readonly signer: Pick<MessageSigner, 'seal'>;
  /** How many bytes may be on their way from the agent. */
  readonly windowBytes: number;
  /** How often each side says at least that it is there. */
  readonly keepaliveMs: number;
  /** How long nothing may be heard of the other side. */
  readonly silenceMs: number;
}

type FrameBody = NonNullable<MessageInitShape<typeof FrameSchema>['body']>;

/** Input is cut in pieces of this size. */
const inputChunkBytes = 64 * 1024;

/** The control plane's end of one open stream. */
export class RelayedStream {
  readonly id = randomUUID();
  readonly #target: StreamTarget;
  /** Of the session that it is opened in. */
  readonly #nonce: Uint8Array;
  readonly #options: RelayedStreamOptions;
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

  constructor(target: StreamTarget, nonce: Uint8Array, options: RelayedStreamOptions) {
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

  get call(): AuditedCall {
    return this.#target.call;
  }

  /** Has ended, or failed. */
  get over(): boolean {
    return this.#ended || this.#failure !== undefined;
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

export const addressOf = ({ bayUid, nodeUid }: StreamTarget): NodeAddress => ({ bayUid, nodeUid });

/** What an agent refused, as the rules name it. */
export function errorOf(code: number, message: string): DomainError {
  switch (code) {
    case Code.NotFound:
      return new NotFoundError(message);
    case Code.FailedPrecondition:
      return new PreconditionError(message);
    case Code.InvalidArgument:
      return new InvalidError('', message);
    case Code.PermissionDenied:
      return new DeniedError(message);
    default:
      return new UnavailableError(message);
  }
}
