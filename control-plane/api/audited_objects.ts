import type { DescMethod, Message } from '@bufbuild/protobuf';
import { ApplyOutcome, type ApplyResult, type Manifest } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import type { Metadata } from '../../proto/gen/baykeeper/v1/metadata_pb.js';
import { type AuditedObject, noObject } from '../audit/port.ts';

/*
 * Which objects a call is about, by what all messages of the contract have in common: an object has `metadata`, and a request that names one has
 * `bay`, `namespace`, `name` and `uid`. Nothing else of a message gets into the audit log.
 */

type Fields = Readonly<Record<string, unknown>>;

/** Names come from callers, and a refused one may be anything. */
const maxLength = 128;
const maxObjects = 1_000;

const bounded = (value: unknown): string => (typeof value === 'string' ? value.slice(0, maxLength) : '');

/** @param response Undefined: there was none. */
export function objectsOf(
  { input, output, parent }: DescMethod,
  request: Message | undefined,
  response: Message | undefined,
): readonly AuditedObject[] {
  if (response) {
    const { results } = response as Message & { results?: readonly ApplyResult[] };
    const { manifests: asked } = (request ?? {}) as { manifests?: readonly Manifest[] };
    if (results) return results.slice(0, maxObjects).map((one, i) => ofResult(one, asked?.[i]));
    const answered = withMetadata(output, response as unknown as Fields);
    if (answered) return [answered];
  }
  if (!request) return [];
  const fields = request as unknown as Fields;
  const { manifests } = fields as { manifests?: readonly Manifest[] };
  if (manifests) return manifests.slice(0, maxObjects).map((one) => ofManifest(one));
  const asked = withMetadata(input, fields);
  if (asked) return [asked];
  const answer = (response ?? {}) as Fields;
  return ofReference(kindOf(parent.name), fields, answer);
}

/** Who calls a method that needs no identity: the one whose join token it is, once it was found to be good. */
export function subjectOf(request: Message): string {
  const { token } = request as unknown as Fields;
  const id = typeof token === 'string' ? token.split('.', 1)[0] : undefined;
  return id ? `join-token/${bounded(id)}` : '';
}

function withMetadata({ fields }: DescMethod['output'], message: Fields): AuditedObject | undefined {
  for (const field of fields) {
    if (field.fieldKind !== 'message') continue;
    const value = message[field.localName] as Fields | undefined;
    if (value && 'metadata' in value) return ofMetadata(field.message.name, value.metadata as Metadata | undefined);
  }
  return undefined;
}

function ofMetadata(kind: string, metadata: Metadata | undefined, outcome = ''): AuditedObject {
  const { bay, namespace, name, uid, revision = 0n, generation = 0n } = metadata ?? {};
  return {
    kind,
    bay: bounded(bay),
    namespace: bounded(namespace),
    name: bounded(name),
    uid: bounded(uid),
    revision: Number(revision),
    generation: Number(generation),
    outcome,
  };
}

/** What was refused has no object in the answer. */
const ofResult = ({ outcome, manifest }: ApplyResult, asked: Manifest | undefined): AuditedObject =>
  ofManifest(manifest ?? asked, ApplyOutcome[outcome]?.toLowerCase());

const ofManifest = (manifest: Manifest | undefined, outcome = ''): AuditedObject => {
  const { object } = manifest ?? {};
  return ofMetadata(object?.case ? capital(object.case) : '', object?.value?.metadata, outcome);
};

/** What the request names; of a node that joins, what it was made. */
function ofReference(kind: string, request: Fields, response: Fields): readonly AuditedObject[] {
  const { case: part, value: start } = (request.input ?? {}) as { case?: string; value?: Fields };
  const named = { ...request, ...(part === 'start' ? start : {}) };
  const credentials = (response.credentials ?? {}) as Fields;
  const token = (response.joinToken ?? response.accessToken ?? {}) as Fields;
  // A quota is of the project that the record names.
  if (kind === 'Quota') return [{ ...noObject, kind }];
  const object: AuditedObject = {
    ...noObject,
    kind,
    bay: bounded(named.bay || credentials.bay || token.bay),
    namespace: bounded(named.namespace),
    name: bounded(named.name || named.id || token.id || credentials.node),
    uid: bounded(named.uid || credentials.nodeUid),
  };
  return object.bay || object.name || object.uid ? [object] : [];
}

/** `ContainerService` is about a Container. */
const kindOf = (service: string): string =>
  service === 'EnrollmentService' ? 'Node' : service.replace(/(?<=.)Service$/, '');

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
