import type { Snapshot, SnapshotChunk } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { parseSnapshot } from './chain.ts';
import type { KeptMessage } from './message_log.ts';

/** Bounds on a snapshot that is being collected. */
export interface AssemblyLimits {
  readonly maxBytes: number;
  readonly maxChunks: number;
  /** A snapshot that gets no chunk for so long is given up. */
  readonly patienceMs: number;
}

export const assemblyLimits: AssemblyLimits = { maxBytes: 256 * 1024 * 1024, maxChunks: 65_536, patienceMs: 30_000 };

/** What a chunk came to. */
export type Collected =
  | { readonly outcome: 'more' }
  /** `messages`: that its chunks came in, in order. */
  | { readonly outcome: 'whole'; readonly snapshot: Snapshot; readonly messages: readonly KeptMessage[] }
  | { readonly outcome: 'invalid'; readonly reason: string };

interface Assembly {
  readonly id: string;
  readonly count: number;
  readonly sizeBytes: number;
  readonly sha256: Uint8Array;
  readonly chunks: Map<number, { readonly data: Uint8Array; readonly kept: KeptMessage }>;
  bytes: number;
  lastTimeMs: number;
}

/** Puts the chunks of a Snapshot together, in whatever order and how often they come: one snapshot at a time, the newest begun. */
export class SnapshotAssembly {
  readonly #limits: AssemblyLimits;
  #assembly: Assembly | undefined;
  /** The last few that are done with: late copies of their chunks begin nothing new. */
  #done: string[] = [];

  constructor(limits: AssemblyLimits = assemblyLimits) {
    this.#limits = limits;
  }

  /** Whether there are chunks that wait for others. */
  get collecting(): boolean {
    return this.#assembly !== undefined;
  }

  /** `kept`: the message that the chunk came in. The chunk's data lies in it, or is a copy. */
  add(chunk: SnapshotChunk, nowMs: number, kept: KeptMessage): Collected {
    const { maxBytes, maxChunks, patienceMs } = this.#limits;
    const { snapshotId, index, count, data, sizeBytes, sha256 } = chunk;
    if (this.#assembly && nowMs - this.#assembly.lastTimeMs > patienceMs) this.clear();
    if (this.#done.includes(snapshotId)) return { outcome: 'more' };
    if (
      snapshotId === '' ||
      snapshotId.length > 128 ||
      count < 1 ||
      count > maxChunks ||
      index >= count ||
      sizeBytes > maxBytes ||
      sha256.byteLength !== 32 ||
      data.byteLength > sizeBytes
    ) {
      return { outcome: 'invalid', reason: 'a chunk that cannot be' };
    }
    if (this.#assembly?.id !== snapshotId) {
      if (this.#assembly) this.#finish(this.#assembly.id);
      this.#assembly = { id: snapshotId, count, sizeBytes, sha256, chunks: new Map(), bytes: 0, lastTimeMs: nowMs };
    }
    const assembly = this.#assembly;
    if (assembly.count !== count || assembly.sizeBytes !== sizeBytes || !Buffer.from(assembly.sha256).equals(sha256)) {
      return this.#refuse(assembly, 'chunks that do not belong together');
    }
    if (assembly.chunks.has(index)) return { outcome: 'more' };
    assembly.chunks.set(index, { data, kept });
    assembly.bytes += data.byteLength;
    assembly.lastTimeMs = nowMs;
    if (assembly.bytes > sizeBytes) return this.#refuse(assembly, 'more bytes than were announced');
    if (assembly.chunks.size < count) return { outcome: 'more' };
    if (assembly.bytes !== sizeBytes) return this.#refuse(assembly, 'fewer bytes than were announced');

    this.#finish(assembly.id);
    this.#assembly = undefined;
    const chunks = [...assembly.chunks].sort(([a], [b]) => a - b).map(([, one]) => one);
    const snapshot = parseSnapshot(Buffer.concat(chunks.map((one) => one.data)), assembly.sha256);
    if ('reason' in snapshot) return { outcome: 'invalid', reason: snapshot.reason };
    return { outcome: 'whole', snapshot, messages: chunks.map((one) => one.kept) };
  }

  /** Gives up what is collected so far. */
  clear(): void {
    this.#assembly = undefined;
  }

  #refuse(assembly: Assembly, reason: string): Collected {
    this.#finish(assembly.id);
    this.#assembly = undefined;
    return { outcome: 'invalid', reason };
  }

  #finish(id: string): void {
    this.#done = [...this.#done.slice(-15), id];
  }
}
