import { isIP } from 'node:net';
import {
  type Authenticator,
  connect,
  ErrorCode,
  Events,
  jwtAuthenticator,
  type Msg,
  type NatsConnection,
  NatsError,
  type Subscription as NatsSubscription,
} from 'nats';
import type { Logger } from 'pino';
import { ExhaustedError, UnavailableError } from '../domain/errors.ts';
import { type Backoff, fullJitterMs, pause } from './backoff.ts';
import { messageOf } from './broker_error.ts';

/** What one connects with. */
export interface ConnectionCredentials {
  readonly userJwt: string;
  readonly seed: Uint8Array;
  /** When to come back with new ones. Undefined: never. */
  readonly renewTimeMs?: number;
}

/** How the broker proves that it is the one. */
export interface BrokerTls {
  /** PEM. Empty: whom the system trusts. */
  readonly trusted: readonly string[];
  /** What its certificate calls it. Default: the host of its address. */
  readonly name?: string;
}

export interface ConnectionOptions {
  /** Tried in turn. */
  readonly urls: readonly string[];
  readonly name: string;
  /** Asked for anew before each try. */
  readonly credentials: () => Promise<ConnectionCredentials>;
  /** Who may vouch for the broker, asked anew before each try. Needed for TLS with others than whom the system trusts. */
  readonly tls?: () => BrokerTls;
  readonly log: Logger;
  readonly clock: { now(): number };
  /** Between tries. Default 50 ms to 5 s. */
  readonly backoff?: Backoff;
  /** How often a silent broker is asked whether it lives. After two without an answer it is dropped. Default 10 s. */
  readonly pingIntervalMs?: number;
  /** For one try. Default 5 s. */
  readonly connectTimeoutMs?: number;
  /** Until the broker has said what it takes. Default 1 MiB. */
  readonly maxPayloadBytes?: number;
}

export interface RawMessage {
  readonly subject: string;
  /** Where an answer goes. Undefined: none is asked for. */
  readonly reply: string | undefined;
  readonly data: Uint8Array;
}

interface Interest {
  readonly subject: string;
  readonly listener: (message: RawMessage) => void;
  current: NatsSubscription | undefined;
}

/**
 * A connection to the broker that comes back by itself, for ever, with its subscriptions: the only place that knows the NATS client.
 *
 * The client's own way of reconnecting is not used: it gives up for good on the second refusal of credentials, and it keeps what is
 * published meanwhile for an unknown later. Here each try is a new client, with new credentials.
 */
export class BrokerConnection {
  readonly #options: ConnectionOptions;
  readonly #log: Logger;
  readonly #backoff: Backoff;
  readonly #closing = new AbortController();
  readonly #interests = new Set<Interest>();
  readonly #listeners = new Set<(connected: boolean) => void>();
  readonly #running: Promise<void>;
  #client: NatsConnection | undefined;
  #maxPayloadBytes: number;
  #problem = '';

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#log = options.log.child({ connection: options.name });
    this.#backoff = options.backoff ?? { baseMs: 50, maxMs: 5000 };
    this.#maxPayloadBytes = options.maxPayloadBytes ?? 1024 * 1024;
    this.#running = this.#run();
  }

  get connected(): boolean {
    return this.#client !== undefined && !this.#client.isClosed();
  }

  /** Why the last try has failed. Empty: it has not. */
  get problem(): string {
    return this.#problem;
  }

  get maxPayloadBytes(): number {
    return this.#maxPayloadBytes;
  }

  /** Resolves when connected, or false after `timeoutMs`. */
  async waitUntilConnected(timeoutMs: number): Promise<boolean> {
    if (this.connected) return true;
    const waiting = new AbortController();
    const end = this.onConnected((connected) => {
      if (connected) waiting.abort();
    });
    this.#closing.signal.addEventListener('abort', () => waiting.abort(), { once: true, signal: waiting.signal });
    await pause(this.#closing.signal.aborted ? 0 : timeoutMs, waiting.signal);
    waiting.abort();
    end();
    return this.connected;
  }

  onConnected(listener: (connected: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /** Throws UnavailableError when not connected, ExhaustedError when it is more than the broker takes. */
  publish(subject: string, data: Uint8Array): void {
    const client = this.#connectedClient();
    this.#checkSize(data);
    try {
      client.publish(subject, data);
    } catch (cause) {
      throw asUnavailable(cause, subject);
    }
  }

  /** Rejects with UnavailableError when nobody answers, ExhaustedError when it is more than the broker takes. */
  async request(subject: string, data: Uint8Array, timeoutMs: number): Promise<Uint8Array> {
    const client = this.#connectedClient();
    this.#checkSize(data);
    try {
      const answer = await client.request(subject, data, { timeout: Math.max(1, timeoutMs) });
      return answer.data;
    } catch (cause) {
      throw asUnavailable(cause, subject);
    }
  }

  /** The listener must not throw, and is called as a message comes in. Returns what ends it. */
  subscribe(subject: string, listener: (message: RawMessage) => void): () => void {
    const interest: Interest = { subject, listener, current: undefined };
    this.#interests.add(interest);
    if (this.#client && !this.#client.isClosed()) this.#listen(this.#client, interest);
    return () => {
      if (!this.#interests.delete(interest)) return;
      interest.current?.unsubscribe();
    };
  }

  /** Resolves when the broker has everything that was published so far. Rejects with UnavailableError. */
  async flush(timeoutMs: number): Promise<void> {
    const client = this.#connectedClient();
    const waiting = new AbortController();
    try {
      const flushed = client.flush().then(() => true);
      if (!(await Promise.race([flushed, pause(timeoutMs, waiting.signal).then(() => false)]))) {
        throw new UnavailableError('the broker does not answer');
      }
    } catch (cause) {
      throw asUnavailable(cause, '');
    } finally {
      waiting.abort();
    }
  }

  /** Sends what is still to be sent, and ends the connection for good. Safe to repeat. */
  async close(): Promise<void> {
    if (!this.#closing.signal.aborted) {
      if (this.connected) {
        await this.flush(1000).catch((error: unknown) => {
          this.#log.debug({ reason: messageOf(error) }, 'the last messages may not have reached the broker');
        });
      }
      this.#closing.abort();
      await this.#client?.close();
    }
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    let failures = 0;
    for (let turn = 0; !signal.aborted; turn += 1) {
      const url = this.#options.urls[turn % this.#options.urls.length] ?? '';
      try {
        const since = Date.now();
        await this.#connectOnce(url);
        // One that is dropped as soon as it is made is no better than one that is refused.
        failures = Date.now() - since > 2000 ? 0 : failures + 1;
      } catch (error) {
        failures += 1;
        this.#problem = messageOf(error);
        const level = failures === 1 || failures % 20 === 0 ? 'warn' : 'debug';
        if (!signal.aborted)
          this.#log[level]({ url, reason: messageOf(error), failures }, 'cannot connect to the broker');
      }
      await pause(fullJitterMs(this.#backoff, Math.max(0, failures - 1)), signal);
    }
  }

  /** Rejects when it could not be made; resolves when it has ended. */
  async #connectOnce(url: string): Promise<void> {
    const { name, credentials, clock, pingIntervalMs = 10_000, connectTimeoutMs = 5000 } = this.#options;
    const { userJwt, seed, renewTimeMs } = await credentials();
    const client = await connect({
      servers: url,
      name,
      authenticator: byJwt(userJwt, seed),
      reconnect: false,
      ignoreClusterUpdates: true,
      noAsyncTraces: true,
      pingInterval: pingIntervalMs,
      maxPingOut: 2,
      timeout: connectTimeoutMs,
      ...tlsOptions(url, this.#options.tls?.()),
    });
    if (this.#closing.signal.aborted) return client.close();
    this.#client = client;
    this.#problem = '';
    this.#maxPayloadBytes = client.info?.max_payload ?? this.#maxPayloadBytes;
    void this.#reportErrors(client);
    for (const interest of this.#interests) this.#listen(client, interest);
    const renewal = renewTimeMs === undefined ? undefined : this.#renewAt(client, renewTimeMs - clock.now());
    this.#log.debug({ url }, 'connected to the broker');
    this.#tell(true);
    const reason = await client.closed();
    clearTimeout(renewal);
    this.#client = undefined;
    for (const interest of this.#interests) interest.current = undefined;
    if (!this.#closing.signal.aborted && reason) {
      this.#log.warn({ url, reason: messageOf(reason) }, 'lost the connection to the broker');
    }
    this.#tell(false);
  }

  /** New credentials need a new connection: a few milliseconds, which whoever uses it has to bear at any time anyway. */
  #renewAt(client: NatsConnection, inMs: number): NodeJS.Timeout {
    const timer = setTimeout(
      () => {
        this.#log.debug('renews its credentials');
        void client
          .flush()
          .then(() => client.close())
          .catch((error: unknown) =>
            this.#log.debug({ reason: messageOf(error) }, 'the connection ended before its renewal'),
          );
      },
      Math.min(Math.max(0, inMs), 2 ** 31 - 1),
    );
    timer.unref();
    return timer;
  }

  #listen(client: NatsConnection, interest: Interest): void {
    interest.current = client.subscribe(interest.subject, {
      // An exception in here would end the client's reading for good, so there must be none.
      callback: (error: NatsError | null, message: Msg) => {
        if (error) {
          this.#log.error({ subject: interest.subject, reason: messageOf(error) }, 'the broker refuses a subscription');
          return;
        }
        try {
          interest.listener({ subject: message.subject, reply: message.reply || undefined, data: message.data });
        } catch (thrown) {
          this.#log.error({ subject: interest.subject, err: thrown }, 'a listener threw');
        }
      },
    });
  }

  async #reportErrors(client: NatsConnection): Promise<void> {
    for await (const status of client.status()) {
      if (status.type === Events.Error) {
        const refused = 'permissionContext' in status ? status.permissionContext : undefined;
        this.#log.warn({ code: String(status.data), refused }, 'the broker reports an error');
      }
    }
  }

  #tell(connected: boolean): void {
    for (const listener of this.#listeners) {
      try {
        listener(connected);
      } catch (thrown) {
        this.#log.error({ err: thrown }, 'a listener threw');
      }
    }
  }

  #connectedClient(): NatsConnection {
    const client = this.#client;
    if (!client || client.isClosed()) throw new UnavailableError('the broker cannot be reached');
    return client;
  }

  #checkSize(data: Uint8Array): void {
    if (data.length > this.#maxPayloadBytes) {
      throw new ExhaustedError(
        `a message of ${data.length} bytes is more than the ${this.#maxPayloadBytes} that the broker takes`,
      );
    }
  }
}

/**
 * Names the key in the JWT only, and not beside it: the names beside it are looked up among the users of the configuration file when that is read
 * again, and who is not there is cut off.
 */
function byJwt(userJwt: string, seed: Uint8Array): Authenticator {
  const full = jwtAuthenticator(userJwt, seed);
  return (nonce) => {
    const { sig } = full(nonce) as { sig: string };
    return { jwt: userJwt, sig };
  };
}

/** With these the client insists on TLS, whatever the broker says. */
function tlsOptions(url: string, tls: BrokerTls | undefined): { tls?: object } {
  const parsed = URL.parse(url);
  if (parsed?.protocol !== 'tls:') return {};
  const name = tls?.name ?? parsed.hostname.replace(/^\[|\]$/g, '');
  // The client would compare an address with `localhost`, and names each host to the server but by an address.
  const expected = { host: name, servername: isIP(name) ? '' : name };
  const ca = tls && tls.trusted.length > 0 ? { ca: tls.trusted.join('\n') } : {};
  return { tls: { ...ca, ...expected, minVersion: 'TLSv1.2' } };
}

function asUnavailable(cause: unknown, subject: string): UnavailableError {
  if (cause instanceof UnavailableError) return cause;
  const code = cause instanceof NatsError ? cause.code : undefined;
  if (code === ErrorCode.NoResponders) return new UnavailableError(`nobody listens on ${subject}`, { cause });
  if (code === ErrorCode.Timeout) return new UnavailableError(`no answer in time on ${subject}`, { cause });
  return new UnavailableError('the connection to the broker was lost', { cause });
}
