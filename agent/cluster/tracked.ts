import { Backoff } from '../backoff.ts';
import type { Clock } from '../clock.ts';
import type { Problem } from '../delivery.ts';
import { ClusterError } from '../drivers/cluster_error.ts';
import type { Policy } from '../policy.ts';
import { Contention } from './contention.ts';
import { EventLog } from './events.ts';
import type { Leftovers } from './leftovers.ts';
import type { Place, View, Wanted } from './plan.ts';
import { isAway, isPassing } from './reasons.ts';
import type { EndpointAddresses, StatusNote } from './status.ts';

const retry = { baseMs: 1_000, maxMs: 120_000, minMs: 250 } as const;
/** Of a cluster that is away: whoever notices that it is back has everything tried again. */
const awayRetry = { baseMs: 500, maxMs: 5_000, minMs: 100 } as const;
/** For what somebody has to change first. */
const rareRetry = { baseMs: 15_000, maxMs: 120_000, minMs: 5_000 } as const;

/** What the loop has in mind of one object between two looks at it. */
export class Tracked {
  readonly uid: string;
  /** Where it is to be; undefined where that is not known. */
  place: Place | undefined;
  /** Of the last word on it; empty: there was none. */
  reported = '';
  reportedGeneration: bigint | undefined;
  /** It was reported to be gone. */
  removed = false;
  problem: Problem | undefined;
  /** Whether the problem may pass by itself. */
  passing = false;
  /** The problem is that the cluster cannot be asked. */
  away = false;
  note: StatusNote | undefined;
  applied: { readonly generation: bigint; readonly timeMs: number } | undefined;
  accepted: View['accepted'];
  leftovers: Leftovers | undefined;
  /** For which policy, and which state of the controller, its pods were looked at. */
  vetted: { readonly policy: Policy; readonly state: string } | undefined;
  endpoints: EndpointAddresses | undefined;
  /** A watch has told of it since the last look at it began, while it was worked on. */
  changed = false;
  readonly events = new EventLog();
  readonly contention: Contention;
  readonly #clock: Clock;
  readonly #backoff: Backoff;
  readonly #awayBackoff: Backoff;
  readonly #rareBackoff: Backoff;
  #wanted = '';
  #settled = false;
  #retryAtMs = 0;
  #cancelRetry: () => void = () => undefined;

  constructor(uid: string, { clock, random }: { readonly clock: Clock; readonly random?: () => number }) {
    this.uid = uid;
    this.#clock = clock;
    this.contention = new Contention(random);
    this.#backoff = new Backoff({ ...retry, random });
    this.#awayBackoff = new Backoff({ ...awayRetry, random });
    this.#rareBackoff = new Backoff({ ...rareRetry, random });
  }

  /** Everything is as asked, as far as is known. */
  get settled(): boolean {
    return this.#settled;
  }

  /** Takes note of what is wanted. True when that is something else than before: failures count from the beginning. */
  want(wanted: Wanted): boolean {
    const key = keyOf(wanted);
    if (key === this.#wanted) return false;
    this.#wanted = key;
    this.accepted = undefined;
    this.removed = false;
    this.#forget();
    this.#settled = false;
    return true;
  }

  /** It is not as asked (any more). */
  unsettle(): void {
    this.#settled = false;
  }

  settle(): void {
    this.#settled = true;
    this.#forget();
  }

  #forget(): void {
    this.problem = undefined;
    this.passing = false;
    this.away = false;
    this.note = undefined;
    this.#backoff.reset();
    this.#awayBackoff.reset();
    this.#rareBackoff.reset();
    this.retryNow();
  }

  /** It went wrong. Returns when it is tried again, in milliseconds since 1970. */
  failed(error: unknown, again: () => void): number {
    this.passing = isPassing(error);
    this.away = isAway(error);
    const backoff = this.away ? this.#awayBackoff : isPassing(error) ? this.#backoff : this.#rareBackoff;
    const asked = (error instanceof ClusterError && error.retryAfterMs) || 0;
    // What a busy cluster asks for is the least.
    return this.retryAfter(asked + backoff.nextMs(), again);
  }

  /** Whether somebody else changes it time and again, so that mending has to wait. */
  isHeld(again: () => void): boolean {
    const nowMs = this.#clock.now();
    const untilMs = this.contention.heldUntilMs(nowMs);
    if (untilMs === 0) return false;
    this.problem = { reason: 'FieldContested', message: this.contention.message(nowMs), retryTimeMs: untilMs };
    this.passing = true;
    this.retryAfter(untilMs - nowMs, again);
    return true;
  }

  /** Returns when that is, in milliseconds since 1970. */
  retryAfter(ms: number, again: () => void): number {
    this.#cancelRetry();
    this.#cancelRetry = this.#clock.after(ms, () => {
      // By the timer, and not by the clock, which may be behind it.
      this.#retryAtMs = 0;
      again();
    });
    this.#retryAtMs = this.#clock.now() + ms;
    return this.#retryAtMs;
  }

  /** What it waited for has come. */
  retryNow(): void {
    this.#cancelRetry();
    this.#retryAtMs = 0;
  }

  get isWaiting(): boolean {
    return this.#clock.now() < this.#retryAtMs;
  }
}

function keyOf(wanted: Wanted): string {
  if (wanted.kind !== 'present') return wanted.kind;
  const { generation, manifest } = wanted;
  return `${generation} ${manifest.hash} ${manifest.adopt} ${manifest.createNamespace}`;
}
