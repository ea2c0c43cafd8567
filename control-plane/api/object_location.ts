import { defaultNamespace } from '../domain/defaults.ts';
import { AlreadyExistsError, NotFoundError } from '../domain/errors.ts';
import { type KindName, kinds } from '../domain/kinds.ts';
import { describe, metadataOf, type ObjectMessage } from '../domain/object.ts';
import type { Principal } from '../domain/principal.ts';
import type { ObjectKey } from '../store/port.ts';
import type { BayRef } from './bay_directory.ts';

/** How a request names one object. */
export interface ObjectRef {
  /** Name of the bay; empty for kinds that are not in one. */
  readonly bay: string;
  /** Empty: the default one. */
  readonly namespace: string;
  /** Name or uid, one of them. */
  readonly name: string;
  readonly uid: string;
}

/** Where an object is looked for: its key, which has the caller's project in it, and the bay that was named. */
export interface Located {
  readonly key: ObjectKey;
  readonly bay: BayRef | undefined;
}

/** That there is no such object. */
export function notFound(kind: KindName, ref: ObjectRef): NotFoundError {
  if (ref.uid)
    return new NotFoundError(
      `there is no ${kinds[kind].singular} with uid "${ref.uid}"${ref.bay && ` in bay "${ref.bay}"`}`,
    );
  return new NotFoundError(`there is no ${describe(kind, { ...ref, namespace: ref.namespace || defaultNamespace })}`);
}

/** That there is such an object already. */
export function exists(kind: KindName, object: ObjectMessage, cause?: unknown): AlreadyExistsError {
  return new AlreadyExistsError(`there is a ${describe(kind, metadataOf(kind, object))} already`, { cause });
}

/** Where a new object would be found by its name. */
export function keyOf(kind: KindName, principal: Principal, bay: BayRef | undefined, object: ObjectMessage): ObjectKey {
  const { namespace, name } = metadataOf(kind, object);
  return { kind, project: principal.project, bayUid: bay?.uid ?? '', namespace, name };
}
