import { create, type JsonValue, type MessageInitShape } from '@bufbuild/protobuf';
import { BayModelSchema } from '../proto/gen/baykeeper/v1/bay_model_pb.js';
import { BaySchema } from '../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerSchema } from '../proto/gen/baykeeper/v1/container_pb.js';
import { type Manifest, ManifestSchema } from '../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { type Metadata, MetadataSchema } from '../proto/gen/baykeeper/v1/metadata_pb.js';
import { PodSchema } from '../proto/gen/baykeeper/v1/pod_pb.js';
import { ReplicationControllerSchema } from '../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ServiceSchema } from '../proto/gen/baykeeper/v1/service_pb.js';
import { CliError, exitStatus } from './errors.ts';
import { kindRow } from './kinds.ts';
import { isMapping, type Mapping, type SourceDocument } from './manifest_file.ts';
import { type AnyObject, kindOf, metadataOf, type Place } from './objects.ts';
import { decode } from './proto_json.ts';

/** An object as a file has it, and where it stands there. */
export interface ManifestObject {
  readonly object: AnyObject;
  /** `web.yaml, document 2`. */
  readonly where: string;
}

/** Where objects go that do not say so themselves; what a flag says must not contradict the file. */
export interface ManifestDefaults extends Place {
  readonly bayFlag: string;
  readonly namespaceFlag: string;
}

type ObjectSchema =
  | typeof BayModelSchema
  | typeof BaySchema
  | typeof PodSchema
  | typeof ServiceSchema
  | typeof ReplicationControllerSchema
  | typeof ContainerSchema;

/** Kinds of our own `apiVersion`. A Node comes to be by enrolment, and not from a file. */
const ownKinds: Readonly<Record<string, ObjectSchema>> = {
  BayModel: BayModelSchema,
  Bay: BaySchema,
  Container: ContainerSchema,
  Pod: PodSchema,
  Service: ServiceSchema,
  ReplicationController: ReplicationControllerSchema,
};
/** Kinds of Kubernetes' `apiVersion: v1`. */
const kubernetesKinds: Readonly<
  Record<string, typeof PodSchema | typeof ServiceSchema | typeof ReplicationControllerSchema>
> = {
  Pod: PodSchema,
  Service: ServiceSchema,
  ReplicationController: ReplicationControllerSchema,
};
/** What a Kubernetes server writes into `metadata`; in the output of `kubectl get` it means nothing to us. */
const kubernetesServerFields = new Set([
  'uid',
  'resourceVersion',
  'creationTimestamp',
  'generation',
  'managedFields',
  'selfLink',
]);
const kubernetesMetadataFields = new Set(['name', 'namespace', 'labels', 'annotations']);

/** The objects of a document: one, or those of a List. Throws CliError naming file, document and path. */
export function parseObjects(document: SourceDocument, defaults: ManifestDefaults): ManifestObject[] {
  return parseValue(document.value, document.where, '', defaults);
}

/** The first kinds of a call must be there before the others can be: models, then bays, then what is in them. Otherwise the order stays. */
export function inOrder(objects: readonly ManifestObject[]): ManifestObject[] {
  const rank = ({ object }: ManifestObject): number =>
    ({ BayModel: 0, Bay: 1 })[kindOf(object).name as 'BayModel' | 'Bay'] ?? 2;
  return [...objects].sort((a, b) => rank(a) - rank(b));
}

/** A Manifest message for an object. A Node has none. */
export function toManifest(object: AnyObject): Manifest {
  switch (object.$typeName) {
    case 'baykeeper.v1.BayModel':
      return create(ManifestSchema, { object: { case: 'bayModel', value: object } });
    case 'baykeeper.v1.Bay':
      return create(ManifestSchema, { object: { case: 'bay', value: object } });
    case 'baykeeper.v1.Pod':
      return create(ManifestSchema, { object: { case: 'pod', value: object } });
    case 'baykeeper.v1.Service':
      return create(ManifestSchema, { object: { case: 'service', value: object } });
    case 'baykeeper.v1.ReplicationController':
      return create(ManifestSchema, { object: { case: 'replicationController', value: object } });
    case 'baykeeper.v1.Container':
      return create(ManifestSchema, { object: { case: 'container', value: object } });
    case 'baykeeper.v1.Node':
      throw new CliError('a Node comes to be when its agent joins the bay, and not from a file', exitStatus.invalid);
  }
}

function parseValue(value: JsonValue, where: string, path: string, defaults: ManifestDefaults): ManifestObject[] {
  const fail = (message: string, at = ''): CliError => manifestError(where, joinPath(path, at), message);
  if (!isMapping(value)) throw fail('expected an object with apiVersion, kind, metadata and spec');
  const { apiVersion, kind } = value;
  if (typeof apiVersion !== 'string' || apiVersion === '')
    throw fail('missing: v1 (Kubernetes) or baykeeper/v1', 'apiVersion');
  if (typeof kind !== 'string' || kind === '') throw fail('missing', 'kind');
  if (apiVersion !== 'v1' && apiVersion !== 'baykeeper/v1') {
    throw fail(
      `"${apiVersion}" is not known here; known are v1 (Pod, Service, ReplicationController, List) and baykeeper/v1 (${Object.keys(ownKinds).join(', ')}, List)`,
      'apiVersion',
    );
  }
  if (kind === 'List') {
    const items = value.items ?? [];
    if (!Array.isArray(items)) throw fail('expected a list', 'items');
    return items.flatMap((item, index) => parseValue(item, where, joinPath(path, `items[${index}]`), defaults));
  }
  const known = apiVersion === 'v1' ? kubernetesKinds : ownKinds;
  const schema = Object.hasOwn(known, kind) ? known[kind] : undefined;
  if (!schema)
    throw fail(
      `"${kind}" of ${apiVersion} cannot be made from a file; known are ${Object.keys(known).join(', ')}, List`,
      'kind',
    );
  const object =
    apiVersion === 'v1'
      ? fromKubernetes(schema as (typeof kubernetesKinds)[string], value, where, path)
      : fromOwn(schema, value, where, path);
  const metadata = place(object, metadataOf(object), defaults, (message, at) => fail(message, at));
  return [{ object: Object.assign(object, { metadata }), where: path ? `${where}, ${path}` : where }];
}

function fromOwn(schema: ObjectSchema, value: Mapping, where: string, path: string): AnyObject {
  const { apiVersion: _version, kind: _kind, status: _status, ...fields } = value;
  return decode<AnyObject>(schema, fields, (at, message) => manifestError(where, joinPath(path, at), message));
}

/** Takes the manifest as its author wrote it; what has no place in our messages is refused, never dropped. */
function fromKubernetes(
  schema: typeof PodSchema | typeof ServiceSchema | typeof ReplicationControllerSchema,
  value: Mapping,
  where: string,
  path: string,
): AnyObject {
  const fail = (message: string, at: string): CliError => manifestError(where, joinPath(path, at), message);
  const { apiVersion: _version, kind: _kind, status: _status, metadata = {}, spec, ...rest } = value;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) throw fail('unknown field', unknown);
  if (!isMapping(metadata)) throw fail('expected a mapping', 'metadata');
  if (spec !== undefined && spec !== null && !isMapping(spec)) throw fail('expected a mapping', 'spec');
  const kept: Mapping = {};
  for (const [key, given] of Object.entries(metadata)) {
    if (kubernetesServerFields.has(key)) continue;
    if (!kubernetesMetadataFields.has(key)) throw fail('this field of Kubernetes is not supported', `metadata.${key}`);
    if (given !== null) kept[key] = given;
  }
  return decode<AnyObject>(schema, { metadata: kept, spec: { manifest: spec ?? {} } }, (at, message) =>
    manifestError(where, joinPath(path, at.replace(/^spec\.manifest/, 'spec')), message),
  );
}

/** What a user may say in metadata, with bay and namespace filled in. Everything else there is the control plane's. */
function place(
  object: AnyObject,
  given: Metadata,
  defaults: ManifestDefaults,
  fail: (message: string, path: string) => CliError,
): Metadata {
  const { scope, plural } = kindRow(kindOf(object).name);
  if (given.name === '') throw fail('missing', 'metadata.name');
  const init: MessageInitShape<typeof MetadataSchema> = {
    name: given.name,
    labels: given.labels,
    annotations: given.annotations,
  };
  if (scope === 'project') {
    if (given.bay || given.namespace)
      throw fail(`${plural} are not in a bay and have no namespace`, given.bay ? 'metadata.bay' : 'metadata.namespace');
    return create(MetadataSchema, init);
  }
  if (given.bay && defaults.bayFlag && given.bay !== defaults.bayFlag)
    throw fail(`"${given.bay}" is not the bay of -b: "${defaults.bayFlag}"`, 'metadata.bay');
  if (given.namespace && defaults.namespaceFlag && given.namespace !== defaults.namespaceFlag) {
    throw fail(`"${given.namespace}" is not the namespace of -n: "${defaults.namespaceFlag}"`, 'metadata.namespace');
  }
  const bay = given.bay || defaults.bay;
  if (!bay) throw fail('missing: say the bay here, or with -b BAY', 'metadata.bay');
  return create(MetadataSchema, { ...init, bay, namespace: given.namespace || defaults.namespace });
}

/** An error at a place in a file. */
export function manifestError(where: string, path: string, message: string): CliError {
  return new CliError(`${where}: ${path ? `${path}: ` : ''}${message}`, exitStatus.invalid);
}

function joinPath(path: string, next: string): string {
  if (!path || !next) return path || next;
  return next.startsWith('[') ? `${path}${next}` : `${path}.${next}`;
}
