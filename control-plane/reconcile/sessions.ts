import { create } from '@bufbuild/protobuf';
import { durationFromMs, timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt';
import type { Logger } from 'pino';
import {
  ErrorReason,
  type Heartbeat,
  type Hello,
  type HelloReply,
  HelloReplySchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import {
  ConditionStatus,
  type Node,
  NodeInfoSchema,
  NodePhase,
  type NodeStatus,
  NodeStatusSchema,
} from '../../proto/gen/baykeeper/v1/node_pb.js';
import { isNonce } from '../../proto/signing.ts';
import type { NodeAddress } from '../../proto/subjects.ts';
import { decode, encode } from '../domain/record.ts';
import type { Store } from '../store/port.ts';
import type { Dispatcher, SessionId } from './dispatcher.ts';
import type { LivenessTracker } from './liveness.ts';
import type { ReconcileMetrics } from './metrics.ts';
import { RefusedError, refuseUnreadable } from './refused.ts';
import { writeNode } from './status_write.ts';

/** A message of a session that is not the node's newest. */
class FencedError extends RefusedError {
  readonly newest: number;
  constructor(epoch: number, newest: number) {
    super(
      ErrorReason.FENCED,
      epoch === newest
        ? `of epoch ${epoch} another session is known`
        : `epoch ${epoch} is not the newest session's, which is ${newest}`,
    );
    this.newest = newest;
  }
}

/** Options of {@link Sessions}. */
export interface SessionsOptions {
  readonly store: Store;
  readonly liveness: LivenessTracker;
  readonly dispatcher: Dispatcher;
  readonly heartbeatMs: number;
  readonly metrics?: Pick<ReconcileMetrics, 'messagesRefused'>;
  /** Whether the agents of a bay share its work: elsewhere none of them leads, whatever it says. */
  readonly isShared: (bayUid: string) => boolean;
  /** Id of the key that messages are signed with now. */
  readonly signingKey: () => string;
  /** Of the TrustBundle that agents should have, which they ask for when it is another one. Default: empty, that nobody asks for. */
  readonly trustDigest?: () => Uint8Array;
  readonly clock: { now(): number };
  readonly log: Logger;
  /** How many live connections the broker has for this node's key; undefined when it is not known. */
  readonly connections: (nodeUid: string) => number | undefined;
  /** A session has begun: what was open in the one before is not any more. */
  readonly onBegun: (nodeUid: string) => void;
}

interface Session extends SessionId {
  readonly instanceId: string;
  /** By which key and which TrustBundle the agent has been spoken to. */
  shown: string;
  heartbeat: number;
  /** How many messages the agent says that it has refused; undefined: it has not said yet. */
  refused: bigint | undefined;
  lastHeardMs: number;
  /** What was last written of its status, without what changes all the time. */
  signature: string;
}

/** Somebody else who says to be this node, while it is being found out whether the holder of the session is alive. */
interface Suspicion {
  readonly instanceId: string;
  readonly sinceMs: number;
}

/**
 * The sessions of the agents. Each Hello begins a new one, with an epoch that is kept with the node in the store; what
 * comes with an older epoch is refused.
 */
export class Sessions {
  readonly #options: SessionsOptions;
  readonly #sessions = new Map<string, Session>();
  readonly #suspicions = new Map<string, Suspicion>();

  constructor(options: SessionsOptions) {
    this.#options = options;
  }

  /** How many are known. */
  get count(): number {
    return this.#sessions.size;
  }

  /** What the agent drew for its session; undefined: none is known. */
  nonceOf(nodeUid: string): Uint8Array | undefined {
    return this.#sessions.get(nodeUid)?.nonce;
  }

  /** Begins a session. */
  async hello(address: NodeAddress, hello: Hello): Promise<HelloReply> {
    const { nodeUid } = address;
    if (hello.info) refuseUnreadable(NodeInfoSchema, hello.info);
    if (!hello.instanceId) throw new RefusedError(ErrorReason.INVALID, 'instance_id: is required');
    await this.#refuseDuplicate(nodeUid, hello.instanceId);
    const now = this.#options.clock.now();
    const leader = hello.leader && this.#options.isShared(address.bayUid);
    const epoch = await this.#options.store.write({
      reads: [{ uid: nodeUid }],
      apply: (view) => {
        const stored = nodeOrRefuse(view.get({ uid: nodeUid }), address);
        const node = decode('Node', stored);
        refuseRevoked(node);
        node.status ??= create(NodeStatusSchema);
        node.status.agentVersion = hello.agentVersion.slice(0, 64);
        node.status.leader = leader;
        if (hello.info) node.status.info = hello.info;
        node.status.conditions = node.status.conditions.filter((c) => c.type !== 'DuplicateIdentity');
        // The revision of this very change: so the sessions of all nodes are in order, and what several nodes of a bay say can be told apart.
        return view.put((revision) => encode('Node', node, { ...stored, epoch: revision })(revision), '').revision;
      },
    });
    const session = this.#newSession({ epoch, nonce: Uint8Array.from(hello.session) }, hello.instanceId);
    this.#sessions.set(nodeUid, session);
    this.#suspicions.delete(nodeUid);
    this.#options.onBegun(nodeUid);
    this.#options.dispatcher.open(address, session);
    this.#leads(address, epoch, leader);
    this.#options.log.info({ node: nodeUid, epoch, version: hello.agentVersion }, 'session began');
    return create(HelloReplySchema, {
      epoch: BigInt(epoch),
      heartbeatInterval: durationFromMs(this.#options.heartbeatMs),
      time: timestampFromMs(now),
      trustDigest: this.#trustDigest(),
    });
  }

  /** Throws RefusedError unless it is of the node's newest session. */
  async check(address: NodeAddress, said: { readonly epoch: bigint; readonly session: Uint8Array }): Promise<void> {
    const id = { epoch: Number(said.epoch), nonce: said.session };
    const session = this.#sessions.get(address.nodeUid) ?? (await this.#adopt(address, id));
    if (session.epoch !== id.epoch || !Buffer.from(session.nonce).equals(id.nonce)) {
      throw new FencedError(id.epoch, session.epoch);
    }
    session.lastHeardMs = this.#options.clock.now();
  }

  /** Takes a heartbeat. Throws RefusedError when it is of an older session. */
  async heartbeat(address: NodeAddress, heartbeat: Heartbeat): Promise<void> {
    const { nodeUid } = address;
    try {
      await this.check(address, heartbeat);
    } catch (error) {
      // Nobody waits for an answer to a heartbeat: without this an agent whose epoch is not ours any more would never learn of it.
      if (error instanceof FencedError) {
        this.#options.dispatcher.announce(address, { epoch: error.newest, nonce: heartbeat.session });
      }
      throw error;
    }
    const session = this.#sessions.get(nodeUid);
    if (!session || Number(heartbeat.sequence) <= session.heartbeat) return;
    session.heartbeat = Number(heartbeat.sequence);
    this.#showNews(address, session);
    this.#countRefused(session, heartbeat.refusedMessages);
    const status = heartbeat.status ?? create(NodeStatusSchema);
    refuseUnreadable(NodeStatusSchema, status);
    this.#options.liveness.describe(nodeUid, { appliedRevision: Number(heartbeat.appliedRevision), status });
    // With reports on their way, silence about an object does not mean that it has not changed.
    if (heartbeat.reportsPending === 0) this.#options.liveness.confirm(nodeUid);
    await this.#writeTransition(nodeUid, session, status, timeOf(heartbeat));
    await this.#options.dispatcher.compare(nodeUid, {
      appliedRevision: Number(heartbeat.appliedRevision),
      digest: heartbeat.digest,
    });
  }

  /** The node has become silent: writes that, once. */
  async silent(nodeUid: string): Promise<void> {
    await this.#options.store.write({
      reads: [{ uid: nodeUid }],
      apply: (view) => {
        const stored = view.get({ uid: nodeUid });
        if (stored?.kind !== 'Node') return;
        writeNode(view, stored, (node) => {
          if (!node.status || node.status.phase === NodePhase.UNKNOWN || node.spec?.revoked) return false;
          node.status.phase = NodePhase.UNKNOWN;
          node.status.reason = 'NodeSilent';
          node.status.message = 'nothing has been heard from its agent within the trust window';
          node.status.connected = false;
          return true;
        });
      },
    });
    // Only now: whatever was on its way to the store before this has been overwritten by it, and is to be written again.
    const session = this.#sessions.get(nodeUid);
    if (session) session.signature = '';
  }

  /** The node was revoked or removed. */
  forget(nodeUid: string): void {
    this.#sessions.delete(nodeUid);
    this.#suspicions.delete(nodeUid);
    this.#options.dispatcher.close(nodeUid);
    this.#options.liveness.forget(nodeUid);
  }

  /** Once keys or authorities were replaced, an agent to which nothing is sent would not notice, and go on believing the old ones. */
  #showNews(address: NodeAddress, session: Session): void {
    const news = this.#news();
    if (session.shown === news) return;
    session.shown = news;
    this.#options.dispatcher.announce(address, session, this.#trustDigest());
  }

  #news(): string {
    return `${this.#options.signingKey()} ${Buffer.from(this.#trustDigest()).toString('hex')}`;
  }

  #trustDigest(): Uint8Array {
    return this.#options.trustDigest?.() ?? new Uint8Array();
  }

  #newSession(id: SessionId, instanceId: string): Session {
    const { clock } = this.#options;
    return {
      ...id,
      instanceId,
      shown: this.#news(),
      heartbeat: 0,
      refused: undefined,
      lastHeardMs: clock.now(),
      signature: '',
    };
  }

  /** What was refused before the first word of a session was counted in the one before, or while nobody listened. */
  #countRefused(session: Session, refused: bigint): void {
    const more = Number(refused - (session.refused ?? refused));
    session.refused = refused;
    if (more > 0) this.#options.metrics?.messagesRefused(more);
  }

  /** After a restart of the control plane, agents go on in the sessions that they have. */
  async #adopt(address: NodeAddress, { epoch, nonce }: SessionId): Promise<Session> {
    if (!isNonce(nonce)) throw new RefusedError(ErrorReason.INVALID, 'session: must be 16 bytes');
    const stored = nodeOrRefuse(await this.#options.store.get({ uid: address.nodeUid }), address);
    if (epoch !== stored.epoch) {
      throw new FencedError(epoch, stored.epoch);
    }
    // Two messages may have come at once.
    const id = { epoch, nonce: Uint8Array.from(nonce) };
    const session = this.#sessions.get(address.nodeUid) ?? this.#newSession(id, '');
    this.#sessions.set(address.nodeUid, session);
    this.#options.dispatcher.open(address, session);
    this.#options.dispatcher.announce(address, session, this.#trustDigest());
    this.#leads(address, session.epoch, decode('Node', stored).status?.leader ?? false);
    return session;
  }

  #leads({ bayUid, nodeUid }: NodeAddress, epoch: number, leader: boolean): void {
    if (leader) this.#options.liveness.lead(bayUid, nodeUid, epoch);
    else this.#options.liveness.unlead(bayUid, nodeUid);
  }

  /**
   * A restarted agent may take over at once; a second agent with a copied identity must not push out the one that is at work. The broker knows
   * how many connections there are; whether the holder is alive is known when it is heard after the other has knocked.
   */
  async #refuseDuplicate(nodeUid: string, instanceId: string): Promise<void> {
    // After a restart of ours there is no session yet, or one of an instance that we do not know: that is no reason to prefer the other.
    const session = this.#sessions.get(nodeUid);
    if (session?.instanceId === instanceId) return;
    const connections = this.#options.connections(nodeUid);
    if (connections === undefined || connections < 2) return;
    const now = this.#options.clock.now();
    let suspicion = this.#suspicions.get(nodeUid);
    const ageMs = suspicion ? now - suspicion.sinceMs : 0;
    // Before it began: the clock was set back.
    const over = ageMs < 0 || ageMs > 10 * this.#options.heartbeatMs;
    if (!suspicion || suspicion.instanceId !== instanceId || over) {
      suspicion = { instanceId, sinceMs: now };
      this.#suspicions.set(nodeUid, suspicion);
    }
    if (session && session.lastHeardMs > suspicion.sinceMs) {
      await this.#writeDuplicate(nodeUid);
      throw new RefusedError(
        ErrorReason.DUPLICATE,
        'another agent with this identity is at work; remove the copy, and enrol this machine with a join token of its own',
      );
    }
    if (now - suspicion.sinceMs < 1.5 * this.#options.heartbeatMs) {
      throw new RefusedError(ErrorReason.RETRY, 'finding out whether another agent with this identity is alive');
    }
  }

  async #writeDuplicate(nodeUid: string): Promise<void> {
    const now = this.#options.clock.now();
    this.#options.log.warn({ node: nodeUid }, 'a second agent with the identity of this node was turned away');
    await this.#options.store.write({
      reads: [{ uid: nodeUid }],
      apply: (view) => {
        const stored = view.get({ uid: nodeUid });
        if (stored?.kind !== 'Node') return;
        writeNode(view, stored, (node) => {
          if (!node.status || node.status.conditions.some((c) => c.type === 'DuplicateIdentity')) return false;
          node.status.conditions.push({
            $typeName: 'baykeeper.v1.NodeCondition',
            type: 'DuplicateIdentity',
            status: ConditionStatus.TRUE,
            reason: 'SecondAgent',
            message: 'another machine says hello with a copy of this node’s key; it was turned away',
            lastTransitionTime: timestampFromMs(now),
          });
          return true;
        });
      },
    });
  }

  /** Writes phase and conditions when they have changed; usage and the like stay in memory. */
  async #writeTransition(nodeUid: string, session: Session, status: NodeStatus, timeMs?: number): Promise<void> {
    const signature = signatureOf(status);
    if (signature === session.signature) return;
    await this.#options.store.write({
      reads: [{ uid: nodeUid }],
      apply: (view) => {
        const stored = view.get({ uid: nodeUid });
        if (stored?.kind !== 'Node' || stored.epoch !== session.epoch) return;
        writeNode(view, stored, (node) => {
          if (node.spec?.revoked) return false;
          const was = node.status ?? create(NodeStatusSchema);
          // A session that goes on where the one before it ended has nothing to say: many may begin at once.
          if (was.connected && signatureOf(was) === signature) return false;
          const kept = was.conditions.filter((c) => c.type === 'DuplicateIdentity');
          node.status = {
            ...was,
            phase: status.phase,
            reason: status.reason,
            message: status.message,
            conditions: [...status.conditions.filter((c) => c.type !== 'DuplicateIdentity').slice(0, 16), ...kept],
            info: status.info ?? was.info,
            usage: status.usage,
            connected: true,
            observeTime: timeMs === undefined ? undefined : timestampFromMs(timeMs),
          };
          return true;
        });
      },
    });
    session.signature = signature;
  }
}

/** What of a node's status is worth a write when it changes. */
const signatureOf = (status: NodeStatus): string =>
  JSON.stringify([
    status.phase,
    status.reason,
    status.conditions.filter((c) => c.type !== 'DuplicateIdentity').map((c) => [c.type, c.status, c.reason]),
    status.info?.engineVersion,
    status.info?.addresses,
  ]);

/** Milliseconds since 1970 by the agent's clock; undefined when that is no time that can be shown. */
function timeOf({ time }: Heartbeat): number | undefined {
  const ms = time ? timestampMs(time) : Number.NaN;
  return Math.abs(ms) <= 8.64e15 && ms >= Date.parse('0001-01-01T00:00:00Z') && ms < 253_402_300_800_000
    ? ms
    : undefined;
}

function nodeOrRefuse<T extends { readonly kind: string; readonly bayUid: string }>(
  stored: T | undefined,
  address: NodeAddress,
): T {
  if (stored?.kind !== 'Node' || stored.bayUid !== address.bayUid) {
    throw new RefusedError(ErrorReason.REVOKED, 'this node is not known here any more');
  }
  return stored;
}

function refuseRevoked(node: Node): void {
  if (node.spec?.revoked) throw new RefusedError(ErrorReason.REVOKED, 'this node was revoked');
}
