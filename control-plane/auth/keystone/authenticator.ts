import { createHash } from 'node:crypto';
import type { Logger } from 'pino';
import { CloudError, KeystoneError } from '../../../proto/openstack/errors.ts';
import type { KeystoneClient } from '../../../proto/openstack/keystone_client.ts';
import type { TokenInfo } from '../../../proto/openstack/token.ts';
import { DeniedError, ExhaustedError, UnavailableError } from '../../domain/errors.ts';
import type { Principal } from '../../domain/principal.ts';
import type { AuthenticateOptions, Authenticator, Credentials } from '../port.ts';
import { type Answer, Answers } from './answers.ts';
import { Gate } from './gate.ts';
import { principalOf, type RoleNames } from './principal_of.ts';
import type { Service, ServiceToken } from './service_token.ts';

/** How long it is remembered that something is no token. */
const unknownMs = 5_000;
/** A failure that comes within this may be the fault of what was asked; one that takes longer is that of who was. */
const quickMs = 1_000;

const fernet = /^gAAAA[A-Za-z0-9_-]{20,4000}={0,2}$/;
const jws = /^(eyJ[A-Za-z0-9_-]{5,2000})\.([A-Za-z0-9_-]{5,4000})\.[A-Za-z0-9_-]{5,1000}$/;
/** Keystone signs with nothing else, and breaks off where something else is said. */
const jwsAlgorithm = 'ES256';

/**
 * Whether it looks like what Keystone has issued since Rocky: Fernet, or signed JSON with its own claims. What does not is not sent there: it may be
 * a secret that is for somebody else.
 */
function mayBeIssued(token: string): boolean {
  if (fernet.test(token)) return true;
  const [, header, claims] = jws.exec(token) ?? [];
  if (!header || !claims || !Buffer.from(claims, 'base64url').includes('"openstack_methods"')) return false;
  try {
    return JSON.parse(Buffer.from(header, 'base64url').toString('utf8')).alg === jwsAlgorithm;
  } catch {
    return false;
  }
}

/** Keystone failed at what it was asked about, and is there for others. */
class SubjectError extends KeystoneError {}

/** Options of {@link KeystoneAuthenticator}. */
export interface KeystoneAuthenticatorOptions {
  readonly client: Pick<KeystoneClient, 'validate'>;
  readonly service: Pick<ServiceToken, 'get'>;
  readonly roleNames: RoleNames;
  /** How old an answer may become before Keystone is asked again. */
  readonly cacheMs: number;
  /** Tokens that are remembered. Default 10,000. */
  readonly mostAnswers?: number;
  readonly clock: { now(): number };
  readonly log: Logger;
  readonly gate?: Gate;
  /** Told of each question to Keystone how it ended. */
  readonly onLookup?: (outcome: 'known' | 'refused' | 'unknown' | 'failed') => void;
}

/**
 * Finds out by Keystone who has a token. Answers are remembered, by the token's hash, for as long as `cacheMs` says and the token lives; so long, a Keystone
 * that is away is not missed. After that nobody gets in, with UnavailableError: it is not known who they are.
 */
export class KeystoneAuthenticator implements Authenticator {
  readonly #options: KeystoneAuthenticatorOptions;
  readonly #gate: Gate;
  readonly #known: Answers;
  /** Apart, so that nonsense does not push out what is good. */
  readonly #unknown: Answers;
  readonly #pending = new Map<string, Promise<Answer>>();
  #trouble = '';

  constructor(options: KeystoneAuthenticatorOptions) {
    this.#options = options;
    this.#gate = options.gate ?? new Gate({ clock: options.clock });
    this.#known = new Answers(options.mostAnswers ?? 10_000);
    this.#unknown = new Answers(options.mostAnswers ?? 10_000);
  }

  /** Also rejects with DeniedError: for a token that Keystone knows, but that gives no rights here. */
  authenticate(
    { token }: Credentials,
    { maxAgeMs = Number.POSITIVE_INFINITY, mayAsk }: AuthenticateOptions = {},
  ): Principal | undefined | Promise<Principal | undefined> {
    if (!mayBeIssued(token)) return undefined;
    const key = createHash('sha256').update(token).digest('base64');
    const known = this.#known.get(key) ?? this.#unknown.get(key);
    if (known && this.#isFresh(known, maxAgeMs)) return this.#outcome(known);
    // Whoever guesses must not keep Keystone busy.
    if ((!known || 'unknown' in known) && !this.#pending.has(key) && mayAsk?.() === false) {
      throw new ExhaustedError(
        'too many tokens that are not known here come from this address: try again a little later',
      );
    }
    return this.#lookUp(key, token, known);
  }

  #isFresh(answer: Answer, maxAgeMs: number): boolean {
    const ageMs = this.#options.clock.now() - answer.askedMs;
    const mostMs = 'unknown' in answer ? unknownMs : this.#options.cacheMs;
    // A clock that was set back makes nothing young.
    return ageMs >= 0 && ageMs <= Math.min(mostMs, maxAgeMs);
  }

  #outcome(answer: Answer): Principal | undefined {
    if ('unknown' in answer) return undefined;
    const expireTimeMs = 'refusal' in answer ? answer.expireTimeMs : answer.principal.expireTimeMs;
    if (expireTimeMs !== undefined && expireTimeMs <= this.#options.clock.now()) return undefined;
    if ('refusal' in answer) throw new DeniedError(answer.refusal, { subject: answer.subject });
    return answer.principal;
  }

  async #lookUp(key: string, token: string, known: Answer | undefined): Promise<Principal | undefined> {
    let pending = this.#pending.get(key);
    if (!pending) {
      pending = this.#ask(key, token).finally(() => this.#pending.delete(key));
      this.#pending.set(key, pending);
    }
    try {
      return this.#outcome(await pending);
    } catch (error) {
      // It was wanted newer than it is, and cannot be had newer.
      const usable = known && !('unknown' in known) && this.#isFresh(known, Number.POSITIVE_INFINITY);
      if (error instanceof UnavailableError && usable) return this.#outcome(known);
      throw error;
    }
  }

  async #ask(key: string, token: string): Promise<Answer> {
    const { clock, log, roleNames, onLookup } = this.#options;
    const askedMs = clock.now();
    let info: TokenInfo | undefined;
    try {
      info = await this.#gate.run(() => this.#validate(token));
    } catch (error) {
      if (!(error instanceof KeystoneError || error instanceof CloudError)) throw error;
      onLookup?.('failed');
      // Once, and not for each caller.
      if (error instanceof SubjectError) log.debug({ err: error }, 'Keystone fails at a token');
      else {
        if (this.#trouble === '') log.error({ err: error }, 'Keystone cannot be asked who is calling');
        this.#trouble = error.message;
      }
      throw new UnavailableError('Keystone cannot be asked at the moment who is calling: try again a little later', {
        cause: error,
      });
    }
    if (this.#trouble !== '') log.info({ trouble: this.#trouble }, 'Keystone answers again');
    this.#trouble = '';
    if (!info) {
      onLookup?.('unknown');
      this.#known.delete(key);
      return this.#keep(this.#unknown, key, { askedMs, unknown: true });
    }
    const principal = principalOf(info, roleNames);
    const refused = 'refusal' in principal;
    onLookup?.(refused ? 'refused' : 'known');
    const answer = refused ? { ...principal, expireTimeMs: info.expireTimeMs } : { principal };
    this.#unknown.delete(key);
    return this.#keep(this.#known, key, { askedMs, ...answer });
  }

  #keep(answers: Answers, key: string, answer: Answer): Answer {
    answers.set(key, answer);
    return answer;
  }

  async #validate(subject: string): Promise<TokenInfo | undefined> {
    const { client, service, clock } = this.#options;
    const own = await service.get();
    const beganMs = clock.now();
    try {
      return await client.validate({ ...own, subject });
    } catch (error) {
      if (!(error instanceof KeystoneError)) throw error;
      // Ours was taken back, or ended before its time: it is renewed once.
      if (error.failure === 'unauthorized') return client.validate({ ...(await service.get(own.token)), subject });
      // Whoever finds what Keystone fails at must not have it count as away for all.
      if (error.failure === 'unavailable' && clock.now() - beganMs < quickMs && (await this.#isThere(own))) {
        throw new SubjectError('invalid', `at one token alone: ${error.message}`, { cause: error });
      }
      throw error;
    }
  }

  async #isThere(own: Service): Promise<boolean> {
    const answer = this.#options.client.validate({ ...own, subject: own.token });
    return answer.then(Boolean, () => false);
  }
}
