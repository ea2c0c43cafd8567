import { hash } from 'node:crypto';
import type { ClusterObject } from '../drivers/cluster_driver.ts';
import type { Ask } from '../policy.ts';
import { asksOfObject } from './asks.ts';
import { type Fields, fieldsOf, listOf, number, text } from './json_fields.ts';
import { appliedAnnotation } from './labels.ts';
import type { ClusterKind, Manifest } from './manifest.ts';
import { entriesOf, isShared, objectUidOf, ownsField, type Strayed, strayedFields } from './ownership.ts';

/** What is kept in mind of an object of ours in the cluster. The agent has thousands of them, so it is little. */
export interface Live {
  readonly kind: ClusterKind;
  readonly namespace: string;
  readonly name: string;
  /** Of our object; empty: it is not this bay's. */
  readonly objectUid: string;
  /** Of the object in the cluster. */
  readonly clusterUid: string;
  readonly resourceVersion: string;
  /** Hash of what was applied last; empty: nothing, or somebody took the annotation away. */
  readonly applied: string;
  /** When it was, by the cluster's clock, to the second. */
  readonly appliedMs: number | undefined;
  /** Whether the cluster has noted us as a writer of it. */
  readonly wrote: boolean;
  /** Of a pod: somebody else has written to its spec, too. */
  readonly shared: boolean;
  /** Fields of the manifest that somebody else has changed since. Only known for the manifest with the hash `checked`. */
  readonly strayed: readonly Strayed[];
  readonly checked: string;
  /** The same as long as the cluster notes the same fields as ours. */
  readonly owned: string;
  /** It is on its way out. */
  readonly ending: Ending | undefined;
  readonly finalizers: readonly string[];
  readonly facts: Facts;
  /** What it asks of the nodes that it runs on. */
  readonly asks: readonly Ask[];
  /** Its `status` as JSON. */
  readonly status: string;
}

export interface Ending {
  /** When its grace period is over. */
  readonly dueMs: number | undefined;
  readonly graceSeconds: number | undefined;
}

/** What its kind has beside the status. */
export type Facts =
  | {
      readonly kind: 'Pod';
      readonly node: string;
      readonly containers: number;
      /** How long it has to end. */
      readonly graceSeconds: number;
    }
  | {
      readonly kind: 'Service';
      readonly type: string;
      readonly clusterIp: string;
      readonly ports: readonly ServicePort[];
      /** 0: none. */
      readonly healthCheckNodePort: number;
      /** Its address is among our fields: the author has chosen it, or the object in whose place it was made had it. */
      readonly ownsAddress: boolean;
    }
  | {
      readonly kind: 'ReplicationController';
      readonly generation: number;
      readonly replicas: number;
      /** As a label selector. */
      readonly selector: string;
    };

export interface ServicePort {
  readonly name: string;
  readonly port: number;
  readonly protocol: string;
  /** 0: none. */
  readonly nodePort: number;
}

export interface LiveOptions {
  readonly kind: ClusterKind;
  readonly bayUid: string;
  /** Under which we write. */
  readonly fieldManager: string;
  /** What should be there; undefined: nothing that is known of. */
  readonly manifest: Manifest | undefined;
  /** The object as it was known before. */
  readonly before?: Live;
  /** It is the answer to a write of ours. Default false. */
  readonly written?: boolean;
}

/** How many strayed fields are kept in mind: enough to tell who it was. */
const strayedKept = 4;

/** Pure. */
export function liveOf(object: ClusterObject, options: LiveOptions): Live {
  const { kind, bayUid, fieldManager, manifest } = options;
  const { metadata } = object;
  const applied = metadata.annotations?.[appliedAnnotation] ?? '';
  // What is to be applied anyhow needs no look at what has strayed.
  const same = manifest?.hash === applied ? manifest : undefined;
  const own = entriesOf(metadata, fieldManager);
  const times = own.map(({ time }) => timeMs(time)).filter((ms) => ms !== undefined);
  const owned = hash('sha1', JSON.stringify(own.map(({ fieldsV1 }) => fieldsV1)), 'base64');
  return {
    kind,
    namespace: metadata.namespace ?? '',
    name: metadata.name,
    objectUid: objectUidOf(metadata, bayUid) ?? '',
    clusterUid: metadata.uid,
    resourceVersion: metadata.resourceVersion,
    applied,
    appliedMs: times.length > 0 ? Math.max(...times) : undefined,
    wrote: own.length > 0,
    shared: kind === 'Pod' && isShared(metadata, fieldManager),
    strayed: same ? withReplicas(lostFields(object, same, owned, options), same, object) : [],
    owned,
    checked: same?.hash ?? '',
    ending: metadata.deletionTimestamp
      ? { dueMs: timeMs(metadata.deletionTimestamp), graceSeconds: metadata.deletionGracePeriodSeconds }
      : undefined,
    finalizers: metadata.finalizers ?? [],
    facts: factsOf(kind, object, fieldManager),
    asks: asksOfObject(kind, object),
    status: JSON.stringify(object.status ?? {}),
  };
}

function withReplicas(strayed: readonly Strayed[], manifest: Manifest, object: ClusterObject): readonly Strayed[] {
  const others = strayed.filter(({ path, managers }) => path !== replicas || managers.length > 0);
  return isRescaled(manifest, object) && !others.some(({ path }) => path === replicas)
    ? [...others, { path: replicas, managers: [] }]
    : others;
}

function lostFields(
  { metadata }: ClusterObject,
  manifest: Manifest,
  owned: string,
  { before, written, fieldManager }: LiveOptions,
): readonly Strayed[] {
  // What nobody but us has written to is as we have just written it.
  if (written && metadata.managedFields?.every(({ manager }) => manager === fieldManager)) return [];
  // Most changes are of the status, and leave the rest as it was.
  if (before?.owned === owned && before.checked === manifest.hash) return before.strayed;
  return strayedFields(manifest.object, metadata, fieldManager, strayedKept);
}

const defaultGraceSeconds = 30;
const replicas = 'spec.replicas';

/**
 * Kubernetes before 1.22 does not note who changes the replicas by way of the scale subresource (`kubectl scale`, an autoscaler), and leaves them in
 * our name.
 */
function isRescaled({ kind, object }: Manifest, { spec }: ClusterObject): boolean {
  const wanted = fieldsOf(object.spec).replicas;
  return kind === 'ReplicationController' && typeof wanted === 'number' && number(fieldsOf(spec).replicas) !== wanted;
}

function timeMs(time: string | undefined): number | undefined {
  const ms = time === undefined ? Number.NaN : Date.parse(time);
  return Number.isNaN(ms) ? undefined : ms;
}

/** Of the spec of a pod, which the cluster has filled in. */
export const graceSecondsOf = ({ terminationGracePeriodSeconds: given }: Fields): number =>
  typeof given === 'number' ? given : defaultGraceSeconds;

const address = { spec: { clusterIP: '' } };

function factsOf(kind: ClusterKind, { spec, metadata }: ClusterObject, fieldManager: string): Facts {
  const fields = fieldsOf(spec);
  switch (kind) {
    case 'Pod':
      return {
        kind,
        node: text(fields.nodeName),
        containers: listOf(fields.containers).length,
        graceSeconds: graceSecondsOf(fields),
      };
    case 'Service':
      return {
        kind,
        type: text(fields.type),
        clusterIp: text(fields.clusterIP),
        ownsAddress: ownsField(metadata, fieldManager, address),
        healthCheckNodePort: number(fields.healthCheckNodePort),
        ports: listOf(fields.ports).map((port) => ({
          name: text(port.name),
          port: number(port.port),
          protocol: text(port.protocol) || 'TCP',
          nodePort: number(port.nodePort),
        })),
      };
    case 'ReplicationController':
      return {
        kind,
        generation: metadata.generation ?? 0,
        replicas: number(fields.replicas),
        selector: Object.entries(fieldsOf(fields.selector))
          .map(([key, value]) => `${key}=${text(value)}`)
          .join(','),
      };
  }
}
