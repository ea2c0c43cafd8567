import type { Driver, EngineContainer } from '../drivers/driver.ts';
import { engineName, label, type Owner, ownedUid, ownerLabels } from './engine_labels.ts';
import type { ObjectView } from './plan.ts';
import type { Wanted } from './wanted.ts';

/** What the engine has of one object now. Rejects with DriverError. */
export async function observe(driver: Driver, owner: Owner, wanted: Wanted): Promise<ObjectView> {
  const summaries = await driver.list({ ...ownerLabels(owner), [label.uid]: wanted.uid });
  const inspected = await Promise.all(summaries.map(({ id }) => driver.inspect(id)));
  const owned = inspected.filter((one) => one !== undefined);
  if (wanted.kind !== 'present') return { owned, occupant: undefined };
  const name = engineName(wanted.namespace, wanted.name);
  if (owned.some((one) => one.name === name)) return { owned, occupant: undefined };
  const named = await driver.inspect(name);
  // One of its own that has come to be, or was renamed, since the list was made.
  if (named && ownedUid(owner, named) === wanted.uid) {
    return { owned: [...owned.filter((one) => one.id !== named.id), named], occupant: undefined };
  }
  return { owned, occupant: named };
}

/** The one of an object's containers that its status speaks of. */
export function mainOf(wanted: Wanted, { owned }: ObjectView): EngineContainer | undefined {
  const name = wanted.kind === 'present' ? engineName(wanted.namespace, wanted.name) : undefined;
  const newestFirst = [...owned].sort((a, b) => (b.startedMs ?? 0) - (a.startedMs ?? 0));
  return owned.find((one) => one.name === name) ?? newestFirst[0];
}
