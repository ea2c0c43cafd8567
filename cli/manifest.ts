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
import { isMapping, type Mapping } from './json.ts';
import { kindRow } from './kinds.ts';
import { fromKubernetes, kubernetesKinds } from './kubernetes_manifest.ts';
import { joinPath } from './manifest_path.ts';
import { checkSize } from './manifest_size.ts';
import { manifestError, type SourceDocument } from './manifest_yaml.ts';
import { type AnyObject, kindOf, metadataOf, type Place } from './objects.ts';
import { decode } from './proto_json.ts';

/** An object as a file has it, and where it stands there. */
export interface ManifestObject {
  readonly object: AnyObject;
  /** `web.yaml, document 2`. */
  readonly where: string;
  /** Whether its author wrote a `v1` manifest; paths in it are other ones than in our messages. */
  readonly isKubernetes: boolean;
}

/** Where objects go that do not say so themselves; what a flag says must not contradict the file. */
export interface ManifestDefaults extends Place {
  readonly bayFlag: string;
  readonly namespaceFlag: string;
  /** Whether `metadata.generateName` makes a name; default: it is refused. */
  readonly generateNames?: boolean;
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
/** What `kubectl get -o yaml` wraps several in. */
const listKinds: Readonly<Record<string, string>> = Object.fromEntries(
  Object.keys(kubernetesKinds).map((kind) => [`${kind}List`, kind]),
);
const listFields = new Set(['apiVersion', 'kind', 'metadata', 'items']);

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
  const isList = kind === 'List' || (apiVersion === 'v1' && Object.hasOwn(listKinds, kind));
  const known = apiVersion === 'v1' ? kubernetesKinds : apiVersion === 'baykeeper/v1' ? ownKinds : {};
  if (isList && Object.keys(known).length > 0) return parseList(value, where, path, defaults);
  const schema = Object.hasOwn(known, kind) ? known[kind] : undefined;
  if (!schema) throw fail(notSupported(kind, apiVersion), 'kind');
  const isKubernetes = apiVersion === 'v1';
  const object = isKubernetes
    ? fromKubernetes(kind, value, { where, path }, { generateNames: defaults.generateNames === true })
    : fromOwn(schema, value, where, path);
  const metadata = place(object, metadataOf(object), defaults, (message, at) => fail(message, at));
  Object.assign(object, { metadata });
  checkSize(object, value, { where, path });
  return [{ object, where: path ? `${where}, ${path}` : where, isKubernetes }];
}

/** Items of a `PodList` may leave out what they are, as the API of Kubernetes does. */
function parseList(value: Mapping, where: string, path: string, defaults: ManifestDefaults): ManifestObject[] {
  const unknown = Object.keys(value).find((key) => !listFields.has(key));
  if (unknown !== undefined)
    throw manifestError(where, joinPath(path, unknown), `unknown field; known are ${[...listFields].join(', ')}`);
  const items = value.items ?? [];
  if (!Array.isArray(items)) throw manifestError(where, joinPath(path, 'items'), 'expected a list');
  const kind = Object.hasOwn(listKinds, String(value.kind)) ? listKinds[String(value.kind)] : undefined;
  return items.flatMap((item, index) => {
    const whole = kind && isMapping(item) ? { apiVersion: 'v1', kind, ...item } : item;
    return parseValue(whole, where, joinPath(path, `items[${index}]`), defaults);
  });
}

function notSupported(kind: string, apiVersion: string): string {
  const isOwn = apiVersion.startsWith('baykeeper/');
  const known = Object.keys(isOwn ? ownKinds : kubernetesKinds).join(', ');
  const hint = apiVersion === 'v1' && Object.hasOwn(ownKinds, kind) ? `; a ${kind} is of baykeeper/v1` : '';
  return `${kind} (${apiVersion}) is not supported: ${known} (${isOwn ? 'baykeeper/v1' : 'v1'}) are${hint}`;
}

function fromOwn(schema: ObjectSchema, value: Mapping, where: string, path: string): AnyObject {
  const { apiVersion: _version, kind: _kind, status: _status, ...fields } = value;
  return decode<AnyObject>(schema, fields, (at, message) => manifestError(where, joinPath(path, at), message));
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
  if (!bay) throw fail('missing: say the bay with -b BAY, or here in a manifest of baykeeper/v1', 'metadata.bay');
  return create(MetadataSchema, { ...init, bay, namespace: given.namespace || defaults.namespace });
}
