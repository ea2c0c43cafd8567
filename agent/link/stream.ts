import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { type Frame, FrameSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { OpenStream, StreamSink } from '../ports.ts';

export type FrameBody = NonNullable<MessageInitShape<typeof FrameSchema>['body']>;

/** Largest piece of data in a frame. */
export const chunkBytes = 64 * 1024;
/** The other side may allow more; this much is under way at most. */
export const maxCreditBytes = 256 * 1024;
/** How much input may be on its way to us, or wait to be taken. */
export const inputWindowBytes = 256 * 1024;

export interface StreamOptions {
  /** Sends a frame; throws when that cannot be. */
  readonly send: (frame: Uint8Array) => void;
  /** It is over, and everything is freed. Called once. */
  readonly onClosed: () => void;
  readonly now: () => number;
  /** How many bytes of output may be sent before there is more credit. */
  readonly creditBytes: number;
}

/**
 * One open stream of bytes: output goes out as far as there is credit, and its producer waits meanwhile; input is taken in order, and
 * credit is given back for what was taken. So it holds one window of bytes each way at most.
 */
export class AgentStream implements StreamSink {
  readonly #options: StreamOptions;
  #source: OpenStream | undefined;
  #ready = Promise.withResolvers<void>();
  #closed = false;
  #credit: number;
  #creditWaiter: (() => void) | undefined;
  /** Output, one piece after the other, whoever it comes from. */
  #output: Promise<void>;
  #sendSequence = 0;
  #receiveSequence = 0;
  #input: Promise<void>;
  /** Of the window: not used yet, and taken but not given back yet. */
  #window = inputWindowBytes;
  #owed = 0;
  #inputEnded = false;
  lastSentMs: number;
  lastHeardMs: number;

  constructor(options: StreamOptions) {
    this.#options = options;
    this.#credit = Math.min(options.creditBytes, maxCreditBytes);
    this.#output = this.#ready.promise;
    this.#input = this.#ready.promise;
    this.lastSentMs = options.now();
    this.lastHeardMs = options.now();
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** The other side knows that the stream is open: output may flow. Nothing is sent before. */
  start(source: OpenStream): void {
    if (this.#closed) {
      source.close();
      return;
    }
    this.#source = source;
    this.lastHeardMs = this.#options.now();
    this.#ready.resolve();
  }

  stdout(data: Uint8Array): Promise<void> {
    return this.#put('stdout', data);
  }

  stderr(data: Uint8Array): Promise<void> {
    return this.#put('stderr', data);
  }

  end(result: { readonly exitCode?: number; readonly error?: string }): void {
    const { exitCode, error } = result;
    this.#output = this.#output.then(() => {
      const refusal = error === undefined ? undefined : { code: 13, message: error.slice(0, 4096) };
      this.#send({ case: 'end', value: { exitCode, error: refusal } });
      this.close();
    });
  }

  /** Ends it with an error, and tells the other side. */
  fail(code: number, message: string): void {
    this.#send({ case: 'end', value: { error: { code, message } } });
    this.close();
  }

  /** Frees everything. Safe to repeat. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#ready.resolve();
    this.#creditWaiter?.();
    this.#options.onClosed();
    this.#source?.close();
  }

  /** Says that it is there; nothing before it is open. */
  keepalive(): void {
    if (this.#source) this.#send({ case: 'keepalive', value: true });
  }

  /** Takes a frame of the other side. */
  receive(frame: Frame): void {
    if (this.#closed) return;
    this.lastHeardMs = this.#options.now();
    if (frame.sequence !== this.#receiveSequence) {
      this.fail(15, `frame ${frame.sequence} came where ${this.#receiveSequence} was to come`);
      return;
    }
    this.#receiveSequence += 1;
    const { body } = frame;
    switch (body.case) {
      case 'creditBytes':
        this.#credit = Math.min(this.#credit + body.value, maxCreditBytes);
        this.#creditWaiter?.();
        return;
      case 'stdin':
        this.#takeInput(body.value);
        return;
      case 'stdinEnd':
        if (this.#inputEnded) return;
        this.#inputEnded = true;
        // One piece after the other: what cannot be taken any more is no reason to end the output.
        this.#input = this.#input.then(() => this.#source?.endInput()).catch(() => undefined);
        return;
      case 'resize':
        this.#source?.resize(body.value);
        return;
      case 'end':
        this.close();
        return;
      // Output is ours to send; a case of a newer version is not for us.
      case 'keepalive':
      case 'stdout':
      case 'stderr':
      case undefined:
    }
  }

  #takeInput(data: Uint8Array): void {
    if (data.byteLength > this.#window) {
      this.fail(8, 'more input than there was credit for');
      return;
    }
    this.#window -= data.byteLength;
    if (this.#inputEnded) {
      this.#giveBack(data.byteLength);
      return;
    }
    // A copy: the data is a view of a larger buffer of the connection.
    const copy = Uint8Array.from(data);
    this.#input = this.#input.then(async () => {
      if (this.#closed) return;
      try {
        await this.#source?.write(copy);
      } catch {
        // Nobody reads the input any more. That ends nothing: what comes is dropped, and credit given back, so that the other side does not
        // hang; how it all ended is told by the output.
        this.#inputEnded = true;
      }
      this.#giveBack(copy.byteLength);
    });
  }

  #giveBack(bytes: number): void {
    this.#owed += bytes;
    if (this.#closed || this.#owed < inputWindowBytes / 4) return;
    this.#window += this.#owed;
    this.#send({ case: 'creditBytes', value: this.#owed });
    this.#owed = 0;
  }

  #put(stream: 'stdout' | 'stderr', data: Uint8Array): Promise<void> {
    const done = this.#output.then(() => this.#drain(stream, data));
    this.#output = done;
    return done;
  }

  async #drain(stream: 'stdout' | 'stderr', data: Uint8Array): Promise<void> {
    let rest = data;
    while (rest.byteLength > 0 && !this.#closed) {
      if (this.#credit === 0) {
        const { promise, resolve } = Promise.withResolvers<void>();
        this.#creditWaiter = resolve;
        await promise;
        this.#creditWaiter = undefined;
        continue;
      }
      const piece = rest.subarray(0, Math.min(rest.byteLength, this.#credit, chunkBytes));
      this.#credit -= piece.byteLength;
      rest = rest.subarray(piece.byteLength);
      this.#send({ case: stream, value: piece });
    }
  }

  #send(body: FrameBody): void {
    if (this.#closed) return;
    this.lastSentMs = this.#options.now();
    try {
      this.#options.send(toBinary(FrameSchema, create(FrameSchema, { sequence: this.#sendSequence, body })));
      this.#sendSequence += 1;
    } catch {
      // A frame that is lost ends the stream: there is no connection to say it over.
      this.close();
    }
  }
}
