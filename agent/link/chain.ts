import { createHash } from 'node:crypto';
import { equals, fromBinary } from '@bufbuild/protobuf';
import { type Timestamp, timestampMs } from '@bufbuild/protobuf/wkt';
import { type DigestMember, SetDigest } from '../../proto/digest.ts';
import {
  type Assignment,
  AssignmentOp,
  AssignmentSchema,
  type Delta,
  type Snapshot,
  SnapshotSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';

/**
 * The rules of the delta chain, pure: a state and a message in, the next state out. What they hold up:
 *
 * - A Delta is taken only by a state that has just the revision that it applies to.
 * - Something leaves the set only by a FORGET, or because a verified Snapshot lacks it; either way it becomes a grave.
 * - An object does not go back: not to an older generation, and not from DELETE to PUT, but by a Snapshot.
 */

/** An object of the set, as it came. */
export interface Entry {
  readonly assignment: Assignment;
  readonly publishTimeMs: number;
  /** When it arrived, and from the moment that it is on disk: when that was. The store writes it then. */
  receiveTimeMs: number;
}

/** The set that a node was given, as of one revision. Never changed in place. */
export interface ChainState {
  readonly revision: bigint;
  /** See DesiredState. */
  readonly complete: boolean;
  /** All of the set, also what this agent does not know how to make. */
  readonly entries: ReadonlyMap<string, Entry>;
  readonly graves: ReadonlySet<string>;
}

/** What a message came to. `changed`: uids whose entry or grave is not what it was. */
export type Taken =
  | { readonly outcome: 'applied'; readonly state: ChainState; readonly changed: readonly string[] }
  /** Nothing new in it. */
  | { readonly outcome: 'stale' }
  /** Something before it is missing. */
  | { readonly outcome: 'gap' }
  /** It cannot be what the control plane meant. */
  | { readonly outcome: 'invalid'; readonly reason: string };

/** Nothing is known. */
export const emptyChain: ChainState = { revision: 0n, complete: false, entries: new Map(), graves: new Set() };

/** How many objects a node can have, and how many graves it keeps count of. */
export const maxEntries = 100_000;

const uidPattern = /^[A-Za-z0-9-]{1,64}$/;
/** Whether it can be the uid of an object: one token of letters, digits and `-`. */
export const isUid = (value: unknown): value is string => typeof value === 'string' && uidPattern.test(value);

/** Whether this agent knows what to do with it. */
export function isSupported(assignment: Assignment): boolean {
  const specCase = specCases[assignment.kind];
  if (specCase === undefined) return false;
  if (assignment.op === AssignmentOp.DELETE) return true;
  return assignment.op === AssignmentOp.PUT && assignment.spec.case === specCase;
}

const specCases: Readonly<Partial<Record<Kind, Assignment['spec']['case']>>> = {
  [Kind.CONTAINER]: 'container',
  [Kind.POD]: 'pod',
  [Kind.SERVICE]: 'service',
  [Kind.REPLICATION_CONTROLLER]: 'replicationController',
};

/** How an assignment counts in the set digest. */
export const digestMember = ({ uid, generation, op }: Assignment): DigestMember => ({
  uid,
  generation,
  deleting: op === AssignmentOp.DELETE,
});

/** Takes a Delta, or says why not. */
export function takeDelta(state: ChainState, delta: Delta, nowMs: number): Taken {
  if (delta.appliesTo < 0n || delta.resultsIn <= delta.appliesTo) {
    return { outcome: 'invalid', reason: `leads from revision ${delta.appliesTo} to ${delta.resultsIn}` };
  }
  if (delta.resultsIn <= state.revision) return { outcome: 'stale' };
  if (delta.appliesTo !== state.revision) return { outcome: 'gap' };
  for (const assignment of delta.assignments) {
    const reason = problemOf(assignment);
    if (reason) return { outcome: 'invalid', reason };
  }

  const publishTimeMs = millis(delta.publishTime, nowMs);
  const entries = new Map(state.entries);
  const graves = new Set(state.graves);
  const changed = new Set<string>();
  for (const assignment of delta.assignments) {
    const { uid, op } = assignment;
    const known = entries.get(uid);
    if (known && goesBack(known.assignment, assignment)) continue;
    if (op === AssignmentOp.FORGET) {
      entries.delete(uid);
      graves.add(uid);
    } else {
      if (known && isSame(known.assignment, assignment)) continue;
      // It cannot be read, and what is there is not to suffer from that.
      if (known && isSupported(known.assignment) && !isSupported(assignment)) continue;
      entries.set(uid, { assignment, publishTimeMs, receiveTimeMs: nowMs });
      graves.delete(uid);
    }
    changed.add(uid);
  }
  if (entries.size > maxEntries || graves.size > maxEntries) return { outcome: 'invalid', reason: 'too many objects' };
  return {
    outcome: 'applied',
    state: { revision: delta.resultsIn, complete: state.complete, entries, graves },
    changed: [...changed],
  };
}

/**
 * Takes a Snapshot that `parseSnapshot` has verified: the set is then what it says. Whether a Snapshot that is older than the state is
 * to be taken is the caller's to know.
 */
export function takeSnapshot(state: ChainState, snapshot: Snapshot, nowMs: number): Taken & { outcome: 'applied' } {
  const publishTimeMs = millis(snapshot.publishTime, nowMs);
  const entries = new Map<string, Entry>();
  const graves = new Set(state.graves);
  const changed = new Set<string>();
  for (const assignment of snapshot.assignments) {
    const { uid } = assignment;
    const known = state.entries.get(uid);
    const keep = known && isSame(known.assignment, assignment);
    // With its revision, by which it is known whether what comes next is newer.
    entries.set(uid, keep ? { ...known, assignment } : { assignment, publishTimeMs, receiveTimeMs: nowMs });
    const wasGrave = graves.delete(uid);
    if (!keep || wasGrave) changed.add(uid);
  }
  for (const uid of state.entries.keys()) {
    if (entries.has(uid)) continue;
    graves.add(uid);
    changed.add(uid);
  }
  return {
    outcome: 'applied',
    state: { revision: snapshot.revision, complete: true, entries, graves },
    changed: [...changed],
  };
}

/** A whole Snapshot from its bytes, or why it cannot be taken. Its checksum, count, digest and every assignment are verified. */
export function parseSnapshot(bytes: Uint8Array, sha256: Uint8Array): Snapshot | { readonly reason: string } {
  if (!createHash('sha256').update(bytes).digest().equals(sha256)) return { reason: 'wrong checksum' };
  let snapshot: Snapshot;
  try {
    snapshot = fromBinary(SnapshotSchema, bytes);
  } catch {
    return { reason: 'not a snapshot' };
  }
  const { assignments, count, digest, revision } = snapshot;
  if (revision < 0n) return { reason: 'a revision below 0' };
  if (assignments.length !== count) return { reason: `${assignments.length} objects, where ${count} were announced` };
  if (count > maxEntries) return { reason: 'too many objects' };
  const uids = new Set<string>();
  for (const assignment of assignments) {
    const reason = problemOf(assignment);
    if (reason) return { reason };
    if (assignment.op === AssignmentOp.FORGET) return { reason: 'an object that is to be forgotten' };
    if (uids.has(assignment.uid)) return { reason: 'the same object twice' };
    uids.add(assignment.uid);
  }
  if (!SetDigest.of(assignments.map(digestMember)).equals(digest)) return { reason: 'wrong digest' };
  return snapshot;
}

function problemOf({ uid, generation, revision }: Assignment): string | undefined {
  if (!isUid(uid)) return 'an object with a malformed uid';
  if (generation < 0n || revision < 0n) return 'an object with a generation or revision below 0';
  return undefined;
}

function goesBack(known: Assignment, next: Assignment): boolean {
  if (next.revision > 0n && next.revision < known.revision) return true;
  if (next.op === AssignmentOp.FORGET) return false;
  if (next.generation < known.generation) return true;
  return known.op === AssignmentOp.DELETE && next.op !== AssignmentOp.DELETE;
}

/** A generation says which content it is, but not of a store that was put back to a backup and has gone on from there. */
const isSame = (a: Assignment, b: Assignment): boolean =>
  a.generation === b.generation && equals(AssignmentSchema, a, { ...b, revision: a.revision });

function millis(time: Timestamp | undefined, fallbackMs: number): number {
  const ms = time ? timestampMs(time) : fallbackMs;
  return Number.isFinite(ms) ? ms : fallbackMs;
}
