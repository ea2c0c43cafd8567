import type { TrustedKeys } from './trusted_keys.ts';

/** A message of the control plane as it came, with its signature. */
export interface KeptMessage {
  /** A Signed, serialized. */
  readonly message: Uint8Array;
  readonly keyId: string;
}

/** Up to here a log is not worth a snapshot. */
const least = { bytes: 256 * 1024, deltas: 1_000 };

/**
 * The messages that a state is made of: the newest Snapshot, and the Deltas since. They are what lies on disk, so that each start verifies
 * the control plane's own signatures. Never changed in place: what is appended makes a new log.
 */
export class MessageLog {
  static readonly empty = new MessageLog([], 0, 0, 0);
  /** Shared with longer logs: of this one are the first `length`. */
  readonly #messages: KeptMessage[];
  readonly length: number;
  readonly #snapshotLength: number;
  readonly #snapshotBytes: number;
  readonly #deltaBytes: number;

  private constructor(
    messages: KeptMessage[],
    snapshotLength: number,
    snapshotBytes: number,
    deltaBytes: number,
    length = messages.length,
  ) {
    this.#messages = messages;
    this.length = length;
    this.#snapshotLength = snapshotLength;
    this.#snapshotBytes = snapshotBytes;
    this.#deltaBytes = deltaBytes;
  }

  static ofSnapshot(chunks: readonly KeptMessage[]): MessageLog {
    return new MessageLog([...chunks], chunks.length, sizeOf(chunks), 0);
  }

  /** The log with one more Delta. */
  with(delta: KeptMessage): MessageLog {
    // Else another log has gone on from here, in another way.
    const goesOn = this.length > 0 && this.#messages.length === this.length;
    const messages = goesOn ? this.#messages : this.messages();
    messages.push(delta);
    const deltaBytes = this.#deltaBytes + delta.message.byteLength;
    return new MessageLog(messages, this.#snapshotLength, this.#snapshotBytes, deltaBytes, this.length + 1);
  }

  messages(): KeptMessage[] {
    return this.#messages.slice(0, this.length);
  }

  keyIds(): Set<string> {
    return new Set(this.messages().map(({ keyId }) => keyId));
  }

  /**
   * Whether a Snapshot should take its place: because it has become longer than one, of a state with so many objects; or because a
   * signature in it is by a key that will be gone.
   */
  isWorn(objects: number, keys: Pick<TrustedKeys, 'isAgeing'>): boolean {
    if (this.#deltaBytes > Math.max(least.bytes, this.#snapshotBytes)) return true;
    if (this.length - this.#snapshotLength > Math.max(least.deltas, objects)) return true;
    return [...this.keyIds()].some((id) => keys.isAgeing(id));
  }
}

const sizeOf = (messages: readonly KeptMessage[]): number =>
  messages.reduce((sum, { message }) => sum + message.byteLength, 0);
