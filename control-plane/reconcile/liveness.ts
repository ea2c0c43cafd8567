import { create } from '@bufbuild/protobuf';
import { type NodeStatus, NodeStatusSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { Liveness, NodeLiveness } from './port.ts';

/** Options of {@link LivenessTracker}. */
export interface LivenessOptions {
  /** How long an agent's word is believed. Default: three heartbeats. */
  readonly trustMs: number;
  /** How long a dropped connection may take to come back before the node counts as silent. */
  readonly reconnectGraceMs: number;
  readonly clock: { now(): number };
}

interface Entry {
  fresh: boolean;
  connected: boolean;
  confirmTimeMs: number;
  disconnectTimeMs: number | undefined;
  appliedRevision: number;
  assignedRevision: number;
  status: NodeStatus;
}

/** Who leads a Kubernetes bay. */
interface Leader {
  readonly nodeUid: string;
  readonly epoch: number;
  /** What it has said of the bay since it leads is complete. */
  confirmed: boolean;
}

const newEntry = (): Entry => ({
  fresh: false,
  connected: true,
  confirmTimeMs: 0,
  disconnectTimeMs: undefined,
  appliedRevision: 0,
  assignedRevision: 0,
  status: create(NodeStatusSchema),
});

/**
 * Knows which nodes may be believed, from heartbeats and from the broker's news of connections. In memory only: after a restart every node is
 * unknown until its agent speaks.
 */
export class LivenessTracker implements Liveness {
  readonly #options: LivenessOptions;
  /** In the order of their last words, oldest first, so that a sweep looks only at those that have become stale. */
  readonly #entries = new Map<string, Entry>();
  readonly #dropped = new Set<string>();
  /** By bay. */
  readonly #leaders = new Map<string, Leader>();
  readonly #bayOfLeader = new Map<string, string>();
  #sweptMs = Number.NEGATIVE_INFINITY;
  readonly #listeners = new Set<(nodeUid: string) => void>();

  constructor(options: LivenessOptions) {
    this.#options = options;
  }

  node(uid: string): NodeLiveness | undefined {
    const leader = this.#leaders.get(uid);
    const entry = this.#entries.get(leader?.nodeUid ?? uid);
    if (!entry) return undefined;
    const trustUntilMs =
      entry.disconnectTimeMs === undefined
        ? entry.confirmTimeMs + this.#options.trustMs
        : Math.min(
            entry.confirmTimeMs + this.#options.trustMs,
            entry.disconnectTimeMs + this.#options.reconnectGraceMs,
          );
    return {
      // Past its time it is stale, whether or not the sweep has come by.
      fresh: entry.fresh && leader?.confirmed !== false && this.#options.clock.now() <= trustUntilMs,
      connected: entry.connected,
      confirmTimeMs: entry.confirmTimeMs,
      trustUntilMs,
      appliedRevision: entry.appliedRevision,
      assignedRevision: entry.assignedRevision,
      status: entry.status,
    };
  }

  agentOf(assigneeUid: string): string | undefined {
    return this.#leaders.get(assigneeUid)?.nodeUid ?? (this.#entries.has(assigneeUid) ? assigneeUid : undefined);
  }

  /** The node's agent leads its bay, by a session with this epoch: from now on the bay is as fresh as what this agent says. */
  lead(bayUid: string, nodeUid: string, epoch: number): void {
    const was = this.#leaders.get(bayUid);
    if (was && was.epoch >= epoch) return;
    if (was) this.#bayOfLeader.delete(was.nodeUid);
    this.#leaders.set(bayUid, { nodeUid, epoch, confirmed: false });
    this.#bayOfLeader.set(nodeUid, bayUid);
    this.#tell(bayUid);
  }

  /** The node's agent does not lead its bay any more. Until another does, nobody knows how it is. */
  unlead(bayUid: string, nodeUid: string): void {
    if (this.#leaders.get(bayUid)?.nodeUid !== nodeUid) return;
    this.#leaders.delete(bayUid);
    this.#bayOfLeader.delete(nodeUid);
    this.#tell(bayUid);
  }

  /** How many nodes may be believed now. */
  get freshCount(): number {
    let count = 0;
    for (const nodeUid of this.#entries.keys()) if (this.node(nodeUid)?.fresh) count += 1;
    return count;
  }

  subscribe(listener: (nodeUid: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** What the agent says of the node itself. It says nothing of how fresh its objects are. */
  describe(nodeUid: string, heartbeat: { readonly appliedRevision: number; readonly status: NodeStatus }): void {
    const entry = this.#entries.get(nodeUid) ?? newEntry();
    this.#entries.set(nodeUid, entry);
    entry.appliedRevision = heartbeat.appliedRevision;
    entry.status = heartbeat.status;
  }

  /** The agent has spoken, and what it said of its objects is complete. */
  confirm(nodeUid: string): void {
    const entry = this.#entries.get(nodeUid) ?? newEntry();
    this.#entries.delete(nodeUid);
    this.#entries.set(nodeUid, entry);
    this.#dropped.delete(nodeUid);
    const was = entry.fresh;
    entry.fresh = true;
    entry.connected = true;
    entry.disconnectTimeMs = undefined;
    entry.confirmTimeMs = this.#options.clock.now();
    const bayUid = this.#bayOfLeader.get(nodeUid) ?? '';
    const leader = this.#leaders.get(bayUid);
    const led = leader?.confirmed;
    if (leader) leader.confirmed = true;
    if (!was) this.#notify(nodeUid);
    else if (led === false) this.#tell(bayUid);
  }

  /** The newest link of the node's chain, for whoever asks how far behind the node is. */
  assigned(nodeUid: string, revision: number): void {
    const entry = this.#entries.get(nodeUid);
    if (entry) entry.assignedRevision = revision;
  }

  /** The broker says that the agent's last connection is gone. */
  disconnected(nodeUid: string): void {
    const entry = this.#entries.get(nodeUid);
    if (!entry?.connected) return;
    entry.connected = false;
    entry.disconnectTimeMs = this.#options.clock.now();
    this.#dropped.add(nodeUid);
  }

  /** The broker says that the agent is connected (again). It is believed once it has spoken. */
  connected(nodeUid: string): void {
    const entry = this.#entries.get(nodeUid);
    if (!entry) return;
    entry.connected = true;
    if (entry.fresh) {
      entry.disconnectTimeMs = undefined;
      this.#dropped.delete(nodeUid);
    }
  }

  forget(nodeUid: string): void {
    this.#dropped.delete(nodeUid);
    if (this.#entries.delete(nodeUid)) this.#notify(nodeUid);
    this.unlead(this.#bayOfLeader.get(nodeUid) ?? '', nodeUid);
  }

  /** Marks what has become stale. Called every second or so. */
  sweep(): void {
    const now = this.#options.clock.now();
    this.#notLaterThan(now);
    const stale: string[] = [];
    for (const nodeUid of this.#dropped) {
      const entry = this.#entries.get(nodeUid);
      if (!entry || now - (entry.disconnectTimeMs ?? now) <= this.#options.reconnectGraceMs) continue;
      this.#dropped.delete(nodeUid);
      if (entry.fresh) stale.push(nodeUid);
    }
    for (const [nodeUid, entry] of this.#entries) {
      if (now - entry.confirmTimeMs <= this.#options.trustMs) break;
      if (entry.fresh && !stale.includes(nodeUid)) stale.push(nodeUid);
    }
    for (const nodeUid of stale) {
      const entry = this.#entries.get(nodeUid);
      if (!entry) continue;
      entry.fresh = false;
      this.#notify(nodeUid);
    }
  }

  /** Nobody has spoken in the future: the clock was set back, and without this their word would be believed until it has caught up. */
  #notLaterThan(now: number): void {
    if (now >= this.#sweptMs) {
      this.#sweptMs = now;
      return;
    }
    this.#sweptMs = now;
    for (const entry of this.#entries.values()) {
      entry.confirmTimeMs = Math.min(entry.confirmTimeMs, now);
      if (entry.disconnectTimeMs !== undefined) entry.disconnectTimeMs = Math.min(entry.disconnectTimeMs, now);
    }
  }

  #notify(nodeUid: string): void {
    this.#tell(nodeUid);
    const bayUid = this.#bayOfLeader.get(nodeUid);
    if (bayUid !== undefined) this.#tell(bayUid);
  }

  #tell(uid: string): void {
    for (const listener of this.#listeners) listener(uid);
  }
}
