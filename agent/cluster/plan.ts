import { type Assignment, AssignmentOp } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { endSeconds } from '../policy.ts';
import type { DesiredState } from '../ports.ts';
import type { Live } from './live.ts';
import { type ClusterKind, type Manifest, namespaceOf } from './manifest.ts';
import type { Foreign, Strayed } from './ownership.ts';

/**
 * What is to be done next with one object, and nothing done: from what should be and what is in the cluster to one step.
 *
 * Whatever happens after a step, planning anew from what is then there leads to the same end, also on another agent: nothing depends on
 * what this one remembers but finer points. Once everything is as asked there is no step.
 *
 * An object of the cluster is deleted only for one that is to be deleted, is in a grave, or is missing from a state that is known to be complete; or
 * because another takes its place; or because the owner of the node forbids it, in which case it comes back once it is allowed.
 */
export type Plan =
  /** It is as asked. */
  | { readonly kind: 'settled' }
  /** Nothing of it is there, as asked. */
  | { readonly kind: 'gone' }
  /** Nothing is known of it: hands off. */
  | { readonly kind: 'none' }
  /** What is there has to be read first. */
  | { readonly kind: 'look'; readonly place: Place }
  | { readonly kind: 'create'; readonly manifest: Manifest }
  /** `strayed`: not empty: it is as was applied, but for these fields, which somebody else has changed. */
  | {
      readonly kind: 'apply';
      readonly manifest: Manifest;
      readonly live: Live;
      readonly strayed: readonly Strayed[];
    }
  /** It is somebody else's, and to be taken over. */
  | { readonly kind: 'adopt'; readonly manifest: Manifest; readonly foreign: Foreign }
  /** The cluster will not change it in place: another one has to be made. */
  | {
      readonly kind: 'replace';
      readonly manifest: Manifest;
      readonly clusterUid: string;
      readonly live: Live | undefined;
    }
  /** `endSeconds`: the longest time that they, and their pods, have to end. Undefined: what they were given. */
  | { readonly kind: 'delete'; readonly targets: readonly Live[]; readonly endSeconds?: number }
  /** It is on its way out, which somebody else has to finish. */
  | { readonly kind: 'await-end'; readonly live: Live }
  /** The node's owner forbids it, and there is nothing of it. */
  | { readonly kind: 'forbidden' }
  /** Somebody else's object has the name. */
  | { readonly kind: 'conflict'; readonly foreign: Foreign };

/** Where an object is in the cluster. */
export interface Place {
  readonly kind: ClusterKind;
  readonly namespace: string;
  readonly name: string;
}

/** What should become of one object. */
export type Wanted = { readonly uid: string } & (
  | { readonly kind: 'present'; readonly generation: bigint; readonly manifest: Manifest }
  /** `place` undefined: it is no longer known where it was. */
  | { readonly kind: 'absent'; readonly place: Place | undefined }
  /** Nothing is known of it, or it is not for the cluster. */
  | { readonly kind: 'untouched' }
);

/** What is known of the cluster, and of what was tried. */
export interface View {
  /** Whatever bears the object's uid and our labels. */
  readonly live: readonly Live[];
  /** These may no longer be there, or be otherwise: the watch has not confirmed them since we wrote them. */
  readonly unsure: boolean;
  readonly foreign: Foreign | undefined;
  /** The object that the cluster will not change to this manifest in place. */
  readonly refused: { readonly hash: string; readonly clusterUid: string } | undefined;
  /** The fields that remained somebody else's right after we had applied the manifest: trying again would not change that. */
  readonly accepted: { readonly hash: string; readonly strayed: string } | undefined;
  /** What the node's owner says. Undefined: nothing is forbidden. */
  readonly verdict?: Verdict;
}

export interface Verdict {
  /** What is wanted is forbidden. */
  readonly wanted: boolean;
  /** What is there is forbidden, as the cluster has it. */
  readonly live: (live: Live) => boolean;
  /** Whether that counts for what is there of another manifest than the one that is wanted, and so is to be changed. */
  readonly older: boolean;
}

export function planObject(wanted: Wanted, view: View): Plan {
  switch (wanted.kind) {
    case 'untouched':
      return { kind: 'none' };
    case 'absent':
      return planAbsent(wanted.place, view);
    case 'present':
      return planPresent(wanted.manifest, view);
  }
}

function planAbsent(place: Place | undefined, view: View): Plan {
  // Labels can be copied. Where its place is not known, what the cluster has not noted us as a writer of is no object of ours.
  const targets = view.live.filter((live) => (place ? isAt(live, place) : live.wrote));
  const [first] = targets;
  if (!first) return { kind: 'gone' };
  const left = targets.filter((live) => !live.ending || isAbandoned(live));
  return left.length > 0 ? { kind: 'delete', targets: left } : { kind: 'await-end', live: first };
}

function planPresent(manifest: Manifest, view: View): Plan {
  const { hash } = manifest;
  const live = view.live.find((one) => isAt(one, manifest));
  if (live && isForbidden(live, hash, view)) return planForbidden(live);
  if (view.verdict?.wanted) return { kind: 'forbidden' };
  if (!live) return planMissing(manifest, view);
  if (view.unsure) return { kind: 'look', place: manifest };
  if (live.ending) return isAbandoned(live) ? { kind: 'delete', targets: [live] } : { kind: 'await-end', live };
  if (live.applied !== hash) {
    return isRefused(view, hash, live.clusterUid)
      ? { kind: 'replace', manifest, clusterUid: live.clusterUid, live }
      : { kind: 'apply', manifest, live, strayed: [] };
  }
  if (live.checked !== hash) return { kind: 'look', place: manifest };
  const { accepted } = view;
  if (live.strayed.length === 0 || (accepted?.hash === hash && accepted.strayed === strayedKey(live.strayed))) {
    return { kind: 'settled' };
  }
  return isRefused(view, hash, live.clusterUid)
    ? { kind: 'replace', manifest, clusterUid: live.clusterUid, live }
    : { kind: 'apply', manifest, live, strayed: live.strayed };
}

/** One that is on its way out, and takes longer than it may, is told again. */
function planForbidden(live: Live): Plan {
  const isLate = live.facts.kind === 'Pod' && (live.ending?.graceSeconds ?? 0) > endSeconds;
  return !live.ending || isLate || isAbandoned(live)
    ? { kind: 'delete', targets: [live], endSeconds }
    : { kind: 'await-end', live };
}

/**
 * What was made of the wanted manifest is judged by that: what the cluster has added to it is not the author's doing. A pod that was taken over was not
 * made of it.
 */
const isForbidden = (live: Live, hash: string, { verdict }: View): boolean =>
  verdict !== undefined &&
  (live.applied === hash
    ? verdict.wanted || (live.shared && verdict.live(live))
    : (verdict.older || live.shared) && verdict.live(live));

function planMissing(manifest: Manifest, view: View): Plan {
  const { hash, adopt } = manifest;
  const { foreign } = view;
  if (!foreign) return { kind: 'create', manifest };
  if (!adopt || foreign.ending) return { kind: 'conflict', foreign };
  return isRefused(view, hash, foreign.clusterUid)
    ? { kind: 'replace', manifest, clusterUid: foreign.clusterUid, live: undefined }
    : { kind: 'adopt', manifest, foreign };
}

/**
 * An end that nobody will finish. The API server ends a pod without a node in two writes, and leaves it after the first when who asked is gone by
 * then: there is no kubelet to do the rest.
 */
export const isAbandoned = ({ ending, finalizers, facts }: Live): boolean =>
  facts.kind === 'Pod' && facts.node === '' && ending?.graceSeconds === 0 && finalizers.length === 0;

const isRefused = ({ refused }: View, hash: string, clusterUid: string): boolean =>
  refused?.hash === hash && refused.clusterUid === clusterUid;

export const isAt = (live: Place, { kind, namespace, name }: Place): boolean =>
  live.kind === kind && live.namespace === namespace && live.name === name;

/** The same for the same fields in the same hands. */
export const strayedKey = (strayed: readonly Strayed[]): string =>
  strayed.map(({ path, managers }) => `${path} ${managers.join(' ')}`).join('\n');

const kinds: Partial<Record<Kind, ClusterKind>> = {
  [Kind.POD]: 'Pod',
  [Kind.SERVICE]: 'Service',
  [Kind.REPLICATION_CONTROLLER]: 'ReplicationController',
};

/** The kind of an assignment, if it is one for the cluster. */
export const clusterKindOf = ({ kind }: Pick<Assignment, 'kind'>): ClusterKind | undefined => kinds[kind];

/** @param manifestOf Of an assignment for the cluster. */
export function wantedOf(
  desired: DesiredState,
  uid: string,
  manifestOf: (assignment: Assignment) => Manifest | undefined,
): Wanted {
  const assignment = desired.objects.get(uid)?.assignment;
  if (!assignment) {
    return desired.graves.has(uid) || desired.complete
      ? { kind: 'absent', uid, place: undefined }
      : { kind: 'untouched', uid };
  }
  const kind = clusterKindOf(assignment);
  if (!kind) return { kind: 'untouched', uid };
  if (assignment.op === AssignmentOp.DELETE) {
    return { kind: 'absent', uid, place: { kind, namespace: namespaceOf(assignment), name: assignment.name } };
  }
  const manifest = assignment.op === AssignmentOp.PUT ? manifestOf(assignment) : undefined;
  return manifest ? { kind: 'present', uid, generation: assignment.generation, manifest } : { kind: 'untouched', uid };
}

/** Where something is to be done; undefined: that is not known. */
export const placeOf = (wanted: Wanted): Place | undefined =>
  wanted.kind === 'present' ? wanted.manifest : wanted.kind === 'absent' ? wanted.place : undefined;
