import { createHash } from 'node:crypto';
import type { JsonObject, JsonValue } from '@bufbuild/protobuf';
import type { Assignment } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { PodSpec } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import type { ReplicationControllerSpec } from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import type { ServiceSpec } from '../../proto/gen/baykeeper/v1/service_pb.js';
import { canonicalJson } from '../canonical_json.ts';
import { type ResourceType, resourceTypes } from '../drivers/cluster_driver.ts';
import { appliedAnnotation, label } from './labels.ts';

/** The kinds of a bay that are objects of its cluster. */
export type ClusterKind = 'Pod' | 'Service' | 'ReplicationController';
export const clusterKinds = ['Pod', 'Service', 'ReplicationController'] as const satisfies readonly ClusterKind[];

/** What an object should be in the cluster. */
export interface Manifest {
  readonly kind: ClusterKind;
  readonly type: ResourceType;
  readonly namespace: string;
  readonly name: string;
  /** All that we want to own: the author's manifest, and our labels and annotation. */
  readonly object: JsonObject;
  /** Of `object` without the annotation that holds it. 32 hexadecimal digits. */
  readonly hash: string;
  readonly adopt: boolean;
  readonly createNamespace: boolean;
}

const kinds = {
  pod: 'Pod',
  service: 'Service',
  replicationController: 'ReplicationController',
} as const satisfies Record<string, ClusterKind>;

/** The spec of an assignment that is for the cluster; undefined when it is for another engine, or of a kind that we do not know. */
export function clusterSpecOf({
  spec,
}: Pick<Assignment, 'spec'>):
  | { readonly kind: ClusterKind; readonly spec: PodSpec | ServiceSpec | ReplicationControllerSpec }
  | undefined {
  return spec.case === 'pod' || spec.case === 'service' || spec.case === 'replicationController'
    ? { kind: kinds[spec.case], spec: spec.value }
    : undefined;
}

/** Bays have the namespace `default`, too. */
export const namespaceOf = ({ namespace }: Pick<Assignment, 'namespace'>): string => namespace || 'default';

/** The cluster's own fields of `metadata`: what a manifest that was read from a cluster has there says nothing about what is wanted. */
const clusterOwned: ReadonlySet<string> = new Set([
  'name',
  'namespace',
  'uid',
  'resourceVersion',
  'generation',
  'creationTimestamp',
  'deletionTimestamp',
  'deletionGracePeriodSeconds',
  'managedFields',
  'selfLink',
]);

/** What is to be applied for an assignment. Undefined when it is not for the cluster. */
export function manifestOf(assignment: Assignment, bayUid: string): Manifest | undefined {
  const known = clusterSpecOf(assignment);
  if (!known) return undefined;
  const { kind, spec } = known;
  const type = resourceTypes[kind];
  const namespace = namespaceOf(assignment);
  const { uid, name } = assignment;
  const extra = Object.entries(spec.metadata ?? {}).filter(
    ([key]) => !clusterOwned.has(key) && key !== 'labels' && key !== 'annotations',
  );
  const metadata: JsonObject = {
    ...Object.fromEntries(extra),
    name,
    namespace,
    labels: { ...assignment.labels, [label.uid]: uid, [label.bay]: bayUid },
  };
  const { [appliedAnnotation]: _, ...annotations } = assignment.annotations;
  const object: JsonObject = {
    apiVersion: type.apiVersion,
    kind,
    metadata: Object.keys(annotations).length > 0 ? { ...metadata, annotations } : metadata,
    ...(spec.manifest && { spec: withPortKeys(kind, spec.manifest) }),
  };
  const hash = hashOf(object);
  return {
    kind,
    type,
    namespace,
    name,
    object: { ...object, metadata: { ...metadata, annotations: { ...annotations, [appliedAnnotation]: hash } } },
    hash,
    adopt: spec.adopt,
    createNamespace: spec.createNamespace,
  };
}

/**
 * A port is told from others by its protocol, too, which authors leave out, as it is TCP then. Kubernetes before 1.21 refuses to apply a list
 * in which a part of an element's key is missing. Nothing else of a manifest is touched.
 */
function withPortKeys(kind: ClusterKind, spec: JsonObject): JsonObject {
  switch (kind) {
    case 'Pod':
      return inPodSpec(spec);
    case 'Service':
      return inItems(spec, 'ports', withProtocol);
    case 'ReplicationController': {
      const { template } = spec;
      if (!isObject(template) || !isObject(template.spec)) return spec;
      const inner = inPodSpec(template.spec);
      return inner === template.spec ? spec : { ...spec, template: { ...template, spec: inner } };
    }
  }
}

const inPodSpec = (spec: JsonObject): JsonObject =>
  ['containers', 'initContainers'].reduce(
    (changed, field) => inItems(changed, field, (container) => inItems(container, 'ports', withProtocol)),
    spec,
  );

const withProtocol = (port: JsonObject): JsonObject =>
  port.protocol === undefined || port.protocol === null ? { ...port, protocol: 'TCP' } : port;

/** The same object where nothing is to be changed. */
function inItems(object: JsonObject, field: string, change: (item: JsonObject) => JsonObject): JsonObject {
  const list = object[field];
  if (!Array.isArray(list)) return object;
  const next = list.map((item) => (isObject(item) ? change(item) : item));
  return next.some((item, index) => item !== list[index]) ? { ...object, [field]: next } : object;
}

const isObject = (value: JsonValue | undefined): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** 32 hexadecimal digits, the same for objects that differ in the order of their keys only. */
export const hashOf = (object: JsonValue): string =>
  createHash('sha256').update(canonicalJson(object)).digest('hex').slice(0, 32);
