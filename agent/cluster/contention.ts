import { Backoff } from '../backoff.ts';
import type { Strayed } from './ownership.ts';

/** So many changes of somebody else's are mended at once; from then on it looks as if two programs wanted different things. */
const freeMends = 3;
/** After so long without one it is over. */
const forgetMs = 600_000;
const patience = { baseMs: 4_000, minMs: 2_000, maxMs: 300_000 } as const;

/** Keeps account of how often fields of an object were taken from us, so that two programs that want different things do not drive each other round. */
export class Contention {
  readonly #backoff: Backoff;
  #mends = 0;
  #lastMs = 0;
  #nextMs = 0;
  #strayed: readonly Strayed[] = [];

  constructor(random?: () => number) {
    this.#backoff = new Backoff({ ...patience, random });
  }

  /** Until when a change has to stay as it is, in milliseconds since 1970; 0: it is mended now. */
  heldUntilMs(nowMs: number): number {
    this.#forget(nowMs);
    return this.#nextMs > nowMs ? this.#nextMs : 0;
  }

  /** A change was mended. */
  mended(strayed: readonly Strayed[], nowMs: number): void {
    this.#forget(nowMs);
    this.#mends += 1;
    this.#lastMs = nowMs;
    this.#strayed = strayed;
    this.#nextMs = this.#mends < freeMends ? 0 : nowMs + this.#backoff.nextMs();
  }

  /** For people: who changes what, while that goes on; empty: nobody. */
  message(nowMs: number): string {
    this.#forget(nowMs);
    if (this.#mends < freeMends) return '';
    const fields = this.#strayed.map(({ path, managers }) =>
      managers.length > 0 ? `${path} (set by ${managers.join(', ')})` : `${path} (the cluster has not noted by whom)`,
    );
    return `somebody else changes it time and again: ${fields.join(', ')}; leave the field out of the manifest, or stop the other program`;
  }

  #forget(nowMs: number): void {
    if (this.#mends === 0 || nowMs - this.#lastMs < forgetMs) return;
    this.#mends = 0;
    this.#nextMs = 0;
    this.#strayed = [];
    this.#backoff.reset();
  }
}
