import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { ErrorReason, RenewReplySchema, RenewRequestSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { Credentials } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { type NodeAddress, upSubject } from '../../proto/subjects.ts';
import { Backoff } from '../backoff.ts';
import type { Clock } from '../clock.ts';
import type { Log } from '../log.ts';
import { expireTimeMs, type Identity, issueTimeMs, renewTimeMs } from './identity.ts';
import type { Link } from './link.ts';
import type { SessionState } from './session.ts';
import { drawNonce, type Verifier } from './verifier.ts';

export interface RenewalOptions {
  readonly address: NodeAddress;
  readonly identity: Pick<Identity, 'credentials' | 'take' | 'trust'>;
  readonly link: Pick<Link, 'connected' | 'request' | 'onConnected' | 'onFailed' | 'onRefused' | 'wake' | 'rest'>;
  readonly session: { readonly state: SessionState };
  readonly verifier: Pick<Verifier, 'open' | 'onUnknownKey'>;
  /** Credentials for nothing but a proof of the key, from the control plane itself. Rejects with EnrollError. */
  readonly prove: () => Promise<Credentials>;
  /** Called when it is known again which keys the control plane signs with: what was refused before may be good. */
  readonly onKeys?: () => void;
  /** The control plane has another URL than last time: ask it at once. Default false. */
  readonly moved?: boolean;
  readonly clock: Clock;
  readonly log: Log;
  readonly random?: () => number;
}

const requestTimeoutMs = 10_000;
const minuteMs = 60_000;
/** Clocks that differ by less count as one: the times in credentials are whole seconds, and have been on their way. */
const tolerableSkewMs = 5_000;
/** After so many attempts in a row that reached no broker, or after so long, it may have moved. */
const lost = { attempts: 5, afterMs: 15_000 };
/** What the control plane is asked for, besides good credentials. */
const whereBroker = 'where the broker is';
/** What the control plane is asked for when somebody signs with a key that is not known. */
const whichKeys = 'which keys it signs with';
/** A key that is not the control plane's any more is believed for so long at the most, where the control plane can be reached. */
const keysAgeMs = 24 * 60 * minuteMs;
/** Within this after their start: a whole site may come back at once. */
const startSpreadMs = 10 * minuteMs;
/** Within this, agents that lost the same broker ask one after another. */
const lostSpreadMs = 10_000;

/**
 * Keeps the credentials good: renews them over the bus at two thirds of their life, and by proving the key when they have run out or
 * the broker does not take them. A node that was revoked is told so, and asks again only now and then.
 *
 * Credentials also say where the broker is, and with which keys the control plane signs. When the broker is not to be reached there, or a
 * message is signed with another key, new ones are asked for, at most once a minute. After a start and once a day they are asked for anyway: whoever has a
 * stolen key and the broker as well would keep it from the agent that there is another key.
 */
export class Renewal {
  readonly #options: RenewalOptions;
  readonly #busBackoff: Backoff;
  readonly #proofBackoff: Backoff;
  #stopped = false;
  /** How far the control plane's clock is ahead of this machine's, as of the newest credentials. */
  #aheadMs = 0;
  #renewing = false;
  #cancel: (() => void) | undefined;
  #cancelLost: (() => void) | undefined;
  #cancelTrust: (() => void) | undefined;
  #unlisten: (() => void)[] = [];
  /** When a key was proven last. */
  #provenMs = Number.NEGATIVE_INFINITY;
  /** Attempts in a row that reached no broker, and when the first of them had failed. */
  #failed = { attempts: 0, sinceMs: 0 };
  /** While it has asked lately where the broker is: what ends that. */
  #cancelAsked: (() => void) | undefined;
  /** It has met a key that it does not know, and could not ask about it yet. */
  #keysOwed = false;
  #cancelKeys: (() => void) | undefined;

  constructor(options: RenewalOptions) {
    this.#options = options;
    const { random } = options;
    this.#busBackoff = new Backoff({ baseMs: 5_000, minMs: 500, maxMs: 5 * minuteMs, random });
    this.#proofBackoff = new Backoff({ baseMs: 1_000, minMs: 100, maxMs: minuteMs, random });
  }

  start(): void {
    const { link, moved, verifier, random = Math.random } = this.#options;
    this.#unlisten = [
      link.onRefused((userJwt) => this.#refused(userJwt)),
      link.onFailed(() => this.#unreached()),
      link.onConnected((connected) => connected && this.#reached()),
    ];
    // The broker cannot tell which keys are to be believed: it is not believed itself.
    verifier.onUnknownKey = () => {
      this.#keysOwed = true;
      this.#askOwed();
    };
    this.#schedule();
    this.#followKeys(random() * startSpreadMs);
    if (moved) void this.#askApi(whereBroker);
  }

  stop(): void {
    this.#stopped = true;
    for (const unlisten of this.#unlisten) unlisten();
    this.#options.verifier.onUnknownKey = undefined;
    this.#cancel?.();
    this.#cancelLost?.();
    this.#cancelAsked?.();
    this.#cancelTrust?.();
    this.#cancelKeys?.();
  }

  #followKeys(inMs: number): void {
    const { clock, random = Math.random } = this.#options;
    this.#cancelKeys?.();
    this.#cancelKeys = clock.after(inMs, () => {
      this.#keysOwed = true;
      this.#askOwed();
      this.#followKeys(keysAgeMs * (0.5 + random() / 2));
    });
  }

  /**
   * The bus says that the control plane is known by other certificates or addresses than before. Which they are is asked of the control plane
   * itself, which proves who it is by those that are known already.
   */
  trustSeen(digest: Uint8Array): void {
    const { random = Math.random } = this.#options;
    // All agents hear of it at once when the control plane comes back.
    if (digest.length > 0) this.#followTrust(Buffer.from(digest).toString('hex'), random() * lostSpreadMs);
  }

  #followTrust(digest: string, inMs: number): void {
    const { identity, clock } = this.#options;
    this.#cancelTrust?.();
    this.#cancelTrust = undefined;
    if (digest === identity.trust.digest || this.#stopped) return;
    this.#cancelTrust = clock.after(inMs, () => {
      // At most once a minute, and until it is done.
      if (digest !== identity.trust.digest && !this.#cancelAsked) void this.#askApi('by what it is known');
      this.#followTrust(digest, 2 * minuteMs);
    });
  }

  #schedule(): void {
    const { identity, random = Math.random } = this.#options;
    const { credentials } = identity;
    if (!credentials) {
      this.#after(0);
      return;
    }
    const now = this.#now(credentials);
    const lifeMs = Math.max(0, expireTimeMs(credentials) - now);
    // Agents that were enrolled together need not renew together.
    this.#after(Math.max(0, renewTimeMs(credentials) - now) + random() * Math.min(lifeMs / 20, 5 * minuteMs));
  }

  /** The time by the clock that the credentials were made by: this machine's may be far off, and they would seem to last for ever, or no time. */
  #now(credentials: Credentials): number {
    const now = this.#options.clock.now() + this.#aheadMs;
    // What lies on disk was not made in the future.
    return Math.max(now, issueTimeMs(credentials));
  }

  async #take(credentials: Credentials): Promise<void> {
    const aheadMs = issueTimeMs(credentials) - this.#options.clock.now();
    this.#aheadMs = Math.abs(aheadMs) < tolerableSkewMs ? 0 : aheadMs;
    await this.#options.identity.take(credentials);
  }

  #after(ms: number, proof = false): void {
    this.#cancel?.();
    this.#cancel = this.#options.clock.after(ms, () => void this.#renew(proof));
  }

  /** The broker did not take these credentials. When there are newer ones by now, it is to be shown those. */
  #refused(userJwt: string): void {
    const { identity, link } = this.#options;
    if (this.#stopped || this.#renewing) return;
    if (identity.credentials && identity.credentials.userJwt !== userJwt) {
      link.wake();
      return;
    }
    if (this.#proofBackoff.failures > 0) return;
    // The first refusal is answered at once. A broker that refuses what is still good is not to have all its agents ask again and again.
    const restMs = minuteMs - Math.abs(this.#options.clock.now() - this.#provenMs);
    const { credentials } = identity;
    const lifeMs = credentials ? expireTimeMs(credentials) - this.#now(credentials) : 0;
    const waitMs = Math.min(restMs, lifeMs);
    if (waitMs <= 0) void this.#renew(true);
    else this.#after(waitMs, true);
  }

  /** The broker is there, and took the credentials. */
  #reached(): void {
    this.#proofBackoff.reset();
    this.#failed = { attempts: 0, sinceMs: 0 };
    this.#cancelLost?.();
    this.#cancelLost = undefined;
  }

  /** One more attempt that reached no broker. */
  #unreached(): void {
    const { clock, random = Math.random } = this.#options;
    const now = clock.now();
    if (this.#failed.attempts === 0) this.#failed.sinceMs = now;
    this.#failed.attempts += 1;
    const { attempts, sinceMs } = this.#failed;
    if (this.#cancelLost || this.#cancelAsked) return;
    if (attempts < lost.attempts && now - sinceMs < lost.afterMs) return;
    this.#cancelLost = clock.after(random() * lostSpreadMs, () => {
      this.#cancelLost = undefined;
      void this.#askApi(whereBroker);
    });
  }

  /** Asks the control plane for credentials because of what else is in them. The ones at hand are still good, so nothing rests. */
  async #askApi(what: string): Promise<void> {
    const { prove, link, clock, log, random = Math.random } = this.#options;
    // A proof that is under way, or failed and will be repeated, brings what is asked for as well; what comes over the bus may not.
    if (this.#stopped || this.#renewing || this.#proofBackoff.failures > 0) return;
    this.#renewing = true;
    this.#cancelAsked = clock.after((1 + random()) * minuteMs, () => {
      this.#cancelAsked = undefined;
      this.#askOwed();
    });
    try {
      const credentials = await prove();
      await this.#take(credentials);
      this.#knowKeys();
      log.info({ what, brokers: credentials.brokerUrls }, 'asked the control plane');
      link.wake();
    } catch (error) {
      log.warn({ what, error: (error as Error).message }, 'the control plane could not be asked');
    } finally {
      this.#renewing = false;
    }
    if (!this.#stopped) this.#schedule();
  }

  #knowKeys(): void {
    if (!this.#keysOwed) return;
    this.#keysOwed = false;
    this.#options.onKeys?.();
  }

  #askOwed(): void {
    if (this.#keysOwed && !this.#cancelAsked) void this.#askApi(whichKeys);
  }

  async #renew(asked = false): Promise<void> {
    const { identity, session } = this.#options;
    if (this.#stopped || this.#renewing) return;
    const isOpen = session.state.name === 'open';
    // The broker has taken the credentials after all: a proof that has failed is not repeated, and stands in the way of nothing.
    if (isOpen) this.#proofBackoff.reset();
    const proof = asked && !isOpen;
    // The timer may be shorter than the time that it is for.
    if (!proof && identity.credentials && this.#now(identity.credentials) < renewTimeMs(identity.credentials)) {
      this.#schedule();
      this.#askOwed();
      return;
    }
    this.#renewing = true;
    this.#cancel?.();
    const { credentials } = identity;
    const expired = !credentials || this.#now(credentials) >= expireTimeMs(credentials);
    let waitMs: number | undefined;
    try {
      if (session.state.name === 'open') waitMs = await this.#overBus(session.state);
      else if (proof || expired || this.#proofBackoff.failures > 0) waitMs = await this.#byProof();
      // Offline, and the credentials are still good: the connection may be back in time.
      else waitMs = Math.min(minuteMs, expireTimeMs(credentials) - this.#now(credentials));
    } finally {
      this.#renewing = false;
    }
    if (this.#stopped) return;
    this.#askOwed();
    if (waitMs === undefined) this.#schedule();
    // What a refusal asked for is owed until it is done, however long the credentials would be good.
    else this.#after(Math.max(0, waitMs), proof);
  }

  /** Undefined: done. Else how long to wait. */
  async #overBus(session: { readonly epoch: bigint; readonly nonce: Uint8Array }): Promise<number | undefined> {
    const { link, address, log, verifier } = this.#options;
    const nonce = drawNonce();
    try {
      const { epoch } = session;
      const message = create(RenewRequestSchema, { epoch, session: session.nonce, nonce });
      const request = toBinary(RenewRequestSchema, message);
      const answer = await link.request(upSubject(address, 'renew'), request, requestTimeoutMs);
      const opened = verifier.open('renew-reply', nonce, answer);
      if (!opened) throw new Error('the answer is not signed by the control plane');
      const { error, credentials, trustDigest } = fromBinary(RenewReplySchema, opened.payload);
      if (error?.reason === ErrorReason.REVOKED) {
        log.error({ message: error.message }, 'this node was revoked: its credentials are not renewed');
        return 15 * minuteMs;
      }
      if (error || !credentials) throw new Error(error?.message ?? 'an answer without credentials');
      await this.#take(credentials);
      this.#busBackoff.reset();
      this.#proofBackoff.reset();
      log.info({ expires: new Date(expireTimeMs(credentials)).toISOString() }, 'credentials renewed');
      this.trustSeen(trustDigest);
      return undefined;
    } catch (error) {
      const waitMs = this.#busBackoff.nextMs();
      log.warn({ error: (error as Error).message, waitMs }, 'credentials not renewed over the bus');
      return waitMs;
    }
  }

  /** Undefined: done. Else how long to wait. */
  async #byProof(): Promise<number | undefined> {
    const { prove, link, log, random = Math.random } = this.#options;
    try {
      const credentials = await prove();
      await this.#take(credentials);
      this.#provenMs = this.#options.clock.now();
      this.#knowKeys();
      this.#proofBackoff.reset();
      log.info(
        { expires: new Date(expireTimeMs(credentials)).toISOString() },
        'credentials renewed by proving the key',
      );
      link.wake();
      return undefined;
    } catch (error) {
      const backoffMs = this.#proofBackoff.nextMs();
      const kind = (error as { kind?: unknown }).kind;
      if (kind === 'denied' || kind === 'invalid') {
        const waitMs = (15 + 15 * random()) * minuteMs;
        log.error({ error: (error as Error).message, waitMs }, 'no new credentials: what runs is left as it is');
        link.rest(waitMs);
        return waitMs;
      }
      log.warn({ error: (error as Error).message, waitMs: backoffMs }, 'credentials not renewed by proving the key');
      return backoffMs;
    }
  }
}
