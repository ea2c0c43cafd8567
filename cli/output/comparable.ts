import type { JsonObject, JsonValue } from '@bufbuild/protobuf';
import { isMapping, type Mapping, mappingAt } from '../json.ts';
import { type AnyObject, metadataOf } from '../objects.ts';
import { sparseJson } from './object_json.ts';

/** What changes with every write, or belongs to the server: no author asks for it, so it is no difference. */
const serverFields = [
  'managedFields',
  'resourceVersion',
  'generation',
  'uid',
  'creationTimestamp',
  'deletionTimestamp',
  'deletionGracePeriodSeconds',
  'selfLink',
];
/** Where the agent notes what it applied last: another value whenever anything else differs. */
const appliedAnnotation = 'baykeeper.io/applied';
const ownerLabel = 'baykeeper.io/uid';

/** What of a cluster's object is to be compared. `isNew`: of one that is not there yet, whose uid of ours is made up for the dry run. */
export function comparableInCluster(object: JsonObject, isNew: boolean): JsonValue {
  const { status: _status, ...rest } = object;
  const metadata = without(mappingAt(object, 'metadata'), serverFields);
  const annotations = without(mappingAt(metadata, 'annotations'), [appliedAnnotation]);
  const labels = without(mappingAt(metadata, 'labels'), isNew ? [ownerLabel] : []);
  // A mapping that our own notes alone had filled is as good as none.
  const maps = Object.entries({ annotations, labels }).filter(([, map]) => Object.keys(map).length > 0);
  const others = without(metadata, ['annotations', 'labels']);
  return sorted({ ...rest, metadata: { ...others, ...Object.fromEntries(maps) } });
}

/** What of an object of ours is to be compared: what users write. */
export function comparable(object: AnyObject): JsonValue {
  const { apiVersion, kind, spec } = sparseJson(object) as Mapping;
  const { bay, namespace, name, labels, annotations } = metadataOf(object);
  const metadata = Object.fromEntries(
    Object.entries({ bay, namespace, name, labels, annotations }).filter(([, value]) => Object.keys(value).length > 0),
  );
  return sorted({ apiVersion: apiVersion ?? '', kind: kind ?? '', metadata, spec: spec ?? {} });
}

function without(mapping: Mapping, keys: readonly string[]): Mapping {
  return Object.fromEntries(Object.entries(mapping).filter(([key]) => !keys.includes(key)));
}

/** The order of keys says nothing. */
function sorted(value: Mapping): Mapping {
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, item]) => [key, sortedInside(item)]),
  );
}

function sortedInside(value: JsonValue): JsonValue {
  if (Array.isArray(value)) return value.map(sortedInside);
  return isMapping(value) ? sorted(value) : value;
}
