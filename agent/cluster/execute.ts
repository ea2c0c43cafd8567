import type { JsonObject } from '@bufbuild/protobuf';
import {
  type ClusterDriver,
  type ClusterObject,
  type DeleteOptions,
  type ObjectRef,
  resourceTypes,
} from '../drivers/cluster_driver.ts';
import { ClusterError } from '../drivers/cluster_error.ts';
import { fieldsOf } from './json_fields.ts';
import { endedAnnotation } from './labels.ts';
import { leftoversOf, podsOf } from './leftovers.ts';
import { graceSecondsOf, type Live } from './live.ts';
import type { ClusterKind, Manifest } from './manifest.ts';
import type { Foreign } from './ownership.ts';
import { isAbandoned, type Place, type Plan } from './plan.ts';
import { dryRunCreate, isOfChange, type Kept, keptOf, objectInPlace, withKept } from './replace.ts';

/** What steps are done with. */
export interface ExecuteContext {
  readonly driver: ClusterDriver;
  /** Aborted when this agent may write no more. */
  readonly signal: AbortSignal;
  /** Makes a namespace where there is none. Rejects with ClusterError. */
  readonly ensureNamespace: (name: string) => Promise<void>;
  /** Holds on to what an object has, so that whoever makes the next one knows it. Rejects with ClusterError. */
  readonly keep: (kept: Kept) => Promise<void>;
  /** What the one before it had, and its replacement is to have. Rejects with ClusterError. */
  readonly recall: () => Promise<Kept | undefined>;
  /** Reads an object of the cluster as ours, or says whose it is. */
  readonly whose: (kind: ClusterKind, object: ClusterObject) => 'ours' | Foreign;
}

/** What came of a step. */
export type Outcome =
  /** This is there now; undefined: nothing of this name. */
  | { readonly kind: 'seen'; readonly object: ClusterObject | undefined; readonly written: boolean }
  | { readonly kind: 'foreign'; readonly foreign: Foreign }
  /** The cluster will not change the one with this uid in place. */
  | { readonly kind: 'refused'; readonly clusterUid: string }
  /** Their end is accepted; those of which the cluster has no more are gone. */
  | { readonly kind: 'ended'; readonly gone: readonly string[]; readonly ending: readonly ClusterObject[] };

type Doing = Extract<Plan['kind'], 'look' | 'create' | 'apply' | 'adopt' | 'replace' | 'delete'>;
export type Step = Extract<Plan, { kind: Doing }>;

type Executors = {
  readonly [K in Doing]: (step: Extract<Step, { kind: K }>, context: ExecuteContext) => Promise<Outcome>;
};

const executors: Executors = {
  look: ({ place }, context) => look(place, context),

  async create({ manifest }, context) {
    const { driver, signal, ensureNamespace } = context;
    const kept = manifest.kind === 'Service' ? await context.recall() : undefined;
    // In the instant of writing there must be none: one that somebody else has made meanwhile is not touched.
    const make = (object: JsonObject) => driver.apply(manifest.type, object, { expect: 'absent', force: true, signal });
    const apply = async () => {
      if (!kept) return await make(manifest.object);
      try {
        return await make(withKept(manifest, kept));
      } catch (error) {
        if (!(error instanceof ClusterError && error.kind === 'invalid')) throw error;
        // It may be somebody else's by now, and another address is better than none.
        return await make(manifest.object);
      }
    };
    try {
      return written(await apply());
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      if (error.kind === 'already-exists') return await look(manifest, context);
      if (error.kind === 'conflict') return await lookAfter(error, manifest, context);
      if (error.kind !== 'namespace-not-found' || !manifest.createNamespace) throw error;
    }
    await ensureNamespace(manifest.namespace);
    return written(await apply());
  },

  apply: ({ manifest, live }, context) =>
    inPlace(manifest, objectInPlace(manifest, live), live.clusterUid, undefined, context),

  adopt: ({ manifest, foreign }, context) =>
    inPlace(manifest, manifest.object, foreign.clusterUid, foreign.resourceVersion, context),

  async replace({ manifest, clusterUid, live }, context) {
    const { driver, signal } = context;
    // Where the next one is not valid the one before it goes on.
    await dryRunCreate(driver, manifest, live, signal);
    const kept = keptOf(live);
    if (kept) await context.keep(kept);
    // The pods of a controller stay, and the next one takes them over.
    return await end(clusterUid, manifest, context, {
      propagationPolicy: manifest.kind === 'ReplicationController' ? 'Orphan' : undefined,
    });
  },

  async delete({ targets, endSeconds }, context) {
    const gone: string[] = [];
    const ending: ClusterObject[] = [];
    for (const target of targets) {
      const { facts } = target;
      const propagationPolicy = facts.kind === 'ReplicationController' ? 'Background' : undefined;
      const gracePeriodSeconds =
        facts.kind === 'Pod' && endSeconds !== undefined ? Math.min(facts.graceSeconds, endSeconds) : undefined;
      // Afterwards nobody knows which they are: the cluster ends them in its own time.
      const pods = endSeconds === undefined ? undefined : leftoversOf([target]);
      const left = pods ? await podsOf(context.driver, pods, context.signal) : [];
      const ended = isAbandoned(target)
        ? await finish(target, context)
        : await end(target.clusterUid, target, context, { propagationPolicy, gracePeriodSeconds });
      if (endSeconds !== undefined) await endPods(left, endSeconds, context);
      gone.push(...ended.gone);
      ending.push(...ended.ending);
    }
    return { kind: 'ended', gone, ending };
  },
};

const written = (object: ClusterObject): Outcome => ({ kind: 'seen', object, written: true });

export const refOf = ({ kind, namespace, name }: Place): ObjectRef => ({ type: resourceTypes[kind], namespace, name });

async function look(place: Place, { driver, signal, whose }: ExecuteContext): Promise<Outcome> {
  const object = await driver.get(refOf(place), { signal });
  if (!object) return { kind: 'seen', object: undefined, written: false };
  const owner = whose(place.kind, object);
  return owner === 'ours' ? { kind: 'seen', object, written: false } : { kind: 'foreign', foreign: owner };
}

/** Looks what there is now; when that is what was expected, the conflict was about something else. */
async function lookAfter(error: ClusterError, place: Place, context: ExecuteContext, uid?: string): Promise<Outcome> {
  const outcome = await look(place, context);
  if (outcome.kind === 'seen' && outcome.object?.metadata.uid === uid) throw error;
  return outcome;
}

async function inPlace(
  manifest: Manifest,
  object: JsonObject,
  uid: string,
  resourceVersion: string | undefined,
  context: ExecuteContext,
): Promise<Outcome> {
  const { driver, signal } = context;
  try {
    return written(
      await driver.apply(manifest.type, object, { expect: { uid, resourceVersion }, force: true, signal }),
    );
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    switch (error.kind) {
      // Somebody was faster.
      case 'conflict':
      case 'already-exists':
      case 'not-found':
        return await lookAfter(error, manifest, context, uid);
      case 'invalid':
        if (isOfChange(error)) return { kind: 'refused', clusterUid: uid };
        throw error;
      default:
        throw error;
    }
  }
}

async function end(
  uid: string,
  place: Place,
  context: ExecuteContext,
  how: Pick<DeleteOptions, 'propagationPolicy' | 'gracePeriodSeconds'>,
): Promise<Extract<Outcome, { kind: 'ended' }>> {
  const { driver, signal } = context;
  try {
    const left = await driver.delete(refOf(place), { uid, ...how, signal });
    return left ? { kind: 'ended', gone: [], ending: [left] } : { kind: 'ended', gone: [uid], ending: [] };
  } catch (error) {
    // The one that was meant is gone already.
    if (error instanceof ClusterError && (error.kind === 'conflict' || error.kind === 'not-found')) {
      return { kind: 'ended', gone: [uid], ending: [] };
    }
    throw error;
  }
}

/** Pods of a controller that has ended: none has longer than this. */
async function endPods(pods: readonly ClusterObject[], endSeconds: number, context: ExecuteContext): Promise<void> {
  for (const { metadata, spec } of pods) {
    const { uid, name, namespace = '' } = metadata;
    const gracePeriodSeconds = Math.min(graceSecondsOf(fieldsOf(spec)), endSeconds);
    await end(uid, { kind: 'Pod', namespace, name }, context, { gracePeriodSeconds });
  }
}

/** Any write makes the API server finish the end of what nothing holds any more; another DELETE does not. */
async function finish(
  { clusterUid: uid, ...place }: Live,
  { driver, signal }: ExecuteContext,
): Promise<Extract<Outcome, { kind: 'ended' }>> {
  try {
    await driver.mergePatch(
      refOf(place),
      { metadata: { uid, annotations: { [endedAnnotation]: 'true' } } },
      { signal },
    );
  } catch (error) {
    // The one that was meant is gone already.
    if (!(error instanceof ClusterError && (error.kind === 'conflict' || error.kind === 'not-found'))) throw error;
  }
  const left = await driver.get(refOf(place), { signal });
  return left?.metadata.uid === uid
    ? { kind: 'ended', gone: [], ending: [left] }
    : { kind: 'ended', gone: [uid], ending: [] };
}

/** Does a step. Rejects with ClusterError. */
export function execute<K extends Doing>(step: Extract<Step, { kind: K }>, context: ExecuteContext): Promise<Outcome> {
  const run: Executors[K] = executors[step.kind as K];
  return run(step, context);
}
