import type { ObjectReport } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Backoff } from '../backoff.ts';
import type { Clock } from '../clock.ts';
import type { Problem } from '../delivery.ts';
import { DriverError, type EngineContainer } from '../drivers/driver.ts';
import type { Wanted } from './wanted.ts';

const retry = { baseMs: 1_000, maxMs: 300_000, minMs: 250 } as const;
/** For what somebody has to change first: looked at now and then. */
const rareRetry = { baseMs: 60_000, maxMs: 300_000, minMs: 15_000 } as const;

/** What the loop has in mind of one object between two looks at it. */
export class Tracked {
  readonly uid: string;
  /** The last word on it. */
  report: ObjectReport | undefined;
  reportedGeneration: bigint | undefined;
  problem: Problem | undefined;
  doing: 'pulling' | 'creating' | undefined;
  /** A name that somebody else has. */
  waitsForName: string | undefined;
  readonly #clock: Clock;
  readonly #backoff: Backoff;
  readonly #rareBackoff: Backoff;
  #wanted = '';
  #settled = false;
  #seen = '';
  #owned: readonly EngineContainer[] = [];
  #container: EngineContainer | undefined;
  #observedMs: number | undefined;
  #retryAtMs = 0;
  #cancelRetry: () => void = () => undefined;
  #work: AbortController | undefined;

  constructor(uid: string, { clock, random }: { readonly clock: Clock; readonly random?: () => number }) {
    this.uid = uid;
    this.#clock = clock;
    this.#backoff = new Backoff({ ...retry, random });
    this.#rareBackoff = new Backoff({ ...rareRetry, random });
  }

  /** Everything is as asked, as far as is known. */
  get settled(): boolean {
    return this.#settled;
  }

  /** Ids, names and states of its containers when they were last looked at, a line each. */
  get seen(): string {
    return this.#seen;
  }

  get owned(): readonly EngineContainer[] {
    return this.#owned;
  }

  /** The one that its status speaks of. */
  get container(): EngineContainer | undefined {
    return this.#container;
  }

  get observedMs(): number | undefined {
    return this.#observedMs;
  }

  /** Takes note of what is wanted. True when that is something else than before: failures count from the beginning, what is being done is called off. */
  want(wanted: Wanted): boolean {
    const key = wanted.kind === 'present' ? `present ${wanted.generation} ${wanted.hash}` : wanted.kind;
    if (key === this.#wanted) return false;
    this.#wanted = key;
    this.#settled = false;
    this.problem = undefined;
    this.#backoff.reset();
    this.#rareBackoff.reset();
    this.retryNow();
    this.callOff();
    return true;
  }

  see(owned: readonly EngineContainer[], container: EngineContainer | undefined, nowMs: number): void {
    this.#owned = owned;
    this.#container = container;
    this.#observedMs = nowMs;
    this.#settled = false;
    this.waitsForName = undefined;
    this.#seen = owned
      .map(({ id, name, state }) => `${id} ${name} ${state}`)
      .sort()
      .join('\n');
  }

  settle(): void {
    this.#settled = true;
    this.problem = undefined;
    this.#backoff.reset();
    this.#rareBackoff.reset();
    this.retryNow();
  }

  /** Work begins; the signal is aborted when it is called off. */
  begin(): AbortSignal {
    this.#work = new AbortController();
    return this.#work.signal;
  }

  callOff(): void {
    this.#work?.abort();
    this.#cancelRetry();
  }

  /** It went wrong. Returns when it is tried again, in milliseconds since 1970. */
  failed(error: unknown, nowMs: number, again: () => void): number {
    const rare = error instanceof DriverError && !error.retryable;
    const waitMs = (rare ? this.#rareBackoff : this.#backoff).nextMs();
    const atMs = nowMs + waitMs;
    this.retryAfter(waitMs, () => {
      // By the timer, and not by the clock, which may be behind it.
      this.#retryAtMs = 0;
      again();
    });
    this.#retryAtMs = atMs;
    return atMs;
  }

  retryAfter(ms: number, again: () => void): void {
    this.#cancelRetry();
    this.#cancelRetry = this.#clock.after(ms, again);
  }

  /** What it waited for has come. */
  retryNow(): void {
    this.#cancelRetry();
    this.#retryAtMs = 0;
  }

  isWaiting(nowMs: number): boolean {
    return nowMs < this.#retryAtMs;
  }
}
