import type { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { NotFoundError, PreconditionError } from '../domain/errors.ts';
import { decode } from '../domain/record.ts';
import type { Store, StoredObject, WriteView } from '../store/port.ts';

/** A bay, as far as what is in it needs to know. */
export interface BayRef {
  readonly uid: string;
  readonly name: string;
  readonly project: string;
  readonly engine: ContainerEngine;
  readonly deleting: boolean;
}

/**
 * Bays by name. Every object is in a bay, so nearly every call looks one up: kept in memory, and forgotten when the change feed says that the
 * bay has changed.
 */
export class BayDirectory {
  readonly #store: Store;
  readonly #bays = new Map<string, BayRef>();
  /** Counts changes of bays: what was read before one may be old. */
  #changes = 0;
  readonly #end: () => void;

  constructor(store: Store) {
    this.#store = store;
    this.#end = store.subscribe(
      (changes) => {
        for (const { object } of changes) {
          this.#changes += 1;
          this.#bays.delete(keyOf(object.project, object.name));
        }
      },
      { kind: 'Bay' },
    );
  }

  close(): void {
    this.#end();
  }

  /** Rejects with NotFoundError. */
  async find(project: string, name: string): Promise<BayRef> {
    const known = this.#bays.get(keyOf(project, name));
    if (known) return known;
    const changes = this.#changes;
    const stored = await this.#store.get({ kind: 'Bay', project, bayUid: '', namespace: '', name });
    if (!stored) throw missing(name);
    const bay = refOf(stored);
    if (changes === this.#changes) this.#bays.set(keyOf(project, name), bay);
    return bay;
  }

  /** Within a write: that the bay is still there and takes new objects. `bay.uid` must be among the write's reads. */
  check(view: WriteView, bay: BayRef): void {
    const stored = view.get({ uid: bay.uid });
    if (!stored) {
      this.#bays.delete(keyOf(bay.project, bay.name));
      throw missing(bay.name);
    }
    checkTaking({ name: bay.name, deleting: stored.deleting });
  }
}

/** That the bay takes new objects. Throws PreconditionError. */
export function checkTaking({ name, deleting }: Pick<BayRef, 'name' | 'deleting'>): void {
  if (deleting) throw new PreconditionError(`bay "${name}" is being deleted, and takes nothing new`);
}

/** A name that was asked for may have anything in it; no project has a NUL. */
const keyOf = (project: string, name: string): string => `${project}\0${name}`;
const missing = (name: string): NotFoundError => new NotFoundError(`there is no bay "${name}"`);

function refOf(stored: StoredObject): BayRef {
  const { spec } = decode('Bay', stored);
  return {
    uid: stored.uid,
    name: stored.name,
    project: stored.project,
    engine: spec?.containerEngine ?? 0,
    deleting: stored.deleting,
  };
}
