import { createHash, randomUUID } from 'node:crypto';
import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { Logger } from 'pino';
import { SetDigest } from '../../proto/digest.ts';
import {
  type Assignment,
  AssignmentOp,
  AssignmentSchema,
  AssignSchema,
  type DeltaSchema,
  SnapshotSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { downSubject, type NodeAddress } from '../../proto/subjects.ts';
import type { Bus, MessageSigner } from '../broker/port.ts';
import type { Change, Store } from '../store/port.ts';
import { assignmentOf, assignmentOfChange } from './assignment.ts';
import type { ReconcileMetrics } from './metrics.ts';
import type { Publications } from './port.ts';

/** Options of {@link Dispatcher}. */
export interface DispatcherOptions {
  readonly store: Store;
  readonly bus: Bus;
  readonly signer: Pick<MessageSigner, 'seal'>;
  readonly clock: { now(): number };
  readonly log: Logger;
  readonly metrics?: Pick<ReconcileMetrics, 'sent'>;
  /** Uid of the chain that a node's agent follows: its own, or its bay's. */
  readonly chainOf: (address: NodeAddress) => string;
  /** Told of each new head of a chain. */
  readonly onHead: (nodeUid: string, revision: number) => void;
}

/** What an agent says that it has. */
export interface AgentPosition {
  readonly appliedRevision: number;
  readonly digest: Uint8Array;
}

/** A session of an agent, as what is sent in it says. */
export interface SessionId {
  readonly epoch: number;
  /** What the agent drew for it. */
  readonly nonce: Uint8Array;
}

/** What is sent to one node in its present session. */
interface Chain {
  readonly address: NodeAddress;
  /** Uid of what is followed: the node, or its bay. */
  readonly id: string;
  session: SessionId;
  /** The newest link, and the digest of the set that it results in. Undefined until they are needed first. */
  known: { head: number; readonly digest: SetDigest; readonly members: Map<string, Member> } | undefined;
  /** Work on this chain, one after the other. */
  tail: Promise<unknown>;
  /** A resync is under way: new links wait for it to end, so that they arrive in order. */
  syncing: boolean;
  behindSince: number | undefined;
  lastSnapshotMs: number;
}
interface Member {
  readonly generation: number;
  readonly deleting: boolean;
}

/** A delta with more objects than this is better sent as a snapshot. */
const deltaLimit = 1000;
/** An agent that still differs is not sent everything again before so long. */
const snapshotIntervalMs = 10_000;
/** How many "published at" times are kept for `why`. */
const publicationLimit = 50_000;
/** Room for what surrounds the assignments in a message. */
const envelopeBytes = 4096;

/**
 * Sends each node what is assigned to it: each commit as a delta, at once, and what an agent lacks when it asks or when its heartbeat shows it.
 */
export class Dispatcher implements Publications {
  readonly #options: DispatcherOptions;
  readonly #chains = new Map<string, Chain>();
  /** The same, by the chain that they follow. */
  readonly #followers = new Map<string, Set<Chain>>();
  readonly #published = new Map<string, { generation: number; timeMs: number }>();

  constructor(options: DispatcherOptions) {
    this.#options = options;
  }

  /** Follows the feed. Returns what ends that. */
  start(): () => void {
    return this.#options.store.subscribe((changes) => this.#take(changes));
  }

  /** A session has begun: from now on the node is sent what changes. */
  open(address: NodeAddress, session: SessionId): void {
    const chain = this.#chains.get(address.nodeUid);
    if (chain) {
      chain.session = session;
      return;
    }
    const id = this.#options.chainOf(address);
    const opened: Chain = {
      address,
      id,
      session,
      known: undefined,
      tail: Promise.resolve(),
      syncing: false,
      behindSince: undefined,
      lastSnapshotMs: Number.NEGATIVE_INFINITY,
    };
    this.#chains.set(address.nodeUid, opened);
    this.#followers.set(id, (this.#followers.get(id) ?? new Set()).add(opened));
  }

  /** Tells the agent which session is its newest. `nonce`: of the session that it says it is in. `trustDigest`: of what it should trust. */
  announce(address: NodeAddress, { epoch, nonce }: SessionId, trustDigest: Uint8Array = new Uint8Array()): void {
    try {
      const message = toBinary(AssignSchema, create(AssignSchema, { epoch: BigInt(epoch), trustDigest }));
      const sealed = this.#options.signer.seal({ ...address, purpose: 'assign', nonce }, message);
      this.#options.bus.publish(downSubject(address, 'assign'), sealed);
    } catch (error) {
      // Its next message brings us here again.
      this.#options.log.debug({ node: address.nodeUid, error }, 'session not announced');
    }
  }

  /** The node is away: nothing is sent, and nothing is kept about it. */
  close(nodeUid: string): void {
    const chain = this.#chains.get(nodeUid);
    if (!chain) return;
    this.#chains.delete(nodeUid);
    const others = this.#followers.get(chain.id);
    others?.delete(chain);
    if (others?.size === 0) this.#followers.delete(chain.id);
  }

  /** Sends what the agent lacks. Resolves, once it is under way, with the revision that it will then have. */
  async sync(nodeUid: string, position: AgentPosition): Promise<number> {
    const chain = this.#chains.get(nodeUid);
    if (!chain) throw new Error(`no session of node ${nodeUid}`);
    return this.#enqueue(chain, () => this.#sync(chain, position));
  }

  /** Compares what a heartbeat shows with what the node should have, and mends a difference. */
  async compare(nodeUid: string, position: AgentPosition): Promise<void> {
    const chain = this.#chains.get(nodeUid);
    if (!chain || chain.syncing) return;
    const known = await this.#enqueue(chain, () => this.#know(chain));
    this.#options.onHead(nodeUid, known.head);
    if (position.appliedRevision === known.head && known.digest.equals(position.digest)) {
      chain.behindSince = undefined;
      return;
    }
    const now = this.#options.clock.now();
    // What was published just now may still be on its way, or on its way to the agent's disk.
    if (position.appliedRevision < known.head && chain.behindSince === undefined) {
      chain.behindSince = now;
      return;
    }
    this.#options.log.warn(
      { node: nodeUid, applied: position.appliedRevision, head: known.head },
      'agent and store differ, bringing the agent up to date',
    );
    await this.#enqueue(chain, () => this.#sync(chain, position));
  }

  publishTimeMs(objectUid: string, generation: number): number | undefined {
    const published = this.#published.get(objectUid);
    return published?.generation === generation ? published.timeMs : undefined;
  }

  #enqueue<T>(chain: Chain, work: () => Promise<T>): Promise<T> {
    const done = chain.tail.then(work);
    chain.tail = done.catch(() => undefined);
    return done;
  }

  #take(changes: readonly Change[]): void {
    const byChain = new Map<string, Change[]>();
    for (const change of changes) {
      if (change.op === 'remove') this.#published.delete(change.object.uid);
      if (!change.chain) continue;
      const followers = this.#followers.get(change.chain);
      if (!followers) continue;
      for (const { known } of followers) if (known) advance(known, change);
      const links = byChain.get(change.chain);
      if (links) links.push(change);
      else byChain.set(change.chain, [change]);
    }
    for (const [id, links] of byChain) {
      for (const chain of this.#followers.get(id) ?? []) {
        // While a resync is under way, it reads these links from the store itself before it ends.
        if (!chain.syncing) this.#publishLinks(chain, links);
        this.#options.onHead(chain.address.nodeUid, links.at(-1)?.revision ?? 0);
      }
    }
  }

  #publishLinks(chain: Chain, links: readonly Change[]): void {
    const first = links[0];
    if (!first) return;
    try {
      this.#publishDelta(
        chain,
        first.chainPrevious,
        links.map((change) => ({ revision: change.revision, assignment: assignmentOfChange(change) })),
      );
    } catch (error) {
      // Not lost: the agent sees the gap, or its heartbeat shows it, and is brought up to date then.
      this.#options.log.debug({ node: chain.address.nodeUid, error }, 'delta not published');
    }
  }

  async #know(chain: Chain) {
    if (chain.known) return chain.known;
    // Links that are committed while this reads are not counted twice: `advance` skips what is not newer.
    const known = { head: 0, digest: new SetDigest(), members: new Map<string, Member>() };
    const pending: Change[] = [];
    const end = this.#options.store.subscribe((changes) => {
      pending.push(...changes.filter((change) => change.chain === chain.id));
    });
    try {
      const set = await this.#options.store.assigned(chain.id);
      known.head = set.head;
      for (const { uid, generation, deleting } of set.objects) {
        known.members.set(uid, { generation, deleting });
        known.digest.add({ uid, generation, deleting });
      }
    } finally {
      end();
    }
    for (const change of pending) advance(known, change);
    chain.known = known;
    return known;
  }

  async #sync(chain: Chain, position: AgentPosition): Promise<number> {
    chain.syncing = true;
    chain.behindSince = undefined;
    try {
      let revision = await this.#syncOnce(chain, position);
      // What was committed meanwhile follows, until there is nothing more.
      for (;;) {
        const known = await this.#know(chain);
        if (known.head <= revision) return revision;
        revision = await this.#catchUp(chain, revision);
      }
    } finally {
      chain.syncing = false;
    }
  }

  async #syncOnce(chain: Chain, position: AgentPosition): Promise<number> {
    const known = await this.#know(chain);
    const { appliedRevision, digest } = position;
    if (appliedRevision === known.head && appliedRevision > 0 && known.digest.equals(digest)) return known.head;
    if (appliedRevision > 0 && appliedRevision < known.head) return this.#catchUp(chain, appliedRevision);
    return this.#sendSnapshot(chain);
  }

  async #catchUp(chain: Chain, since: number): Promise<number> {
    const delta = await this.#options.store.chainSince(chain.id, since, deltaLimit);
    if (!delta) return this.#sendSnapshot(chain);
    if (delta.changes.length === 0) return delta.head;
    this.#publishDelta(
      chain,
      since,
      delta.changes.map((change) => ({ revision: change.revision, assignment: assignmentOfChange(change) })),
    );
    return delta.head;
  }

  #publishDelta(
    chain: Chain,
    appliesTo: number,
    links: readonly { readonly revision: number; readonly assignment: Assignment }[],
  ): void {
    const limit = this.#options.bus.maxPayloadBytes - envelopeBytes;
    let from = appliesTo;
    let part: Assignment[] = [];
    let bytes = 0;
    let last = appliesTo;
    const flush = () => {
      if (part.length === 0) return;
      this.#publish(chain, {
        case: 'delta',
        value: {
          appliesTo: BigInt(from),
          resultsIn: BigInt(last),
          assignments: part,
          publishTime: timestampFromMs(this.#options.clock.now()),
        },
      });
      this.#remember(part);
      from = last;
      part = [];
      bytes = 0;
    };
    for (const { revision, assignment } of links) {
      const size = toBinary(AssignmentSchema, assignment).byteLength + 16;
      if (bytes + size > limit) flush();
      part.push(assignment);
      bytes += size;
      last = revision;
    }
    flush();
  }

  async #sendSnapshot(chain: Chain): Promise<number> {
    const now = this.#options.clock.now();
    if (now - chain.lastSnapshotMs < snapshotIntervalMs) {
      this.#options.log.warn({ node: chain.address.nodeUid }, 'agent asks for a second snapshot within seconds');
    }
    chain.lastSnapshotMs = now;
    const set = await this.#options.store.assigned(chain.id);
    const assignments = set.objects.map(assignmentOf);
    const digest = SetDigest.of(set.objects);
    const whole = toBinary(
      SnapshotSchema,
      create(SnapshotSchema, {
        revision: BigInt(set.head),
        count: assignments.length,
        digest: digest.bytes(),
        assignments,
        publishTime: timestampFromMs(now),
      }),
    );
    const size = this.#options.bus.maxPayloadBytes - envelopeBytes;
    const count = Math.max(1, Math.ceil(whole.byteLength / size));
    const sha256 = createHash('sha256').update(whole).digest();
    const snapshotId = randomUUID();
    for (let index = 0; index < count; index += 1) {
      this.#publish(chain, {
        case: 'snapshot',
        value: {
          snapshotId,
          index,
          count,
          data: whole.subarray(index * size, (index + 1) * size),
          sha256,
          sizeBytes: whole.byteLength,
        },
      });
    }
    this.#remember(assignments);
    return set.head;
  }

  #publish(
    chain: Chain,
    body:
      | { case: 'delta'; value: MessageInitShape<typeof DeltaSchema> }
      | {
          case: 'snapshot';
          value: NonNullable<Extract<MessageInitShape<typeof AssignSchema>['body'], { case: 'snapshot' }>>['value'];
        },
  ): void {
    const { address, session } = chain;
    const message = toBinary(AssignSchema, create(AssignSchema, { epoch: BigInt(session.epoch), body }));
    const bytes = this.#options.signer.seal({ ...address, purpose: 'assign', nonce: session.nonce }, message);
    this.#options.bus.publish(downSubject(address, 'assign'), bytes);
    this.#options.metrics?.sent(body.case, bytes.byteLength);
  }

  #remember(assignments: readonly Assignment[]): void {
    const timeMs = this.#options.clock.now();
    for (const { uid, generation, op } of assignments) {
      if (op === AssignmentOp.FORGET) continue;
      this.#published.delete(uid);
      this.#published.set(uid, { generation: Number(generation), timeMs });
    }
    for (const uid of this.#published.keys()) {
      if (this.#published.size <= publicationLimit) break;
      this.#published.delete(uid);
    }
  }
}

/** Takes one link into what is known of a chain's set. */
function advance(known: NonNullable<Chain['known']>, change: Change): void {
  if (change.revision <= known.head) return;
  known.head = change.revision;
  const { uid, generation, deleting, assigneeUid: nodeUid } = change.object;
  const was = known.members.get(uid);
  if (was) known.digest.remove({ uid, ...was });
  known.members.delete(uid);
  if (change.op === 'put' && nodeUid === change.chain) {
    known.members.set(uid, { generation, deleting });
    known.digest.add({ uid, generation, deleting });
  }
}
