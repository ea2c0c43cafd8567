import { createHash, randomUUID } from 'node:crypto';
import { create, toBinary } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { digestMember } from '../../agent/link/chain.ts';
import { SetDigest } from '../../proto/digest.ts';
import {
  type Assign,
  type Assignment,
  AssignmentOp,
  AssignmentSchema,
  AssignSchema,
  type Snapshot,
  SnapshotSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';

/** A node's chain as the control plane keeps it: what is assigned, and every link since the beginning. Revisions may leap. */
export class ChainModel {
  revision = 0n;
  readonly assigned = new Map<string, Assignment>();
  readonly links: { readonly from: bigint; readonly to: bigint; readonly assignment: Assignment }[] = [];
  #generation = 0n;

  /** An object as it would be assigned. */
  put(uid: string, image = 'busybox', kind = Kind.CONTAINER, leap = 1n): Assignment {
    return this.#link(uid, AssignmentOp.PUT, image, kind, leap);
  }
  /** Its removal is asked for. */
  delete(uid: string, leap = 1n): Assignment {
    return this.#link(uid, AssignmentOp.DELETE, '', this.assigned.get(uid)?.kind ?? Kind.CONTAINER, leap);
  }
  /** It is no longer in the set. */
  forget(uid: string, leap = 1n): Assignment {
    return this.#link(uid, AssignmentOp.FORGET, '', this.assigned.get(uid)?.kind ?? Kind.CONTAINER, leap);
  }

  #link(uid: string, op: AssignmentOp, image: string, kind: Kind, leap: bigint): Assignment {
    const from = this.revision;
    this.revision += leap;
    this.#generation += 1n;
    const assignment = create(AssignmentSchema, {
      uid,
      kind,
      namespace: 'default',
      name: uid,
      generation: this.#generation,
      revision: this.revision,
      op,
      spec: op === AssignmentOp.PUT && kind === Kind.CONTAINER ? { case: 'container', value: { image } } : undefined,
    });
    if (op === AssignmentOp.FORGET) this.assigned.delete(uid);
    else this.assigned.set(uid, assignment);
    this.links.push({ from, to: this.revision, assignment });
    return assignment;
  }

  get digest(): Uint8Array {
    return SetDigest.of([...this.assigned.values()].map(digestMember)).bytes();
  }

  /** The newest link, as a message. */
  newest(epoch: bigint): Assign {
    const link = this.links.at(-1);
    if (!link) throw new Error('the chain has no links');
    return deltaOf(epoch, link.from, link.to, [link.assignment]);
  }

  /** What came after a revision: the newest change of each object. Undefined when that is no link of the chain. */
  since(epoch: bigint, revision: bigint): Assign | undefined {
    if (revision === this.revision) return undefined;
    const newest = new Map<string, Assignment>();
    for (const { to, assignment } of this.links) {
      if (to <= revision) continue;
      newest.delete(assignment.uid);
      newest.set(assignment.uid, assignment);
    }
    return deltaOf(epoch, revision, this.revision, [...newest.values()]);
  }

  snapshot(): Snapshot {
    const assignments = [...this.assigned.values()];
    return create(SnapshotSchema, {
      revision: this.revision,
      count: assignments.length,
      digest: this.digest,
      assignments,
      publishTime: timestampFromMs(1_700_000_000_000),
    });
  }
}

export const deltaOf = (epoch: bigint, appliesTo: bigint, resultsIn: bigint, assignments: Assignment[]): Assign =>
  create(AssignSchema, {
    epoch,
    body: {
      case: 'delta',
      value: { appliesTo, resultsIn, assignments, publishTime: timestampFromMs(1_700_000_000_000) },
    },
  });

/** A Snapshot in pieces, as messages. */
export function chunksOf(epoch: bigint, snapshot: Snapshot, chunkBytes = 200): Assign[] {
  const whole = toBinary(SnapshotSchema, snapshot);
  const count = Math.max(1, Math.ceil(whole.byteLength / chunkBytes));
  const snapshotId = randomUUID();
  const sha256 = createHash('sha256').update(whole).digest();
  return Array.from({ length: count }, (_, index) =>
    create(AssignSchema, {
      epoch,
      body: {
        case: 'snapshot',
        value: {
          snapshotId,
          index,
          count,
          data: whole.subarray(index * chunkBytes, (index + 1) * chunkBytes),
          sha256,
          sizeBytes: whole.byteLength,
        },
      },
    }),
  );
}
