import type { Logger } from 'pino';
import type { NodeAddress } from '../../proto/subjects.ts';
import { DeniedError, InvalidError, PreconditionError, UnavailableError } from '../domain/errors.ts';
import { fullJitterMs, pause } from './backoff.ts';
import { messageOf } from './broker_error.ts';
import { agentUserJwt, isUserKey, type Revocations, revocationsOf, type UserSigner } from './claims.ts';
import type { BrokerConnection } from './connection.ts';
import type { Access, ConnectionEvent, IssuedCredentials } from './port.ts';
import { Presence } from './presence.ts';
import { fieldsOf, parseSystemMessage } from './system_message.ts';

/** Who can sign for the account, and change it. */
export interface AccountAuthority {
  readonly signer: UserSigner;
  /** The control plane's own users: never an agent's, and never to be revoked. */
  readonly ownKeys: readonly string[];
  /** The account with these revocations. `current` asks the broker for the account as it is. Rejects with a DomainError when it cannot. */
  accountJwt(revocations: Revocations, current: () => Promise<string>): Promise<string>;
  /** Keeps it for when the broker starts anew. */
  keepAccountJwt(jwt: string): Promise<void>;
}

export interface NatsAccessOptions {
  readonly urls: readonly string[];
  readonly authority: AccountAuthority;
  /** In the system account. */
  readonly system: BrokerConnection;
  /** How long credentials live. */
  readonly credentialTtlMs: number;
  /** Keys that are revoked for good. Those revoked longer than `credentialTtlMs` ago may be left out. Asked when the broker comes back. */
  readonly revokedKeys: () => Promise<readonly string[]>;
  readonly log: Logger;
  readonly clock: { now(): number };
  /** How long a revocation waits for a broker that is away. Default 5 s. */
  readonly revokeTimeoutMs?: number;
}

const retry = { baseMs: 200, maxMs: 10_000 };

/** Access on NATS: user JWTs, revoked by changing the account's claims. */
export class NatsAccess implements Access {
  readonly #options: NatsAccessOptions;
  readonly #log: Logger;
  readonly #ownKeys: ReadonlySet<string>;
  readonly #presence: Presence;
  readonly #closing = new AbortController();
  /** What the store knows to be revoked. */
  #known: ReadonlySet<string> = new Set();
  /** What was revoked here, and when. */
  readonly #revoked = new Map<string, number>();
  /** The push that is under way, and the one that comes after it. */
  #push: Promise<void> = Promise.resolve();
  #nextPush: Promise<void> | undefined;
  #refreshing: Promise<void> = Promise.resolve();

  constructor(options: NatsAccessOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#ownKeys = new Set(options.authority.ownKeys);
    const { system, authority, log } = options;
    const { accountPublicKey } = authority.signer;
    this.#presence = new Presence({ system, accountPublicKey, ownKeys: this.#ownKeys, log });
  }

  get urls(): readonly string[] {
    return this.#options.urls;
  }

  /** To be called once: from now on the broker is told of the revocations whenever it comes back. */
  async start(): Promise<void> {
    this.#known = new Set(this.#valid(await this.#options.revokedKeys()));
    const { system } = this.#options;
    system.onConnected((connected) => {
      if (connected) this.#beginRefresh();
    });
    if (system.connected) this.#beginRefresh();
  }

  /** Resolves when a broker that is up has been told of the revocations, or after `timeoutMs`. */
  async waitUntilTold(timeoutMs: number): Promise<void> {
    const waiting = new AbortController();
    await Promise.race([this.#refreshing, pause(timeoutMs, waiting.signal)]);
    waiting.abort();
  }

  /** Ends what it does in the background. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#refreshing;
  }

  /** Rejects with InvalidError when it is not the public key of a user, with DeniedError when it is revoked. */
  issue(agent: NodeAddress & { readonly publicKey: string; readonly name: string }): Promise<IssuedCredentials> {
    const { publicKey, name, bayUid, nodeUid } = agent;
    const { authority, credentialTtlMs, clock } = this.#options;
    return Promise.resolve().then(() => {
      if (!isUserKey(publicKey) || this.#ownKeys.has(publicKey)) {
        throw new InvalidError('public_key', 'expected the public key of an nkey of kind user, of the agent itself');
      }
      if (this.#known.has(publicKey) || this.#revoked.has(publicKey)) {
        throw new DeniedError('this key was revoked: the agent has to enrol again, with a new one');
      }
      const issued = { publicKey, name, signer: authority.signer, ttlMs: credentialTtlMs, nowMs: clock.now() };
      return agentUserJwt({ ...issued, agent: { bayUid, nodeUid } });
    });
  }

  /** When it rejects with UnavailableError, it is tried again by itself until the broker has taken it. */
  async revoke(publicKeys: readonly string[]): Promise<void> {
    const keys = this.#valid(publicKeys);
    if (keys.length === 0) return;
    const now = this.#options.clock.now();
    for (const key of keys) this.#revoked.set(key, now);
    try {
      await this.#pushAccount();
    } catch (error) {
      if (!(error instanceof PreconditionError)) this.#beginRefresh();
      throw error;
    }
    this.#log.info({ keys: keys.length }, 'revoked');
  }

  /** The connections that are there already are told of first. One that is there when the broker comes back may be told of twice. */
  onConnection(listener: (event: ConnectionEvent) => void): () => void {
    const end = this.#presence.onConnection(listener);
    this.#refreshing = this.#refreshing.then(() => this.#announce());
    return end;
  }

  #valid(publicKeys: readonly string[]): readonly string[] {
    return publicKeys.filter((key) => {
      const valid = isUserKey(key) && !this.#ownKeys.has(key);
      if (!valid) this.#log.warn({ key }, 'not the key of an agent: it cannot be revoked');
      return valid;
    });
  }

  /** Credentials that were issued before a revocation have run out once it is older than they can get. */
  #revocations(): Revocations {
    const oldestMs = this.#options.clock.now() - this.#options.credentialTtlMs;
    for (const [key, timeMs] of this.#revoked) if (timeMs < oldestMs) this.#revoked.delete(key);
    return revocationsOf([...this.#known, ...this.#revoked.keys()]);
  }

  #beginRefresh(): void {
    this.#refreshing = this.#refreshing.then(() => this.#refresh());
  }

  /** Tells the broker all that is revoked: it may be back with nothing in its head. */
  async #refresh(): Promise<void> {
    const { signal } = this.#closing;
    for (let failures = 0; !signal.aborted && this.#options.system.connected; failures += 1) {
      try {
        this.#known = new Set(this.#valid(await this.#options.revokedKeys()));
        if (this.#known.size > 0 || this.#revoked.size > 0) await this.#pushAccount();
        return this.#announce();
      } catch (error) {
        if (error instanceof PreconditionError) {
          const keys = this.#known.size + this.#revoked.size;
          this.#log.error({ reason: messageOf(error), keys }, 'revoked keys may still be let in');
          return this.#announce();
        }
        this.#log.warn(
          { reason: messageOf(error), failures },
          'the broker could not be told who is revoked: it is tried again',
        );
        await pause(fullJitterMs(retry, failures), signal);
      }
    }
  }

  /** Never rejects: heartbeats find out as well who is there, later. */
  async #announce(): Promise<void> {
    if (!this.#options.system.connected || this.#closing.signal.aborted) return;
    await this.#presence.announce().catch((error: unknown) => {
      this.#log.warn({ reason: messageOf(error) }, 'the broker does not say who is connected');
    });
  }

  /** Resolves when the broker has taken what was revoked before the call. Calls that come while one is under way share the next. */
  #pushAccount(): Promise<void> {
    if (!this.#nextPush) {
      const begin = () => {
        this.#nextPush = undefined;
        return this.#pushNow();
      };
      this.#nextPush = this.#push.then(begin, begin);
      this.#push = this.#nextPush;
    }
    return this.#nextPush;
  }

  async #pushNow(): Promise<void> {
    const { authority, system, revokeTimeoutMs = 5000 } = this.#options;
    const revocations = this.#revocations();
    const jwt = await authority.accountJwt(revocations, () => this.#currentAccountJwt());
    await authority.keepAccountJwt(jwt);
    if (!(await system.waitUntilConnected(revokeTimeoutMs))) {
      throw new UnavailableError('the broker cannot be reached: the revocation takes effect as soon as it is back');
    }
    const answer = await system.request('$SYS.REQ.CLAIMS.UPDATE', new TextEncoder().encode(jwt), revokeTimeoutMs);
    const refusal = refusalOf(answer, authority.signer.accountPublicKey);
    if (refusal !== undefined) throw new UnavailableError(`the broker does not take the account: ${refusal}`);
    this.#log.debug({ revocations: Object.keys(revocations).length }, 'the broker has taken the account');
  }

  async #currentAccountJwt(): Promise<string> {
    const { authority, system, revokeTimeoutMs = 5000 } = this.#options;
    await system.waitUntilConnected(revokeTimeoutMs);
    const subject = `$SYS.REQ.ACCOUNT.${authority.signer.accountPublicKey}.CLAIMS.LOOKUP`;
    return new TextDecoder().decode(await system.request(subject, new Uint8Array(), revokeTimeoutMs));
  }
}

/** Undefined: it was taken. */
function refusalOf(answer: Uint8Array, accountPublicKey: string): string | undefined {
  const { data, error } = parseSystemMessage(answer);
  const { code, account } = fieldsOf(data);
  if (code === 200 && account === accountPublicKey) return undefined;
  const { description } = fieldsOf(error);
  return typeof description === 'string' ? description : 'its answer is not understood';
}
