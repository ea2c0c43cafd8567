import type { AuditEntry, AuditLog } from '../audit/port.ts';
import { type RateLimit, TokenBuckets } from '../domain/token_bucket.ts';

export interface RefusalsOptions {
  readonly audit: Pick<AuditLog, 'note'>;
  readonly clock: { now(): number };
  /** Of records of one caller. Default: 1 in 10 seconds, 30 at once. */
  readonly callerLimit?: RateLimit;
  /** Of all strangers, and of all that are known. Default: 2 a second, 300 at once. */
  readonly limit?: RateLimit;
  /** How often is told what was only counted. Default 60 s. */
  readonly sumMs?: number;
}

/** How many sums are kept apart, of strangers and of others; the rest is one. */
const maxSums = 50;

type Sums = Map<string, { readonly entry: AuditEntry; count: number }>;

/**
 * Records refused calls. Whoever sends more of them than people do has them counted, and recorded together: the disk is not for strangers to
 * fill. However many strangers there are, they hide nothing of what a known caller was refused.
 */
export class Refusals {
  readonly #options: RefusalsOptions;
  readonly #callers: TokenBuckets;
  readonly #all: TokenBuckets;
  readonly #sums: { readonly [who in 'known' | 'stranger']: Sums } = { known: new Map(), stranger: new Map() };
  #timer: NodeJS.Timeout | undefined;

  constructor(options: RefusalsOptions) {
    this.#options = options;
    this.#callers = new TokenBuckets(options.callerLimit ?? { perSecond: 0.1, burst: 30 }, options.clock);
    this.#all = new TokenBuckets(options.limit ?? { perSecond: 2, burst: 300 }, options.clock);
  }

  refused(entry: AuditEntry): void {
    const { peer, project, subject, method, code } = entry;
    const who = project === '' ? 'stranger' : 'known';
    if (this.#callers.take(`${peer} ${project}/${subject}`) && this.#all.take(who)) {
      this.#options.audit.note(entry);
      return;
    }
    const sums = this.#sums[who];
    const key = `${peer} ${project}/${subject} ${method} ${code}`;
    const known = sums.get(key) ?? (sums.size >= maxSums ? sums.get('') : undefined);
    if (known) known.count += 1;
    else if (sums.size < maxSums) sums.set(key, { entry: { ...entry, objects: [], requestId: '' }, count: 1 });
    else {
      const others = { method: '', subject: '', project: '', role: '', peer: '', requestId: '', objects: [] };
      sums.set('', { entry: { ...entry, ...others, code: 'several' }, count: 1 });
    }
    this.#timer ??= setTimeout(() => this.flush(), this.#options.sumMs ?? 60_000).unref();
  }

  /** Records what was counted. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const sums of Object.values(this.#sums)) {
      for (const { entry, count } of sums.values()) this.#options.audit.note({ ...entry, count });
      sums.clear();
    }
  }
}
