import type { V1Lease } from '@kubernetes/client-node/dist/gen/models/V1Lease.js';
import { type Clock, pause } from '../../clock.ts';
import { type Election, type ElectionOptions, resourceTypes } from '../cluster_driver.ts';
import { ClusterError } from '../cluster_error.ts';
import { fieldManager } from './field_manager.ts';
import type { ApiClient } from './http.ts';
import { collectionPath, objectPath, withQuery } from './paths.ts';

export interface LeaseContext {
  readonly client: Pick<ApiClient, 'request'>;
  readonly clock: Clock;
  /** In [0, 1). Default `Math.random`. */
  readonly random?: () => number;
  /** Milliseconds that never go back. Default `performance.now`. */
  readonly monotonicMs?: () => number;
}

/** A Lease as it goes over the wire: the client library's type has dates where JSON has text. */
type Lease = Omit<V1Lease, 'spec'> & {
  spec?: Omit<NonNullable<V1Lease['spec']>, 'acquireTime' | 'renewTime'> & { acquireTime?: string; renewTime?: string };
};

const type = resourceTypes.Lease;
/** A lease that says that it lasts longer than so many of ours is not believed. */
const maxPatience = 6;
/** Timers may be a little early. */
const timerSlackMs = 5;
const manager = { fieldManager };

/**
 * Leader election as Kubernetes' own components do it (client-go's leaderelection). A lease is judged by when *we* saw it change, on a clock that
 * never goes back, and never by the times that stand in it, so clocks need not agree. Every write carries the resourceVersion that was seen.
 *
 * A leader counts its term from before it sent the renewal, and ends it `renewDeadlineMs` later, while whoever watches counts
 * `leaseDurationMs` from after it was stored: the difference is for what is still on its way.
 */
export class LeaseElection implements Election {
  readonly #context: LeaseContext;
  readonly #options: ElectionOptions;
  readonly #leaseDurationMs: number;
  readonly #renewDeadlineMs: number;
  readonly #retryPeriodMs: number;
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;
  /** As last seen or written; undefined: not known. */
  #seen: Lease | undefined;
  #holder = '';
  /** What stands in it, and when that changed. */
  #record = '';
  #recordMs = 0;
  /** Until when we lead, by both clocks: one stands still while a machine sleeps, the other may be set. */
  #termEndMs = Number.NEGATIVE_INFINITY;
  #termEndWallMs = Number.NEGATIVE_INFINITY;
  #term: AbortController | undefined;
  #cancelTermEnd: () => void = () => undefined;
  #problem = '';
  /** By its holder's clock. */
  #renewMs = Number.NaN;
  /** When another one was last seen to renew what it holds. */
  #otherRenewedMs = Number.NEGATIVE_INFINITY;
  #toldFollowing = false;

  constructor(context: LeaseContext, options: ElectionOptions) {
    const { leaseDurationMs = 10_000, renewDeadlineMs = 7_000, retryPeriodMs = 1_500 } = options;
    if (!(retryPeriodMs > 0 && retryPeriodMs < renewDeadlineMs && renewDeadlineMs < leaseDurationMs)) {
      throw new RangeError('expected retryPeriodMs < renewDeadlineMs < leaseDurationMs');
    }
    this.#context = context;
    this.#options = options;
    this.#leaseDurationMs = leaseDurationMs;
    this.#renewDeadlineMs = renewDeadlineMs;
    this.#retryPeriodMs = retryPeriodMs;
    this.#running = this.#run();
  }

  get leads(): boolean {
    return this.#term !== undefined && this.#inTime;
  }

  get term(): AbortSignal | undefined {
    return this.leads ? this.#term?.signal : undefined;
  }

  get holder(): string {
    return this.#holder;
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    // First nobody leads, then another may.
    this.#endTerm();
    // A renewal that is under way is waited for: without its outcome the lease cannot be let go of.
    await this.#running;
    await this.#release();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    const { clock, random = Math.random } = this.#context;
    for (let conflicts = 0; !signal.aborted; ) {
      if (this.#term && !this.leads) this.#endTerm();
      try {
        await this.#acquireOrRenew();
        conflicts = 0;
        this.#report(undefined);
      } catch (cause) {
        const error =
          cause instanceof ClusterError ? cause : new ClusterError('other', (cause as Error).message, { cause });
        // It may have been written all the same, or by another: look before the next try.
        this.#seen = undefined;
        const raced = error.kind === 'conflict' || error.kind === 'already-exists';
        // That another was faster is what an election is about.
        if (!raced) this.#report(error);
        conflicts = raced ? conflicts + 1 : 0;
        if (conflicts === 1) continue;
      }
      this.#tellFollowing();
      await pause(clock, this.#retryPeriodMs * (1 + 0.2 * random()), signal);
    }
  }

  /** Resolves when we lead, or another does. Rejects with ClusterError when that is not known. */
  async #acquireOrRenew(): Promise<void> {
    const { identity } = this.#options;
    // A leader knows what it wrote last; if another has written since, the cluster refuses, and it looks.
    const known = this.leads && this.#seen?.spec?.holderIdentity === identity ? this.#seen : await this.#look();
    if (!known) return await this.#write('POST', this.#claim(undefined));
    const holder = known.spec?.holderIdentity ?? '';
    if (holder !== identity && holder !== '') {
      const saidMs = Math.min((known.spec?.leaseDurationSeconds ?? 0) * 1000, this.#leaseDurationMs * maxPatience);
      const lastsMs = Math.max(saidMs, this.#leaseDurationMs);
      if (this.#nowMs() < this.#recordMs + lastsMs) {
        // Somebody took it from us: nothing may be done any more, whatever our own clock says.
        if (this.#term) this.#endTerm();
        return;
      }
    }
    await this.#write('PUT', this.#claim(known));
  }

  async #look(): Promise<Lease | undefined> {
    let lease: Lease | undefined;
    try {
      lease = await this.#context.client.request<Lease>({ method: 'GET', path: this.#path(), timeoutMs: this.#tryMs });
    } catch (error) {
      if (!(error instanceof ClusterError && error.kind === 'not-found')) throw error;
    }
    this.#take(lease);
    return lease;
  }

  #take(lease: Lease | undefined): void {
    this.#seen = lease;
    const holder = lease?.spec?.holderIdentity ?? '';
    this.#noteRenewal(holder, lease?.spec?.renewTime);
    this.#holder = holder;
    const record = JSON.stringify(lease?.spec ?? {});
    if (record === this.#record) return;
    this.#record = record;
    this.#recordMs = this.#nowMs();
  }

  /** A lease that is held says nothing of whether its holder is alive; one that the same holder has renewed since does. */
  #noteRenewal(holder: string, renewTime: string | undefined): void {
    const renewMs = Date.parse(renewTime ?? '');
    if (holder === '' || holder === this.#options.identity || holder !== this.#holder) {
      this.#otherRenewedMs = Number.NEGATIVE_INFINITY;
    } else if (renewMs > this.#renewMs) {
      this.#otherRenewedMs = this.#nowMs();
    }
    this.#renewMs = renewMs;
  }

  #tellFollowing(): void {
    const follows = !this.#stopping.signal.aborted && this.#nowMs() < this.#otherRenewedMs + this.#leaseDurationMs;
    if (follows === this.#toldFollowing) return;
    this.#toldFollowing = follows;
    this.#options.onFollowing?.(follows);
  }

  /** The lease with us as its holder. */
  #claim(lease: Lease | undefined): Lease {
    const { identity, name, namespace } = this.#options;
    const now = new Date(this.#context.clock.now()).toISOString().replace('Z', '000Z');
    const before = lease?.spec;
    // Left out, they stay as they are.
    const { managedFields: _, ...metadata } = lease?.metadata ?? { name, namespace };
    const ours = before?.holderIdentity === identity;
    return {
      apiVersion: type.apiVersion,
      kind: type.kind,
      metadata,
      spec: {
        ...before,
        holderIdentity: identity,
        leaseDurationSeconds: Math.ceil(this.#leaseDurationMs / 1000),
        acquireTime: (ours && before.acquireTime) || now,
        renewTime: now,
        leaseTransitions: (before?.leaseTransitions ?? 0) + (before && !ours ? 1 : 0),
      },
    };
  }

  /** Makes it ours. Our term counts from now, before it is sent. */
  async #write(method: 'POST' | 'PUT', body: Lease): Promise<void> {
    const sentMs = this.#nowMs();
    const sentWallMs = this.#context.clock.now();
    const path = method === 'POST' ? collectionPath(type, this.#options.namespace) : this.#path();
    const written = await this.#context.client.request<Lease>({
      method,
      path: withQuery(path, manager),
      body,
      timeoutMs: this.#tryMs,
    });
    this.#take(written);
    if (this.#stopping.signal.aborted) return;
    this.#termEndMs = sentMs + this.#renewDeadlineMs;
    this.#termEndWallMs = sentWallMs + this.#renewDeadlineMs;
    this.#cancelTermEnd();
    this.#cancelTermEnd = this.#context.clock.after(this.#termEndMs - this.#nowMs() + timerSlackMs, () => {
      if (!this.leads) this.#endTerm();
    });
    // The answer may have taken longer than the term.
    if (this.#term || !this.#inTime) return;
    this.#term = new AbortController();
    this.#tellFollowing();
    this.#options.onChange(true);
  }

  get #inTime(): boolean {
    return this.#nowMs() < this.#termEndMs && this.#context.clock.now() < this.#termEndWallMs;
  }

  #endTerm(): void {
    const term = this.#term;
    this.#term = undefined;
    this.#cancelTermEnd();
    if (!term) return;
    term.abort();
    this.#options.onChange(false);
  }

  /** As client-go does: nobody holds it, and it lasts a second. */
  async #release(): Promise<void> {
    const lease = this.#seen;
    if (!lease?.spec || lease.spec.holderIdentity !== this.#options.identity) return;
    const renewTime = new Date(this.#context.clock.now()).toISOString().replace('Z', '000Z');
    const { managedFields: _, ...metadata } = lease.metadata ?? {};
    const body = {
      ...lease,
      metadata,
      spec: { ...lease.spec, holderIdentity: '', leaseDurationSeconds: 1, renewTime },
    };
    try {
      await this.#context.client.request({
        method: 'PUT',
        path: withQuery(this.#path(), manager),
        body,
        timeoutMs: this.#tryMs,
      });
    } catch (error) {
      // Then it runs out by itself.
      this.#report(error as ClusterError);
    }
  }

  #report(error: ClusterError | undefined): void {
    const problem = error ? `${error.kind} ${error.message}` : '';
    if (problem === this.#problem) return;
    this.#problem = problem;
    this.#options.onProblem?.(error);
  }

  /** A try that hangs must not use up the time for the next one. */
  get #tryMs(): number {
    return this.#renewDeadlineMs / 2;
  }

  #path(): string {
    const { namespace, name } = this.#options;
    return objectPath({ type, namespace, name });
  }

  #nowMs(): number {
    return (this.#context.monotonicMs ?? performance.now.bind(performance))();
  }
}
