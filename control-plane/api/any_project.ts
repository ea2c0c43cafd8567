import { defaultNamespace } from '../domain/defaults.ts';
import { NotFoundError, PreconditionError } from '../domain/errors.ts';
import { type KindName, kinds } from '../domain/kinds.ts';
import { describe, metadataOf } from '../domain/object.ts';
import { projectHeader } from '../domain/principal.ts';
import { decode } from '../domain/record.ts';
import type { Store, StoredObject } from '../store/port.ts';
import type { ObjectRef } from './object_location.ts';

const shownMatches = 5;

/**
 * The only object of a name in all projects and bays, for those who may ask every project. Rejects with NotFoundError, and with PreconditionError when
 * there are several.
 */
export async function findInAnyProject(
  store: Pick<Store, 'list'>,
  kind: KindName,
  ref: ObjectRef,
): Promise<StoredObject> {
  const { name } = ref;
  const namespace = kinds[kind].scope === 'namespace' ? ref.namespace || defaultNamespace : '';
  const query = { kind, namespace, name, orderBy: 'createTime', descending: false, limit: shownMatches } as const;
  const { objects, more } = await store.list(query);
  const [only, another] = objects;
  if (!only) throw new NotFoundError(`there is no ${kinds[kind].singular} "${name}" in any project`);
  if (!another) return only;
  const places = objects.map(
    (one) => `${describe(kind, metadataOf(kind, decode(kind, one)))} of project ${one.project}`,
  );
  throw new PreconditionError(
    `several have this name: ${places.join(', ')}${more ? ' and more' : ''}. ` +
      `Name the project of the one that you mean, by ${projectHeader} or \`bayctl --project\``,
  );
}
