import type { Clock } from '../clock.ts';
import { placeKey } from './observed.ts';
import type { Place } from './plan.ts';
import { Tracked } from './tracked.ts';

/** All objects that the loop has in mind, by their uids and by where they are to be. */
export class Roster {
  readonly #options: { readonly clock: Clock; readonly random?: () => number };
  readonly #byUid = new Map<string, Tracked>();
  readonly #byPlace = new Map<string, Tracked>();

  constructor(options: { readonly clock: Clock; readonly random?: () => number }) {
    this.#options = options;
  }

  get(uid: string): Tracked | undefined {
    return this.#byUid.get(uid);
  }

  at(place: Place): Tracked | undefined {
    return this.#byPlace.get(placeKey(place));
  }

  all(): IterableIterator<Tracked> {
    return this.#byUid.values();
  }

  /** @param place Where it is to be, as far as is known. */
  track(uid: string, place: Place | undefined): Tracked {
    let one = this.#byUid.get(uid);
    if (!one) {
      one = new Tracked(uid, this.#options);
      this.#byUid.set(uid, one);
    }
    if (place && !one.place) {
      one.place = { kind: place.kind, namespace: place.namespace, name: place.name };
      this.#byPlace.set(placeKey(place), one);
    }
    return one;
  }

  /** While something is added for it, it comes back by itself. */
  untrack(one: Tracked): void {
    one.retryNow();
    if (this.#byUid.get(one.uid) === one) this.#byUid.delete(one.uid);
    if (one.place && this.at(one.place) === one) this.#byPlace.delete(placeKey(one.place));
  }
}
