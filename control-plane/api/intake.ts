import type { DescMethod } from '@bufbuild/protobuf';
import { Code, ConnectError, type ContextValues } from '@connectrpc/connect';
import { networkOf } from '../domain/ip.ts';
import { peerKey } from './call.ts';

/** How much may come in, of calls that are not answered yet. */
export interface IntakeLimits {
  /** Of one call before it is known who calls; methods that are open take no more of anybody. Default 16 KiB. */
  readonly strangerBytes?: number;
  /** Of that, from one address, and of what comes after it, of one caller. Default 64 MiB. */
  readonly shareBytes?: number;
  /** Of either, of all. Default 256 MiB. */
  readonly totalBytes?: number;
  /** How long a call may take to come in. Default 60 s. */
  readonly timeoutMs?: number;
}

/** A call that begins to come in. */
export interface Arrival {
  readonly method: DescMethod;
  readonly header: Pick<Headers, 'get'>;
  readonly values: ContextValues;
}

/** Who calls: the same text for the same caller. Throws or rejects with what the caller is told. */
export type Identify = (arrival: Arrival) => string | Promise<string>;

/** What one call holds. */
export interface Incoming {
  /**
   * So many bytes more have come, or are sure to: of what is packed it is not known how many it will be. A promise: nothing more is to be taken before
   * it resolves. Throws or rejects when it is too much, or of somebody who is not known.
   */
  take(bytes: number, packed?: boolean): void | Promise<void>;
  /** All of it has come in. */
  complete(): void;
  /** The call is answered, or gone. Safe to repeat. */
  end(): void;
}

/** What a call costs that has said nothing but its headers. */
const callBytes = 4 * 1024;

/** Bytes that are shared among many, none of whom may have all. */
class Shares {
  readonly #ofOne: number;
  readonly #ofAll: number;
  readonly #held = new Map<string, number>();
  #total = 0;

  constructor(ofOne: number, ofAll: number) {
    this.#ofOne = ofOne;
    this.#ofAll = ofAll;
  }

  /** Throws a ConnectError when it is too much. */
  hold(who: string, bytes: number): void {
    const held = (this.#held.get(who) ?? 0) + bytes;
    if (held > this.#ofOne || this.#total + bytes > this.#ofAll) {
      throw new ConnectError(
        'too much is coming in at once: send less at a time, or try again a little later',
        Code.ResourceExhausted,
      );
    }
    this.#held.set(who, held);
    this.#total += bytes;
  }

  release(who: string, bytes: number): void {
    const held = (this.#held.get(who) ?? 0) - bytes;
    if (held > 0) this.#held.set(who, held);
    else this.#held.delete(who);
    this.#total -= bytes;
  }
}

/**
 * Bounds what callers can have us hold and read before anything is known of them. A message is read whole before it is looked at who sent it, and to
 * read one takes many times its size in memory, and the only thread; so only small ones are taken from strangers.
 */
export class Intake {
  readonly #identify: Identify;
  readonly #strangerBytes: number;
  readonly #timeoutMs: number;
  /** By address. */
  readonly #strangers: Shares;
  readonly #callers: Shares;

  constructor(identify: Identify, limits: IntakeLimits = {}) {
    const { shareBytes = 64 * 1024 * 1024, totalBytes = 256 * 1024 * 1024 } = limits;
    this.#identify = identify;
    this.#strangerBytes = limits.strangerBytes ?? 16 * 1024;
    this.#timeoutMs = limits.timeoutMs ?? 60_000;
    this.#strangers = new Shares(shareBytes, totalBytes);
    this.#callers = new Shares(shareBytes, totalBytes);
  }

  /** A call begins. `fail` is called when it takes too long. Throws a ConnectError when there are too many. */
  begin(arrival: Arrival, fail: (error: ConnectError) => void): Incoming {
    const peer = networkOf(arrival.values.get(peerKey));
    let ofPeer = 0;
    let caller: string | undefined;
    let ofCaller = 0;
    let ended = false;
    const holdForPeer = (bytes: number): void => {
      this.#strangers.hold(peer, bytes);
      ofPeer += bytes;
    };
    const holdForCaller = (who: string, bytes: number): void => {
      caller = who;
      if (ended) return;
      this.#callers.hold(who, bytes);
      ofCaller += bytes;
    };
    holdForPeer(callBytes);
    const timer = setTimeout(() => {
      const message = `the call did not come in within ${this.#timeoutMs / 1000} s`;
      fail(new ConnectError(message, Code.DeadlineExceeded));
    }, this.#timeoutMs);
    return {
      take: (bytes, packed = false) => {
        if (caller !== undefined) return holdForCaller(caller, bytes);
        if (ofPeer + bytes <= this.#strangerBytes + callBytes && !packed) return holdForPeer(bytes);
        const found = this.#identify(arrival);
        return typeof found === 'string'
          ? holdForCaller(found, bytes)
          : found.then((known) => holdForCaller(known, bytes));
      },
      complete: () => clearTimeout(timer),
      end: () => {
        clearTimeout(timer);
        if (ended) return;
        ended = true;
        this.#strangers.release(peer, ofPeer);
        if (caller !== undefined) this.#callers.release(caller, ofCaller);
      },
    };
  }
}
