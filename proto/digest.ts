import { createHash } from 'node:crypto';

/**
 * The set digest by which control plane and agent see at a glance whether they mean the same set of objects.
 *
 * It is the XOR of one SHA-256 per member, so that either side keeps it up to date at the cost of the members that change. It finds
 * mistakes, not attacks: who may write to the set is settled elsewhere.
 */
export interface DigestMember {
  readonly uid: string;
  readonly generation: bigint | number;
  /** Its removal is asked for. */
  readonly deleting: boolean;
}

export const digestBytes = 32;

const memberDigest = (m: DigestMember): Buffer =>
  createHash('sha256')
    .update(`${m.uid}\0${m.generation}\0${m.deleting ? 'DELETE' : 'PUT'}`)
    .digest();

/** A digest of a set that changes. */
export class SetDigest {
  readonly #sum = Buffer.alloc(digestBytes);
  #count = 0;

  static of(members: Iterable<DigestMember>): SetDigest {
    const digest = new SetDigest();
    for (const member of members) digest.add(member);
    return digest;
  }

  add(member: DigestMember): void {
    this.#toggle(member);
    this.#count += 1;
  }

  /** Takes out a member that is in the set, as it was when it was added. */
  remove(member: DigestMember): void {
    this.#toggle(member);
    this.#count -= 1;
  }

  get count(): number {
    return this.#count;
  }

  /** A copy, 32 bytes. */
  bytes(): Uint8Array {
    return Uint8Array.from(this.#sum);
  }

  equals(other: Uint8Array): boolean {
    return this.#sum.equals(other);
  }

  #toggle(member: DigestMember): void {
    const digest = memberDigest(member);
    for (let i = 0; i < digestBytes; i += 1) this.#sum[i] = (this.#sum[i] ?? 0) ^ (digest[i] ?? 0);
  }
}
