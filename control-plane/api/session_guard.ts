import type { Logger } from 'pino';
import type { AuditedCall } from '../audit/port.ts';
import type { Authenticator, Credentials } from '../auth/port.ts';
import { DeniedError, ExhaustedError, UnauthenticatedError, UnavailableError } from '../domain/errors.ts';
import type { Principal } from '../domain/principal.ts';

/** Options of {@link SessionGuard}. */
export interface SessionGuardOptions {
  readonly authenticator: Authenticator;
  readonly clock: { now(): number };
  readonly log: Logger;
  /** Hears of streams that are ended. */
  readonly onEnd?: (streams: readonly AuditedCall[], reason: string) => void;
  /** How often it is asked whether a caller is still who it was. Default 3 s. */
  readonly intervalMs?: number;
  /** How old an answer may be then. Default 1 s. */
  readonly maxAgeMs?: number;
  /** How long a stream has to end by itself before it is cut. Default 0.5 s: with all of the above, within five seconds. */
  readonly graceMs?: number;
  /** How many streams of one caller are open at once, whatever its tokens. Default 1000. */
  readonly maxStreams?: number;
}

/** A stream whose caller is watched over. */
export interface GuardedStream {
  /** Aborted, with the reason for the caller, when the caller is not who it was any more. */
  readonly signal: AbortSignal;
  /** The stream has ended. */
  end(): void;
}

interface Session {
  readonly credentials: Credentials;
  /** As it was found last. */
  principal: Principal;
  readonly streams: Set<{ readonly call: () => AuditedCall; end(reason: Error): void }>;
  timer?: NodeJS.Timeout;
}

/**
 * Ends open streams whose caller's credentials have expired or were taken back. It asks once for all the streams of one credential, and keeps nothing
 * of a caller longer than its streams.
 */
export class SessionGuard {
  readonly #options: Required<SessionGuardOptions>;
  readonly #sessions = new Map<string, Session>();
  /** How many streams each caller has. */
  readonly #open = new Map<string, number>();

  constructor(options: SessionGuardOptions) {
    this.#options = {
      maxStreams: 1_000,
      intervalMs: 3_000,
      maxAgeMs: 1_000,
      graceMs: 500,
      onEnd: () => undefined,
      ...options,
    };
  }

  /** How many callers have open streams. */
  get size(): number {
    return this.#sessions.size;
  }

  /**
   * Begins to watch over a stream. `cut` breaks its connection: a caller that does not read cannot be told. `call`: what it is. Throws ExhaustedError when
   * its caller has too many.
   */
  watch(credentials: Credentials, principal: Principal, cut: () => void, call: () => AuditedCall): GuardedStream {
    const caller = `${principal.project}/${principal.subject}`;
    this.#count(caller, 1);
    // The same token may stand for somebody else by now: those are kept apart.
    const key = JSON.stringify([credentials.token, principal.subject, principal.project, principal.role]);
    let session = this.#sessions.get(key);
    if (!session) {
      session = { credentials, principal, streams: new Set() };
      this.#sessions.set(key, session);
      this.#schedule(key, session);
    }
    const { streams } = session;
    const abort = new AbortController();
    let cutting: NodeJS.Timeout | undefined;
    let open = true;
    const stream = {
      call,
      end: (reason: Error): void => {
        abort.abort(reason);
        cutting = setTimeout(cut, this.#options.graceMs);
      },
    };
    streams.add(stream);
    return {
      signal: abort.signal,
      end: () => {
        clearTimeout(cutting);
        if (!open) return;
        open = false;
        this.#count(caller, -1);
        streams.delete(stream);
        if (streams.size === 0) this.#forget(key, session);
      },
    };
  }

  #count(caller: string, more: 1 | -1): void {
    const { maxStreams } = this.#options;
    const count = (this.#open.get(caller) ?? 0) + more;
    if (count > maxStreams) throw new ExhaustedError(`too many streams: ${maxStreams} at once are allowed. End some`);
    if (count > 0) this.#open.set(caller, count);
    else this.#open.delete(caller);
  }

  /** Asks nobody any more. */
  close(): void {
    for (const [key, session] of this.#sessions) this.#forget(key, session);
  }

  #schedule(key: string, session: Session): void {
    const { clock, intervalMs } = this.#options;
    const leftMs = (session.principal.expireTimeMs ?? Number.POSITIVE_INFINITY) - clock.now();
    session.timer = setTimeout(() => void this.#check(key, session), Math.max(0, Math.min(intervalMs, leftMs)));
    session.timer.unref();
  }

  async #check(key: string, session: Session): Promise<void> {
    const reason = await this.#reasonToEnd(session);
    // All of its streams may have ended meanwhile, and a new session begun.
    if (this.#sessions.get(key) !== session) return;
    if (!reason) return this.#schedule(key, session);
    const { subject, project } = session.principal;
    const streams = [...session.streams];
    const what = { subject, project, streams: streams.length, reason: reason.message };
    this.#options.log.info(what, 'streams ended: their caller is not let in any more');
    this.#options.onEnd(
      streams.map(({ call }) => call()),
      reason.message,
    );
    this.#forget(key, session);
    for (const stream of streams) stream.end(reason);
  }

  async #reasonToEnd(session: Session): Promise<Error | undefined> {
    const { authenticator, clock, log, maxAgeMs } = this.#options;
    const { credentials, principal } = session;
    try {
      const now = await authenticator.authenticate(credentials, { maxAgeMs });
      if (!now || (now.expireTimeMs ?? Number.POSITIVE_INFINITY) <= clock.now()) return expired();
      const same =
        now.subject === principal.subject && now.project === principal.project && now.role === principal.role;
      if (same) session.principal = now;
      return same ? undefined : new UnauthenticatedError('the rights that this stream was opened with have changed');
    } catch (error) {
      if (error instanceof DeniedError) return expired();
      if (!(error instanceof UnavailableError)) log.error({ err: error }, 'a caller could not be looked at again');
      // Whoever knows is away, for longer than what it said may be believed.
      return new UnavailableError('it cannot be found out any more who is calling: try again a little later');
    }
  }

  #forget(key: string, session: Session): void {
    clearTimeout(session.timer);
    if (this.#sessions.get(key) === session) this.#sessions.delete(key);
  }
}

const expired = (): UnauthenticatedError =>
  new UnauthenticatedError('the token that this stream was opened with has expired or was taken back');

/** The messages of a stream while its caller is who it was; then what the guard says. */
export async function* guarded<T>(messages: AsyncIterable<T>, stream: GuardedStream): AsyncGenerator<T> {
  try {
    yield* messages;
    stream.signal.throwIfAborted();
  } catch (error) {
    // However it took it that it was to end.
    stream.signal.throwIfAborted();
    throw error;
  } finally {
    stream.end();
  }
}
