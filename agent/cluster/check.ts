import type { JsonObject, JsonValue } from '@bufbuild/protobuf';
import type { Assignment } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { type ClusterDriver, type ClusterObject, resourceTypes } from '../drivers/cluster_driver.ts';
import { ClusterError } from '../drivers/cluster_error.ts';
import { forbiddenReason, judge, type Policy, refusal } from '../policy.ts';
import { StreamError, type Verdict } from '../ports.ts';
import { asksOfObject } from './asks.ts';
import { adoptionRefusal } from './enforcement.ts';
import { refOf } from './execute.ts';
import { appliedAnnotation } from './labels.ts';
import { type Live, liveOf } from './live.ts';
import type { Manifest } from './manifest.ts';
import { objectUidOf, whoseObject } from './ownership.ts';
import { bounded, codeOf, isPassing, messageOf, reasonOf } from './reasons.ts';
import { dryRunCreate, isOfChange } from './replace.ts';
import { toStreamError } from './streams.ts';

/** What an object is checked with. */
export interface CheckContext {
  readonly driver: ClusterDriver;
  readonly bayUid: string;
  readonly policy: Policy;
  readonly manifestOf: (assignment: Assignment) => Manifest | undefined;
}

/** gRPC. */
const alreadyExists = 6;
const permissionDenied = 7;

/**
 * What the cluster would say to an object, by its own dry run of what would be done: nothing is changed. Rejects with StreamError when that
 * cannot be found out.
 */
export async function check(context: CheckContext, assignment: Assignment): Promise<Verdict> {
  const manifest = context.manifestOf(assignment);
  if (!manifest) throw new StreamError('invalid', 'this agent does not know that kind of object');
  try {
    return await ask(context, assignment.uid, manifest);
  } catch (error) {
    throw toStreamError(error);
  }
}

async function ask({ driver, bayUid, policy }: CheckContext, uid: string, manifest: Manifest): Promise<Verdict> {
  const live = await driver.get(refOf(manifest));
  const view = live && { live: shown(live) };
  const violations = judge(policy, asksOfObject(manifest.kind, manifest.object));
  if (violations.length > 0) {
    const field = violations.length === 1 ? (violations[0]?.field ?? '') : '';
    const message = bounded(refusal(policy, violations));
    return { ...view, refusal: { code: permissionDenied, reason: forbiddenReason, message, field } };
  }
  const isOurs = live !== undefined && objectUidOf(live.metadata, bayUid) === uid;
  if (live && !isOurs && !manifest.adopt) {
    const message = bounded(whoseObject(bayUid, manifest.kind, live));
    return { ...view, refusal: { code: alreadyExists, reason: 'Conflict', message, field: '' } };
  }
  const message = live && !isOurs ? adoptionRefusal(policy, asksOfObject(manifest.kind, live)) : undefined;
  if (message !== undefined) {
    const refusal = { code: permissionDenied, reason: forbiddenReason, message: bounded(message), field: '' };
    return { ...view, refusal };
  }
  try {
    const merged = live ? await dryRunChange(driver, bayUid, manifest, live) : await dryRunNew(driver, manifest);
    return { ...view, merged: shown(merged) };
  } catch (error) {
    // What may pass says nothing about the object.
    if (!(error instanceof ClusterError) || isPassing(error) || error.kind === 'unauthorized') throw error;
    return { ...view, refusal: refusalOf(error) };
  }
}

const refusalOf = (error: ClusterError): NonNullable<Verdict['refusal']> => ({
  code: codeOf(error),
  reason: reasonOf(error),
  message: messageOf(error),
  field: error.causes.length === 1 ? (error.causes[0]?.field ?? '') : '',
});

async function dryRunChange(
  driver: ClusterDriver,
  bayUid: string,
  manifest: Manifest,
  live: ClusterObject,
): Promise<ClusterObject | JsonObject> {
  const { type, object, kind } = manifest;
  try {
    return await driver.apply(type, object, { force: true, dryRun: true, expect: { uid: live.metadata.uid } });
  } catch (error) {
    if (!(error instanceof ClusterError) || !isOfChange(error)) throw error;
  }
  // It would be replaced by another one.
  const before: Live = liveOf(live, { kind, bayUid, fieldManager: driver.fieldManager, manifest });
  const created = await dryRunCreate(driver, manifest, before, undefined);
  return created ?? (await dryRunUnderAnotherName(driver, manifest)) ?? object;
}

async function dryRunNew(driver: ClusterDriver, manifest: Manifest): Promise<ClusterObject | JsonObject> {
  const { type, object } = manifest;
  try {
    return await driver.apply(type, object, { force: true, dryRun: true, expect: 'absent' });
  } catch (error) {
    const isMissing = error instanceof ClusterError && error.kind === 'namespace-not-found';
    if (!isMissing || !manifest.createNamespace) throw error;
  }
  const { namespace } = manifest;
  const made = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } };
  await driver.create(resourceTypes.Namespace, made, { dryRun: true });
  // What is to be in a namespace that does not exist cannot be tried there. Whether it is well formed can be tried in any.
  const elsewhere = await dryRunUnderAnotherName(driver, { ...manifest, namespace: 'default' });
  return elsewhere ? withMetadata(elsewhere, { namespace }) : object;
}

/** Undefined: the cluster would refuse it there, for reasons that may be of that name or namespace only. */
async function dryRunUnderAnotherName(
  driver: ClusterDriver,
  { type, object, name, namespace }: Manifest,
): Promise<JsonObject | undefined> {
  const { name: _, ...metadata } = object.metadata as JsonObject;
  const another = { ...object, metadata: { ...metadata, namespace, generateName: `${name}-` } };
  try {
    const created = await driver.create(type, another, { dryRun: true });
    return withMetadata(created, { name, generateName: undefined });
  } catch (error) {
    if (error instanceof ClusterError && error.kind === 'invalid') throw error;
    if (error instanceof ClusterError && !isPassing(error)) return undefined;
    throw error;
  }
}

function withMetadata(object: ClusterObject | JsonObject, change: Record<string, JsonValue | undefined>): JsonObject {
  const metadata: Record<string, unknown> = { ...(object.metadata as JsonObject), ...change };
  for (const [key, value] of Object.entries(metadata)) if (value === undefined) delete metadata[key];
  return { ...(object as JsonObject), metadata: metadata as JsonObject };
}

/** What differs without anybody having changed anything. */
const noise: ReadonlySet<string> = new Set([
  'managedFields',
  'resourceVersion',
  'generation',
  'uid',
  'creationTimestamp',
  'selfLink',
]);

/** An object as it is to be compared with another. */
function shown(object: ClusterObject | JsonObject): JsonObject {
  const metadata = Object.fromEntries(
    Object.entries(object.metadata as JsonObject).filter(([key]) => !noise.has(key)),
  ) as JsonObject;
  const { [appliedAnnotation]: _, ...annotations } = (metadata.annotations ?? {}) as JsonObject;
  if (Object.keys(annotations).length > 0) metadata.annotations = annotations;
  else delete metadata.annotations;
  return { ...(object as JsonObject), metadata };
}
