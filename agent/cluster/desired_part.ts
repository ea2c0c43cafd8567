import type { Assignment } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { Desired, DesiredObject, DesiredState } from '../ports.ts';

/** The part of the desired state that is for one of several engines. Graves are for all of them: whose they are is no longer known. */
export class DesiredPart implements Desired {
  readonly #whole: Desired;
  readonly #isPart: (assignment: Assignment) => boolean;
  readonly #bury: (uid: string) => Promise<void>;
  #seen: DesiredState | undefined;
  #current: DesiredState | undefined;

  /** @param bury Nothing of this one is left on the engine. */
  constructor(whole: Desired, isPart: (assignment: Assignment) => boolean, bury: (uid: string) => Promise<void>) {
    this.#whole = whole;
    this.#isPart = isPart;
    this.#bury = bury;
  }

  get current(): DesiredState {
    const { current } = this.#whole;
    if (this.#current && this.#seen === current) return this.#current;
    const objects = new Map<string, DesiredObject>();
    for (const [uid, object] of current.objects) if (this.#isPart(object.assignment)) objects.set(uid, object);
    this.#seen = current;
    this.#current = { complete: current.complete, graves: current.graves, objects };
    return this.#current;
  }

  subscribe(listener: (changedUids: readonly string[]) => void): () => void {
    return this.#whole.subscribe((uids) => {
      const { objects } = this.#whole.current;
      const own = uids.filter((uid) => {
        const object = objects.get(uid);
        return !object || this.#isPart(object.assignment);
      });
      if (own.length > 0) listener(own);
    });
  }

  async buried(uid: string): Promise<void> {
    await this.#bury(uid);
  }
}

/** Holds graves open until each of several engines has said that nothing is left on it. */
export class Burials {
  readonly #whole: Desired;
  readonly #engines: () => readonly string[];
  readonly #confirmed = new Map<string, Set<string>>();

  /** @param engines Those that there are now. */
  constructor(whole: Desired, engines: () => readonly string[]) {
    this.#whole = whole;
    this.#engines = engines;
  }

  async confirm(engine: string, uid: string): Promise<void> {
    if (!this.#whole.current.graves.has(uid)) return;
    const confirmed = this.#confirmed.get(uid) ?? new Set();
    confirmed.add(engine);
    this.#confirmed.set(uid, confirmed);
    if (!this.#engines().every((one) => confirmed.has(one))) return;
    this.#confirmed.delete(uid);
    await this.#whole.buried(uid);
  }
}
