import type { Bay } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import type { KindName } from '../domain/kinds.ts';
import type { ObjectMessage } from '../domain/object.ts';
import { encode, newRecord, type StoredRecord } from '../domain/record.ts';
import type { Usage } from '../store/port.ts';
import type { BayRef } from './bay_directory.ts';

/** What the manifests before would have made, while a call is only checked: the ones after may need it. */
export class DryRun {
  readonly #models = new Map<string, StoredRecord>();
  readonly #bays = new Map<string, BayRef>();
  readonly #counts = new Map<string, number>();
  #bytes = 0;

  /** Takes note of an object that would be there now, and of how much larger all is with it. */
  made(kind: KindName, object: ObjectMessage, isNew: boolean, bytes: number): void {
    const { metadata } = object;
    if (!metadata) return;
    if (isNew) this.#counts.set(kind, (this.#counts.get(kind) ?? 0) + 1);
    this.#bytes += bytes;
    const { uid, name, project } = metadata;
    if (kind === 'BayModel') this.#models.set(name, encode(kind, object, newRecord('', ''))(0));
    // One that was there is found where it is; its engine cannot change.
    if (kind === 'Bay' && isNew) {
      const engine = (object as Bay).spec?.containerEngine ?? 0;
      this.#bays.set(name, { uid, name, project, engine, deleting: false });
    }
  }

  /** What a project would have by now. */
  usage(now: Usage): Usage {
    return { count: (kind) => now.count(kind) + (this.#counts.get(kind) ?? 0), bytes: now.bytes + this.#bytes };
  }

  bayModel(name: string): StoredRecord | undefined {
    return this.#models.get(name);
  }

  bay(name: string): BayRef | undefined {
    return this.#bays.get(name);
  }
}
