import { randomInt } from 'node:crypto';
import type { JsonValue } from '@bufbuild/protobuf';
import { PodSchema } from '../proto/gen/baykeeper/v1/pod_pb.js';
import { ReplicationControllerSchema } from '../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ServiceSchema } from '../proto/gen/baykeeper/v1/service_pb.js';
import { isMapping, type Mapping } from './json.ts';
import { joinPath } from './manifest_path.ts';
import { manifestError } from './manifest_yaml.ts';
import type { AnyObject } from './objects.ts';
import { decode } from './proto_json.ts';

/** Kinds of Kubernetes' `apiVersion: v1` that we take. */
export const kubernetesKinds: Readonly<
  Record<string, typeof PodSchema | typeof ServiceSchema | typeof ReplicationControllerSchema>
> = {
  Pod: PodSchema,
  Service: ServiceSchema,
  ReplicationController: ReplicationControllerSchema,
};

/**
 * What a Kubernetes server writes into `metadata`, as `kubectl get -o yaml` shows it. It speaks of one object in one cluster at one time, and no
 * author asks for it: it is left out, as `status` is.
 */
const serverFields = new Set([
  'uid',
  'resourceVersion',
  'creationTimestamp',
  'deletionTimestamp',
  'deletionGracePeriodSeconds',
  'generation',
  'managedFields',
  'selfLink',
]);
/** kubectl keeps its own notes here, and would take old ones for news; it leaves them out of what it sends as well. */
const lastApplied = 'kubectl.kubernetes.io/last-applied-configuration';

/** Fields whose values are strings by keys of the user's choice. There null would become the empty string, or nothing. */
const stringMaps = new Set([
  'labels',
  'annotations',
  'selector',
  'matchLabels',
  'nodeSelector',
  'limits',
  'requests',
  'stringData',
]);

/** Where a manifest stands: `web.yaml, document 2`, and the path in it. */
export interface Position {
  readonly where: string;
  readonly path: string;
}

/**
 * Takes a `v1` manifest as its author wrote it: name, namespace, labels and annotations into our metadata, what else its `metadata` has into
 * `spec.metadata`, and its `spec` into `spec.manifest`. null means that a field is left out. What has no place here is refused, never dropped.
 */
export function fromKubernetes(
  kind: string,
  value: Mapping,
  { where, path }: Position,
  options: { readonly generateNames: boolean },
): AnyObject {
  const fail = (message: string, at: string): Error => manifestError(where, joinPath(path, at), message);
  const schema = kubernetesKinds[kind];
  if (!schema) throw fail('is not known', 'kind');
  const { apiVersion: _version, kind: _kind, status: _status, metadata, spec, ...rest } = value;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) throw fail('unknown field; known are apiVersion, kind, metadata, spec, status', unknown);
  const given = mapping(metadata, (message) => fail(message, 'metadata'));
  const asked = mapping(spec, (message) => fail(message, 'spec'));
  const { name, namespace, labels, annotations, ...more } = given;
  const strict = (base: string): NullFailure => {
    return (at) => fail('expected a string, and not null: write "" where it is meant to be empty', joinPath(base, at));
  };
  const others = Object.fromEntries(Object.entries(more).filter(([key]) => !serverFields.has(key)));
  const ours: Mapping = withoutNulls({ name, namespace });
  if (labels !== undefined && labels !== null) ours.labels = dropInside(labels, 'labels', strict('metadata'), true);
  if (annotations !== undefined && annotations !== null) {
    const { [lastApplied]: _notes, ...kept } = isMapping(annotations) ? annotations : {};
    const whole = isMapping(annotations) ? kept : annotations;
    ours.annotations = dropInside(whole, 'annotations', strict('metadata'), true);
  }
  if (!ours.name && typeof others.generateName === 'string' && others.generateName !== '') {
    if (!options.generateNames)
      throw fail(
        'makes a new object each time, so it goes with `bayctl create -f` alone: write metadata.name',
        'metadata.generateName',
      );
    ours.name = generatedName(others.generateName);
  }
  const extras = dropNulls(others, '', strict('metadata'));
  return decode<AnyObject>(
    schema,
    {
      metadata: ours,
      spec: {
        manifest: dropNulls(asked, '', strict('spec')),
        ...(Object.keys(extras).length > 0 ? { metadata: extras } : {}),
      },
    },
    (at, message) => fail(message, manifestPath(at)),
  );
}

/** The path in a `v1` manifest for one in our messages: `spec.containers[0]` for `spec.manifest.containers[0]`. */
export function manifestPath(path: string): string {
  return path.replace(/^spec\.(manifest|metadata)(?=$|[.[])/, (_, field) =>
    field === 'manifest' ? 'spec' : 'metadata',
  );
}

function mapping(value: JsonValue | undefined, fail: (message: string) => Error): Mapping {
  if (value === undefined || value === null) return {};
  if (isMapping(value)) return value;
  const what = Array.isArray(value) ? 'a list' : JSON.stringify(value);
  throw fail(`expected a mapping, and not ${what.length > 60 ? `${what.slice(0, 57)}…` : what}`);
}

function withoutNulls(fields: Readonly<Record<string, JsonValue | undefined>>): Mapping {
  return Object.fromEntries(
    Object.entries(fields).filter((entry): entry is [string, JsonValue] => entry[1] !== undefined && entry[1] !== null),
  );
}

type NullFailure = (path: string) => Error;

/** Kubernetes reads null in a mapping as if the field were not there. In lists it stays, for the cluster to judge. */
function dropNulls(value: Mapping, path: string, fail: NullFailure, isStrings = false): Mapping {
  const kept: Mapping = {};
  for (const [key, item] of Object.entries(value)) {
    const at = joinPath(path, key);
    if (item === null && isStrings) throw fail(at);
    if (item !== null) define(kept, key, dropInside(item, at, fail, stringMaps.has(key)));
  }
  return kept;
}

function dropInside(value: JsonValue, path: string, fail: NullFailure, isStrings: boolean): JsonValue {
  if (Array.isArray(value))
    return value.map((item, index) => dropInside(item, joinPath(path, `[${index}]`), fail, false));
  return isMapping(value) ? dropNulls(value, path, fail, isStrings) : value;
}

/** Also for `__proto__`, which an assignment would not keep. */
function define(target: Mapping, key: string, value: JsonValue): void {
  Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true });
}

/** What Kubernetes itself makes names of: no vowels, and nothing that looks like something else. */
const nameLetters = 'bcdfghjklmnpqrstvwxz2456789';
const maxNameLength = 63;

function generatedName(base: string): string {
  const suffix = Array.from({ length: 5 }, () => nameLetters[randomInt(nameLetters.length)]).join('');
  return base.slice(0, maxNameLength - suffix.length) + suffix;
}
