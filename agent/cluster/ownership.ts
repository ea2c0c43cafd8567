import type { JsonObject } from '@bufbuild/protobuf';
import type { ClusterObject, ManagedFields, ObjectMeta } from '../drivers/cluster_driver.ts';
import type { Ask } from '../policy.ts';
import { asksOfObject } from './asks.ts';
import { type FieldSet, type Leaf, leavesNotOwned, owns, pathsOf } from './field_set.ts';
import { label } from './labels.ts';
import type { ClusterKind } from './manifest.ts';

/** Uid of our object that something in the cluster is, by its labels; undefined when it is not this bay's. */
export function objectUidOf({ labels }: Pick<ObjectMeta, 'labels'>, bayUid: string): string | undefined {
  return (labels?.[label.bay] === bayUid && labels[label.uid]) || undefined;
}

/**
 * What the cluster has noted of a manager of fields, by whichever way it wrote them. Labels can be copied by anybody; this cannot. Fields of a
 * status are nobody's manifest.
 */
export const entriesOf = (
  { managedFields = [] }: Pick<ObjectMeta, 'managedFields'>,
  manager: string,
): ManagedFields[] => managedFields.filter((entry) => entry.manager === manager && !entry.subresource);

/** Whether somebody else has written to its spec: whoever has made what we took over has. */
export const isShared = ({ managedFields = [] }: Pick<ObjectMeta, 'managedFields'>, manager: string): boolean =>
  managedFields.some((entry) => entry.manager !== manager && !entry.subresource && entry.fieldsV1?.['f:spec']);

const setsOf = (metadata: Pick<ObjectMeta, 'managedFields'>, manager: string): FieldSet[] =>
  entriesOf(metadata, manager)
    .map(({ fieldsV1 }) => fieldsV1)
    .filter((set) => set !== undefined);

/** Whether a manager owns all fields of a part of a manifest. */
export const ownsField = (metadata: Pick<ObjectMeta, 'managedFields'>, manager: string, part: JsonObject): boolean =>
  leavesNotOwned(part, setsOf(metadata, manager), 1).length === 0;

/** A field of the manifest that no longer has the value that was applied. */
export interface Strayed {
  readonly path: string;
  /** Who owns it now, by the names that the cluster has for them; empty: nobody, as it was taken out, or the cluster has not noted it. */
  readonly managers: readonly string[];
}

/** The fields of a manifest that are no longer ours, at most `atMost` of them. */
export function strayedFields(
  manifest: JsonObject,
  metadata: Pick<ObjectMeta, 'managedFields'>,
  manager: string,
  atMost: number,
): Strayed[] {
  const { managedFields = [] } = metadata;
  const leaves = leavesNotOwned(manifest, setsOf(metadata, manager), atMost);
  return leaves.map((leaf) => ({ path: leaf.path, managers: ownersOf(manifest, leaf, managedFields, manager) }));
}

function ownersOf(manifest: JsonObject, leaf: Leaf, entries: readonly ManagedFields[], except: string): string[] {
  const owners = entries.filter(
    ({ manager, fieldsV1 }) => manager && manager !== except && fieldsV1 && owns(fieldsV1, manifest, leaf),
  );
  return [...new Set(owners.map(({ manager }) => manager ?? ''))];
}

/** Somebody else's object that has the name of ours. */
export interface Foreign {
  readonly clusterUid: string;
  readonly resourceVersion: string;
  readonly ending: boolean;
  /** For people: whose it is. */
  readonly whose: string;
  /** What it asks of the nodes that it runs on. */
  readonly asks: readonly Ask[];
}

/** Whether something in the cluster is the object with this uid, or else whose it is. */
export function claimOf(bayUid: string, uid: string, kind: ClusterKind, object: ClusterObject): 'ours' | Foreign {
  const { metadata } = object;
  if (objectUidOf(metadata, bayUid) === uid) return 'ours';
  return {
    clusterUid: metadata.uid,
    resourceVersion: metadata.resourceVersion,
    ending: metadata.deletionTimestamp !== undefined,
    whose: whoseObject(bayUid, kind, object),
    asks: asksOfObject(kind, object),
  };
}

/** How many fields of each manager a message names. */
const pathsShown = 12;
const managersShown = 8;

/** For people: whose object has the name, who owns which of its fields, and what to do about it. */
export function whoseObject(bayUid: string, kind: string, { metadata }: Pick<ClusterObject, 'metadata'>): string {
  const { name, namespace, labels = {}, managedFields = [] } = metadata;
  const what = `${kind} ${namespace ? `${namespace}/` : ''}${name} is in the cluster already`;
  const uid = labels[label.uid];
  if (uid !== undefined && labels[label.bay] === bayUid) {
    return `${what}: it is of the object with uid ${uid} of this bay, and the name is free once that is removed`;
  }
  const whose =
    uid !== undefined
      ? `${what} and belongs to another bay (${labels[label.bay] || 'of no name'})`
      : `${what} and was not made by Baykeeper`;
  const owners = describeOwners(managedFields);
  const remedy = 'it is left alone: delete it, give this one another name, or set adopt to take it over';
  return `${whose}${owners ? `; ${owners}` : ''}; ${remedy}`;
}

/** For people: who owns which fields. Empty when the cluster says nothing of it. */
export function describeOwners(entries: readonly ManagedFields[]): string {
  const byManager = new Map<string, { paths: string[]; count: number }>();
  for (const { manager = 'unknown', fieldsV1, subresource } of entries) {
    if (!fieldsV1 || subresource) continue;
    const known = byManager.get(manager) ?? { paths: [], count: 0 };
    const { paths, count } = pathsOf(fieldsV1, pathsShown - known.paths.length, ['status']);
    byManager.set(manager, { paths: [...known.paths, ...paths], count: known.count + count });
  }
  const managers = [...byManager].filter(([, { count }]) => count > 0);
  const shown = managers.slice(0, managersShown).map(([manager, { paths, count }]) => {
    const more = count > paths.length ? ` and ${count - paths.length} more` : '';
    return `${manager} owns ${paths.join(', ')}${more}`;
  });
  if (managers.length > shown.length) shown.push(`${managers.length - shown.length} more own others`);
  return shown.join('; ');
}
