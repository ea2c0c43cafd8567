import type { JsonObject } from '@bufbuild/protobuf';
import type { ObjectRef, ResourceType, Selection } from '../cluster_driver.ts';
import { ClusterError } from '../cluster_error.ts';

/** Parameters of a request; what is undefined or false is left out. */
export type Query = Readonly<Record<string, string | number | boolean | undefined>>;

export function collectionPath(type: ResourceType, namespace: string | undefined): string {
  const root = type.apiVersion.includes('/') ? `/apis/${type.apiVersion}` : `/api/${type.apiVersion}`;
  const within = type.namespaced && namespace !== undefined ? `/namespaces/${segment('namespace', namespace)}` : '';
  return `${root}${within}/${type.plural}`;
}

/** Throws ClusterError (`invalid`) when it cannot be the path of one object. */
export function objectPath({ type, namespace, name }: ObjectRef): string {
  if (type.namespaced && !namespace)
    throw new ClusterError('invalid', `a ${type.kind} has a namespace, and none was given`);
  return `${collectionPath(type, namespace)}/${segment('name', name)}`;
}

/** Where a manifest says that it belongs. */
export function refOf(type: ResourceType, object: JsonObject): ObjectRef {
  const metadata = object.metadata as JsonObject | undefined;
  const field = (name: string): string => {
    const value = metadata?.[name];
    return typeof value === 'string' ? value : '';
  };
  return { type, namespace: type.namespaced ? field('namespace') : undefined, name: field('name') };
}

export function withQuery(path: string, query: Query): string {
  let text = '';
  for (const name in query) {
    const value = query[name];
    if (value === undefined || value === false || value === '') continue;
    text += `${text === '' ? '?' : '&'}${name}=${encodeURIComponent(value)}`;
  }
  return path + text;
}

export const selectors = ({ labelSelector, fieldSelector }: Selection): Query => ({ labelSelector, fieldSelector });

/** A name as the API server takes one in a path: nothing that would lead elsewhere. */
function segment(what: string, value: string): string {
  if (!value || value === '.' || value === '..' || /[/%]/.test(value)) {
    throw new ClusterError('invalid', `${what}: expected the name of an object, got ${JSON.stringify(value)}`);
  }
  return encodeURIComponent(value);
}
