import type { Desired } from './ports.ts';

/**
 * The objects that nobody has looked at since the start. What was said of them before may be wrong by now, and silence does not confirm it
 * (Promise 8).
 */
export class Unseen {
  readonly #desired: Pick<Desired, 'current'>;
  readonly #uids: Set<string>;

  constructor(desired: Pick<Desired, 'current'>) {
    this.#desired = desired;
    this.#uids = new Set(desired.current.objects.keys());
  }

  /** There is a word on it, or nothing to say. */
  seen(uid: string): void {
    this.#uids.delete(uid);
  }

  get count(): number {
    return this.uids().length;
  }

  uids(): readonly string[] {
    const { objects } = this.#desired.current;
    for (const uid of this.#uids) if (!objects.has(uid)) this.#uids.delete(uid);
    return [...this.#uids];
  }
}
