import type { SigningKey } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import type { SignedContext } from '../../proto/signing.ts';
import type { NodeAddress } from '../../proto/subjects.ts';

/** The bus, as the control plane uses it. One connection, which comes back by itself. */
export interface Bus {
  /** Whether the broker can be reached now. */
  readonly connected: boolean;
  /** The largest message that the broker takes, in bytes. */
  readonly maxPayloadBytes: number;
  /** Fire and forget. Throws UnavailableError when not connected. */
  publish(subject: string, data: Uint8Array): void;
  /** Rejects with UnavailableError when nobody answers within `timeoutMs`. */
  request(subject: string, data: Uint8Array, timeoutMs: number): Promise<Uint8Array>;
  /** Calls back for each message, in order. Survives reconnects. A throw or rejection is logged and ends nothing. */
  subscribe(subject: string, listener: (message: BusMessage) => void | Promise<void>): Subscription;
  /** Calls back when the connection is lost and when it is back. */
  onConnected(listener: (connected: boolean) => void): () => void;
}

export interface BusMessage {
  readonly subject: string;
  readonly data: Uint8Array;
  /** Answers a request; does nothing when it was not one. */
  respond(data: Uint8Array): void;
}

export interface Subscription {
  unsubscribe(): void;
}

/** Who may be on the bus. */
export interface Access {
  /** Where agents find the broker. */
  readonly urls: readonly string[];
  /** Credentials for one agent: its own subjects and inbox, until they expire. */
  issue(agent: NodeAddress & { readonly publicKey: string; readonly name: string }): Promise<IssuedCredentials>;
  /** Cuts these keys off for good, live connections included. Resolves when the broker has taken it. Safe to repeat. */
  revoke(publicKeys: readonly string[]): Promise<void>;
  /** Calls back when the broker says that an agent's connection came or went. `timeMs`: the broker's clock. */
  onConnection(listener: (event: ConnectionEvent) => void): () => void;
}

export interface IssuedCredentials {
  readonly userJwt: string;
  readonly issueTimeMs: number;
  readonly expireTimeMs: number;
}

export interface ConnectionEvent {
  readonly publicKey: string;
  readonly connected: boolean;
  /** The broker's id of the connection: a late "gone" of an old one says nothing about a new one. */
  readonly connectionId: string;
  readonly timeMs: number;
}

/** Signs what the control plane sends to agents, which believe nothing else. */
export interface MessageSigner {
  /** Id of the key that signs now. */
  readonly keyId: string;
  /** What agents are told to believe, besides their credentials: the key that signs now, the next one, and those before for a while. */
  keys(): SigningKey[];
  /** A Signed, serialized. Throws TypeError when the context cannot be signed. */
  seal(context: SignedContext, payload: Uint8Array): Uint8Array;
}
