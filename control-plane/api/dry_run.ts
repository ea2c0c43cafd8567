import type { Bay } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import type { KindName } from '../domain/kinds.ts';
import type { ObjectMessage } from '../domain/object.ts';
import { encode, newRecord, type StoredRecord } from '../domain/record.ts';
import type { BayRef } from './bay_directory.ts';

/** What the manifests before would have made, while a call is only checked: the ones after may need it. */
export class DryRun {
  readonly #models = new Map<string, StoredRecord>();
  readonly #bays = new Map<string, BayRef>();

  /** Takes note of an object that would be there now. */
  made(kind: KindName, object: ObjectMessage, isNew: boolean): void {
    const { metadata } = object;
    if (!metadata) return;
    const { uid, name, project } = metadata;
    if (kind === 'BayModel') this.#models.set(name, encode(kind, object, newRecord('', ''))(0));
    // One that was there is found where it is; its engine cannot change.
    if (kind === 'Bay' && isNew) {
      const engine = (object as Bay).spec?.containerEngine ?? 0;
      this.#bays.set(name, { uid, name, project, engine, deleting: false });
    }
  }

  bayModel(name: string): StoredRecord | undefined {
    return this.#models.get(name);
  }

  bay(name: string): BayRef | undefined {
    return this.#bays.get(name);
  }
}
