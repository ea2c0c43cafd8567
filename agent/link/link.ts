import type { Authenticator, NatsConnection } from 'nats';
import { fromSeed } from '../../proto/nkeys.ts';
import { inboxPrefix } from '../../proto/subjects.ts';
import { Backoff } from '../backoff.ts';
import type { Clock } from '../clock.ts';
import type { Log } from '../log.ts';
import { crossesNetworkInClear } from '../plaintext.ts';
import { connect, DebugEvents, ErrorCode, Events, NatsError } from './nats.ts';
import { brokerTls, systemTrust, type Trust } from './trust.ts';

/** The agent's one connection to the bus. It comes back by itself, for ever, each time with the credentials of that moment. */
export interface Link {
  readonly connected: boolean;
  /** The largest message that the broker takes, in bytes. */
  readonly maxPayloadBytes: number;
  /** Fire and forget. Throws LinkError when not connected. */
  publish(subject: string, data: Uint8Array): void;
  /** Rejects with LinkError when not connected, when nobody listens, or when nobody answers in time. */
  request(subject: string, data: Uint8Array, timeoutMs: number): Promise<Uint8Array>;
  /** Calls back for each message, in order, over reconnects. A throw is logged and ends nothing. */
  subscribe(subject: string, listener: (message: LinkMessage) => void): void;
  /** Calls back when the connection is up (true) and when it is lost (false). */
  onConnected(listener: (connected: boolean) => void): () => void;
  /** Calls back when an attempt to connect came to nothing for another reason than a refusal. */
  onFailed(listener: () => void): () => void;
  /** Calls back when the broker refuses credentials, or ends a connection because of them. */
  onRefused(listener: (userJwt: string) => void): () => void;
  start(): void;
  /** Tries now, if it is waiting to: the credentials are new. */
  wake(): void;
  /** Does not try for so long, but when it is woken: nobody would let it in. */
  rest(ms: number): void;
  close(): Promise<void>;
}

export interface LinkMessage {
  readonly subject: string;
  readonly data: Uint8Array;
  /** Answers a request; does nothing when it was not one, or the connection is gone. */
  respond(data: Uint8Array): void;
}

/** A message could not be sent, or was not answered. It may be tried again. */
export class LinkError extends Error {
  override readonly name = 'LinkError';
}

export interface LinkOptions {
  readonly nodeUid: string;
  /** As of now; asked at each connect. Undefined: there are none yet, which counts as a refusal of ''. */
  readonly credentials: () => { readonly userJwt: string; readonly brokerUrls: readonly string[] } | undefined;
  /** The private nkey. */
  readonly seed: Uint8Array;
  /** Whom to trust. As of now; asked at each connect. Default: whom the system trusts. */
  readonly trust?: () => Trust;
  readonly clock: Clock;
  readonly log: Log;
  /** In [0, 1). Default `Math.random`. */
  readonly random?: () => number;
  /** A silent partition is found within three of these. Default 5 s. */
  readonly pingIntervalMs?: number;
}

/** A connection that lasted so long counts as one that works. */
const settledMs = 5_000;

export function createLink(options: LinkOptions): Link {
  return new NatsLink(options);
}

class NatsLink implements Link {
  readonly #options: LinkOptions;
  readonly #log: Log;
  readonly #backoff: Backoff;
  readonly #subscriptions: { subject: string; listener: (message: LinkMessage) => void }[] = [];
  readonly #connectedListeners = new Set<(connected: boolean) => void>();
  readonly #failedListeners = new Set<() => void>();
  readonly #refusedListeners = new Set<(userJwt: string) => void>();
  #connection: NatsConnection | undefined;
  #running: Promise<void> | undefined;
  #closing = false;
  #restUntilMs = 0;
  #endWait: (() => void) | undefined;
  #lose: (() => void) | undefined;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#backoff = new Backoff({ baseMs: 500, maxMs: 5_000, random: options.random });
  }

  get connected(): boolean {
    return this.#connection !== undefined;
  }

  get maxPayloadBytes(): number {
    return this.#connection?.info?.max_payload ?? 1 << 20;
  }

  publish(subject: string, data: Uint8Array): void {
    if (!this.#connection) throw new LinkError('not connected to the broker');
    try {
      this.#connection.publish(subject, data);
    } catch (cause) {
      throw new LinkError(`cannot publish: ${messageOf(cause)}`, { cause });
    }
  }

  async request(subject: string, data: Uint8Array, timeoutMs: number): Promise<Uint8Array> {
    if (!this.#connection) throw new LinkError('not connected to the broker');
    try {
      return (await this.#connection.request(subject, data, { timeout: timeoutMs })).data;
    } catch (cause) {
      const code = cause instanceof NatsError ? cause.code : '';
      if (code === ErrorCode.NoResponders) throw new LinkError('the control plane is not on the bus', { cause });
      if (code === ErrorCode.Timeout) throw new LinkError('the control plane does not answer', { cause });
      throw new LinkError(`no answer: ${messageOf(cause)}`, { cause });
    }
  }

  subscribe(subject: string, listener: (message: LinkMessage) => void): void {
    this.#subscriptions.push({ subject, listener });
    if (this.#connection) this.#listen(this.#connection, subject, listener);
  }

  onConnected(listener: (connected: boolean) => void): () => void {
    this.#connectedListeners.add(listener);
    return () => this.#connectedListeners.delete(listener);
  }

  onFailed(listener: () => void): () => void {
    this.#failedListeners.add(listener);
    return () => this.#failedListeners.delete(listener);
  }

  onRefused(listener: (userJwt: string) => void): () => void {
    this.#refusedListeners.add(listener);
    return () => this.#refusedListeners.delete(listener);
  }

  start(): void {
    this.#running ??= this.#run();
  }

  wake(): void {
    this.#restUntilMs = 0;
    this.#endWait?.();
  }

  rest(ms: number): void {
    this.#restUntilMs = this.#options.clock.now() + ms;
  }

  async close(): Promise<void> {
    this.#closing = true;
    this.#endWait?.();
    const connection = this.#connection;
    if (connection) {
      // What was said last should still go out, but a dead connection must not hold up the end.
      await Promise.race([connection.flush().catch(() => undefined), this.#pause(500)]);
      this.#lose?.();
    }
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#closing) {
      const restMs = this.#restUntilMs - this.#options.clock.now();
      if (restMs > 0) {
        await this.#pause(restMs);
        continue;
      }
      const { userJwt, brokerUrls } = this.#options.credentials() ?? { userJwt: '', brokerUrls: [] };
      if (!userJwt) this.#tellRefused('');
      const connection = userJwt ? await this.#dial(userJwt, brokerUrls) : undefined;
      if (connection && !this.#closing) await this.#serve(connection, userJwt);
      else if (connection) void connection.close();
      if (!this.#closing) await this.#pause(this.#backoff.nextMs());
    }
  }

  /** Tries the brokers one after another, a new order each time: agents that were given the same ones spread over them. */
  async #dial(userJwt: string, brokerUrls: readonly string[]): Promise<NatsConnection | undefined> {
    const { trust = () => systemTrust } = this.#options;
    const known = trust();
    let refused = false;
    for (const url of this.#shuffled(brokerUrls)) {
      if (this.#closing) return undefined;
      try {
        if (crossesNetworkInClear(url)) throw new LinkError('it would be in the clear: expected tls://');
        return await this.#connect(userJwt, url, brokerTls(url, known));
      } catch (error) {
        const attempt = this.#backoff.failures + 1;
        this.#log.warn({ error: messageOf(error), broker: url, attempt }, 'cannot connect to the broker');
        refused ||= isRefusal(error);
      }
    }
    if (refused) this.#tellRefused(userJwt);
    else for (const listener of this.#failedListeners) listener();
    return undefined;
  }

  #shuffled(urls: readonly string[]): readonly string[] {
    const { random = Math.random } = this.#options;
    return urls
      .map((url) => ({ url, place: random() }))
      .sort((a, b) => a.place - b.place)
      .map(({ url }) => url);
  }

  #connect(userJwt: string, url: string, tls: object | undefined): Promise<NatsConnection> {
    const { seed, nodeUid, pingIntervalMs = 5_000 } = this.#options;
    return connect({
      servers: url,
      authenticator: byJwt(userJwt, seed),
      inboxPrefix: inboxPrefix(nodeUid),
      name: `baykeeper-agent ${nodeUid}`,
      noEcho: true,
      // We come back ourselves: with new credentials, with our own back-off, and without what was meant for the lost session.
      reconnect: false,
      timeout: 10_000,
      pingInterval: pingIntervalMs,
      maxPingOut: 2,
      resolve: false,
      ignoreClusterUpdates: true,
      noAsyncTraces: true,
      ...(tls ? { tls } : {}),
    });
  }

  /** Until the connection is lost. */
  async #serve(connection: NatsConnection, userJwt: string): Promise<void> {
    const { clock } = this.#options;
    const lost = Promise.withResolvers<Error | undefined>();
    connection.closed().then((error) => lost.resolve(error ?? undefined), lost.resolve);
    this.#lose = () => lost.resolve(undefined);
    void this.#watch(connection, () => lost.resolve(new LinkError('the broker is silent')));
    for (const { subject, listener } of this.#subscriptions) this.#listen(connection, subject, listener);
    const since = clock.now();
    this.#connection = connection;
    this.#log.info({ server: connection.getServer() }, 'connected to the broker');
    this.#tellConnected(true);

    const reason = await lost.promise;
    this.#connection = undefined;
    this.#lose = undefined;
    // Not awaited: over a dead connection this can take as long as the kernel likes.
    connection.close().catch((error) => this.#log.debug({ error: messageOf(error) }, 'closing the lost connection'));
    if (clock.now() - since >= settledMs) this.#backoff.reset();
    this.#tellConnected(false);
    if (this.#closing) return;
    this.#log.warn({ reason: reason ? messageOf(reason) : 'closed' }, 'lost the broker');
    if (isRefusal(reason)) this.#tellRefused(userJwt);
  }

  async #watch(connection: NatsConnection, lose: () => void): Promise<void> {
    for await (const { type, data } of connection.status()) {
      // The library itself would wait for the dead connection to take one more write.
      if (type === DebugEvents.StaleConnection) lose();
      else if (type === Events.Error) this.#log.warn({ error: data }, 'the broker complains');
    }
  }

  #listen(connection: NatsConnection, subject: string, listener: (message: LinkMessage) => void): void {
    connection.subscribe(subject, {
      callback: (error, message) => {
        if (error) {
          this.#log.error({ subject, error: error.message }, 'the broker refuses a subscription');
          return;
        }
        if (connection !== this.#connection) return;
        try {
          listener({
            subject: message.subject,
            data: message.data,
            respond: (data) => {
              if (connection === this.#connection && message.reply) connection.publish(message.reply, data);
            },
          });
        } catch (thrown) {
          this.#log.error({ subject, error: messageOf(thrown) }, 'a message could not be handled');
        }
      },
    });
  }

  #tellConnected(connected: boolean): void {
    for (const listener of this.#connectedListeners) listener(connected);
  }

  #tellRefused(userJwt: string): void {
    for (const listener of this.#refusedListeners) listener(userJwt);
  }

  async #pause(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const cancel = this.#options.clock.after(ms, resolve);
    this.#endWait = resolve;
    await promise;
    cancel();
    this.#endWait = undefined;
  }
}

/**
 * Names the key in the JWT only, and not beside it: the names beside it are looked up among the users of the broker's configuration file when that
 * is read again, for a new certificate, and who is not there is cut off.
 */
function byJwt(userJwt: string, seed: Uint8Array): Authenticator {
  const key = fromSeed(seed);
  return (nonce = '') => ({ jwt: userJwt, sig: Buffer.from(key.sign(Buffer.from(nonce))).toString('base64url') });
}

/** Whether the broker does not accept who we are (any more). */
function isRefusal(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = error instanceof NatsError ? error.code : '';
  return (
    code === ErrorCode.AuthorizationViolation ||
    code === ErrorCode.AuthenticationExpired ||
    code === ErrorCode.AccountExpired ||
    code === ErrorCode.BadAuthentication ||
    /authenticat|authoriz|revoked/i.test(error.message)
  );
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message || error.name : String(error));
