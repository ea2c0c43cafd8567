import type { Logger } from 'pino';

/**
 * The messages of one subscription on their way to its listener: those of one subject strictly one after another, those of different
 * subjects beside each other, so that an agent whose message takes long holds up nobody else. A listener that returns no promise is
 * called at once.
 *
 * What waits is bounded, for each subject and in all: beyond that a message is dropped, and said to be.
 */
export class SubjectLanes<M extends { readonly subject: string; readonly data: Uint8Array }> {
  readonly #options: LanesOptions<M>;
  /** A lane is there as long as its listener is at work. */
  readonly #lanes = new Map<string, Lane<M>>();
  #waiting = 0;
  #waitingBytes = 0;
  #dropped = 0;
  #saidAtMs = Number.NEGATIVE_INFINITY;
  #closed = false;

  constructor(options: LanesOptions<M>) {
    this.#options = options;
  }

  /** Never throws. */
  push(message: M): void {
    if (this.#closed) return;
    const lane = this.#lanes.get(message.subject);
    if (!lane) {
      const work = this.#call(message);
      if (work) this.#follow(message.subject, work);
      return;
    }
    const { limits } = this.#options;
    const full =
      lane.messages.length - lane.next >= limits.messagesPerSubject ||
      lane.bytes + message.data.length > limits.bytesPerSubject ||
      this.#waiting >= limits.messages ||
      this.#waitingBytes + message.data.length > limits.bytes;
    if (full) {
      this.#drop(message.subject);
      return;
    }
    lane.messages.push(message);
    lane.bytes += message.data.length;
    this.#waiting += 1;
    this.#waitingBytes += message.data.length;
  }

  /** What waits is forgotten. */
  close(): void {
    this.#closed = true;
    this.#lanes.clear();
  }

  #follow(subject: string, first: Promise<void>): void {
    const lane: Lane<M> = { messages: [], next: 0, bytes: 0 };
    this.#lanes.set(subject, lane);
    void this.#work(subject, lane, first);
  }

  async #work(subject: string, lane: Lane<M>, first: Promise<void>): Promise<void> {
    await first;
    for (let message = take(lane); message && !this.#closed; message = take(lane)) {
      this.#waiting -= 1;
      this.#waitingBytes -= message.data.length;
      const work = this.#call(message);
      if (work) await work;
    }
    if (!this.#closed) this.#lanes.delete(subject);
  }

  /** Undefined: it is done already. */
  #call(message: M): Promise<void> | undefined {
    try {
      const work = this.#options.listener(message);
      if (work === undefined) return undefined;
      return work.then(undefined, (thrown: unknown) => this.#report(message, thrown));
    } catch (thrown) {
      this.#report(message, thrown);
      return undefined;
    }
  }

  #report(message: M, thrown: unknown): void {
    this.#options.log.error({ subject: message.subject, err: thrown }, 'a listener of the bus failed');
  }

  #drop(subject: string): void {
    const { log, clock } = this.#options;
    this.#dropped += 1;
    if (clock.now() - this.#saidAtMs < 1000) return;
    this.#saidAtMs = clock.now();
    log.warn(
      { subject, dropped: this.#dropped, waiting: this.#waiting },
      'a listener of the bus is too slow: messages are dropped',
    );
  }
}

interface Lane<M> {
  messages: M[];
  /** Those before it have been taken. */
  next: number;
  /** Of those that wait. */
  bytes: number;
}

function take<M extends { readonly data: Uint8Array }>(lane: Lane<M>): M | undefined {
  const message = lane.messages[lane.next];
  lane.bytes -= message?.data.length ?? 0;
  lane.next += 1;
  if (message === undefined || lane.next >= 256) {
    lane.messages = lane.messages.slice(lane.next);
    lane.next = 0;
  }
  return message;
}

export interface LaneLimits {
  readonly messagesPerSubject: number;
  readonly bytesPerSubject: number;
  readonly messages: number;
  readonly bytes: number;
}

export interface LanesOptions<M> {
  readonly listener: (message: M) => void | Promise<void>;
  readonly limits: LaneLimits;
  readonly log: Logger;
  readonly clock: { now(): number };
}
