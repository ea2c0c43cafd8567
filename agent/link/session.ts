import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { durationMs, timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  type Error as BusError,
  ErrorReason,
  HeartbeatSchema,
  HelloReplySchema,
  HelloSchema,
  type ReportReply,
  ReportReplySchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import {
  ConditionStatus,
  type NodeCondition,
  type NodeStatus,
  NodeStatusSchema,
} from '../../proto/gen/baykeeper/v1/node_pb.js';
import { messagesRefused } from '../../proto/signing.ts';
import { downSubject, type NodeAddress, upSubject } from '../../proto/subjects.ts';
import { Backoff } from '../backoff.ts';
import type { Clock } from '../clock.ts';
import type { Log } from '../log.ts';
import type { Workloads } from '../ports.ts';
import { Delivery } from './delivery.ts';
import type { Link } from './link.ts';
import type { Reporter } from './report.ts';
import type { AssemblyLimits } from './snapshot_assembly.ts';
import type { DesiredStore } from './state.ts';
import { drawNonce, type Verifier } from './verifier.ts';

export interface SessionOptions {
  readonly address: NodeAddress;
  readonly link: Pick<Link, 'connected' | 'onConnected' | 'publish' | 'request' | 'subscribe'>;
  readonly store: DesiredStore;
  readonly verifier: Pick<Verifier, 'open' | 'refused' | 'problem'>;
  readonly reports: Pick<Reporter, 'open' | 'close' | 'hurry' | 'pending'>;
  readonly workloads: Pick<Workloads, 'snapshot' | 'nodeStatus' | 'onNodeChange' | 'cluster'>;
  /** Drawn at random when the process starts. */
  readonly instanceId: string;
  readonly agentVersion: string;
  /** Gets the digest of the TrustBundle that the control plane has now. */
  readonly onTrust?: (digest: Uint8Array) => void;
  readonly clock: Clock;
  readonly log: Log;
  readonly random?: () => number;
  readonly limits?: AssemblyLimits;
}

/** Where the agent is with its session. */
export type SessionState =
  /** No broker. */
  | { readonly name: 'offline' }
  /** A Hello is out. */
  | { readonly name: 'greeting' }
  /** Until the next Hello. */
  | { readonly name: 'waiting'; readonly why: Refusal; readonly cancel: () => void }
  | OpenSession;

export interface OpenSession {
  readonly name: 'open';
  readonly epoch: bigint;
  /** What was drawn for it: everything that the control plane signs for the session says it. */
  readonly nonce: Uint8Array;
  readonly heartbeatMs: number;
  /** Of the last heartbeat. */
  sequence: bigint;
  readonly sinceMs: number;
  /** The next heartbeat: a call away, being made, or being made and to be followed by another at once. */
  beat: 'due' | 'making' | 'again';
  cancelHeartbeat: () => void;
}

/** Why there is no session: the control plane cannot now, a newer session exists, another agent has the node, or the node is no more. */
export type Refusal = 'retry' | 'fenced' | 'duplicate' | 'revoked';

const helloTimeoutMs = 10_000;
const reportTimeoutMs = 10_000;
const statusPatienceMs = 3_000;
/** A session that lasted so long counts as one that works. */
const settledMs = 60_000;

/** How long to wait before the next Hello. Another agent or a revocation is not gone in a moment. */
const patience: Record<Refusal, { readonly baseMs: number; readonly minMs: number; readonly maxMs: number }> = {
  retry: { baseMs: 500, minMs: 50, maxMs: 30_000 },
  fenced: { baseMs: 500, minMs: 0, maxMs: 30_000 },
  duplicate: { baseMs: 120_000, minMs: 60_000, maxMs: 600_000 },
  revoked: { baseMs: 900_000, minMs: 300_000, maxMs: 3_600_000 },
};

/**
 * The agent's conversation with the control plane: Hello at each connection, then heartbeats, assignments and reports under the epoch
 * that it was given, until somebody says that it is over.
 */
export class Session {
  readonly #options: SessionOptions;
  readonly #delivery: Delivery;
  readonly #backoffs = new Map<Refusal, Backoff>();
  readonly #openListeners = new Set<(open: boolean) => void>();
  #state: SessionState = { name: 'offline' };
  #lastStatus: NodeStatus = create(NodeStatusSchema);
  #stopped = false;
  #unlisten: (() => void) | undefined;
  #unlistenNode: (() => void) | undefined;
  #unlistenLead: (() => void) | undefined;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#delivery = new Delivery({
      ...options,
      onRefused: (error) => this.refused(error),
      onOtherSession: () => {
        options.log.info({}, 'the control plane knows another session, beginning one');
        this.#wait('fenced');
      },
      onLedBack: () => this.#startAnew(),
      onHeard: () => options.reports.hurry(),
    });
  }

  get state(): SessionState {
    return this.#state;
  }

  /** Calls back when a session begins (true) and when it is over (false). */
  onOpen(listener: (open: boolean) => void): () => void {
    this.#openListeners.add(listener);
    return () => this.#openListeners.delete(listener);
  }

  start(): void {
    const { link, address, workloads } = this.#options;
    link.subscribe(downSubject(address, 'assign'), ({ data }) => this.#delivery.receive(data));
    this.#unlisten = link.onConnected((connected) => this.#connected(connected));
    this.#unlistenNode = workloads.onNodeChange?.(() => this.#hurry());
    this.#unlistenLead = workloads.cluster?.onLeads(() => this.#startAnew());
    if (link.connected) this.#connected(true);
  }

  stop(): void {
    this.#stopped = true;
    this.#unlisten?.();
    this.#unlistenNode?.();
    this.#unlistenLead?.();
    this.#become({ name: 'offline' });
  }

  /** Sends a Report, serialized, of this session. Rejects when there is none, or no answer. */
  async report(report: Uint8Array): Promise<ReportReply> {
    const { link, address } = this.#options;
    const answer = await link.request(upSubject(address, 'report'), report, reportTimeoutMs);
    return fromBinary(ReportReplySchema, answer);
  }

  /** The session is over: another begins, which closes what is open in this one. */
  begin(): void {
    this.#startAnew();
  }

  /** There are keys by which messages are believed that were refused before: they are asked for at once. */
  catchUp(): void {
    const state = this.#state;
    if (state.name === 'open') this.#delivery.catchUp();
    else if (state.name === 'waiting' && state.why === 'retry' && this.#options.link.connected) void this.#greet();
  }

  /** Somebody says that this session is over. It is not signed, so it is no more than a reason to ask: the next Hello tells. */
  doubted({ message }: BusError): void {
    if (this.#state.name !== 'open') return;
    this.#options.log.info({ message }, 'the session is said to be over, beginning another');
    this.#wait('fenced');
  }

  /** The control plane does not go on with this session. */
  refused(error: BusError): void {
    const { log } = this.#options;
    const { message } = error;
    switch (error.reason) {
      case ErrorReason.FENCED:
        log.info({ message }, 'the session is over, beginning another');
        this.#wait('fenced');
        return;
      case ErrorReason.DUPLICATE:
        log.error({ message }, 'another agent with this identity is alive: leaving the node to it');
        this.#wait('duplicate');
        return;
      case ErrorReason.REVOKED:
        log.error({ message }, 'this node was revoked: what runs is left as it is, and nothing new is taken');
        this.#wait('revoked');
        return;
      default:
        log.warn({ message, code: error.code }, 'the control plane refuses a session for now');
        this.#wait('retry');
        return;
    }
  }

  #connected(connected: boolean): void {
    if (this.#stopped) return;
    if (!connected) {
      // Who was told to keep away keeps away: a new connection does not change that.
      const { why } = this.#state.name === 'waiting' ? this.#state : { why: undefined };
      if (why !== 'duplicate' && why !== 'revoked') this.#become({ name: 'offline' });
    } else if (this.#state.name === 'offline') {
      void this.#greet();
    }
  }

  /** Who leads a bay, and who no longer does, says so with a session of its own: the control plane tells by it whose word counts. */
  #startAnew(): void {
    const { name } = this.#state;
    if (name === 'open' || name === 'greeting') void this.#greet();
  }

  async #greet(): Promise<void> {
    const { link, address, instanceId, agentVersion, clock, log, workloads, verifier } = this.#options;
    const greeting: SessionState = { name: 'greeting' };
    this.#become(greeting);
    try {
      const { info } = await this.#status();
      const leader = workloads.cluster?.leads ?? false;
      const time = timestampFromMs(clock.now());
      const session = drawNonce();
      const hello = create(HelloSchema, { instanceId, agentVersion, time, info, leader, session });
      const answer = await link.request(upSubject(address, 'hello'), toBinary(HelloSchema, hello), helloTimeoutMs);
      if (this.#state !== greeting) return;
      const opened = verifier.open('hello-reply', session, answer);
      if (!opened) throw new Error('the answer is not signed by the control plane');
      const reply = fromBinary(HelloReplySchema, opened.payload);
      if (reply.error) {
        this.refused(reply.error);
        return;
      }
      this.#options.onTrust?.(reply.trustDigest);
      const heartbeatMs = bounded(reply.heartbeatInterval ? durationMs(reply.heartbeatInterval) : Number.NaN);
      this.#open(reply.epoch, session, heartbeatMs);
    } catch (error) {
      if (this.#state !== greeting) return;
      log.warn({ error: (error as Error).message }, 'no session: no answer that can be used');
      this.#wait('retry');
    }
  }

  #open(epoch: bigint, nonce: Uint8Array, heartbeatMs: number): void {
    const { log, clock, reports, workloads, store } = this.#options;
    const session: OpenSession = {
      name: 'open',
      epoch,
      nonce,
      heartbeatMs,
      sequence: 0n,
      sinceMs: clock.now(),
      beat: 'due',
      cancelHeartbeat: () => undefined,
    };
    this.#become(session);
    log.info({ epoch: Number(epoch), heartbeatMs }, 'session begun');
    this.#delivery.open(epoch, nonce);
    const nodes = workloads.cluster?.leads ? workloads.cluster.nodes() : undefined;
    reports.open({ epoch, nonce }, [...workloads.snapshot(), ...store.unsupported()], nodes);
    for (const listener of this.#openListeners) listener(true);
    void this.#heartbeat(session);
  }

  async #heartbeat(session: OpenSession): Promise<void> {
    const { link, address, clock, store, reports, log, verifier } = this.#options;
    const begun = clock.now();
    session.beat = 'making';
    const status = await this.#status();
    if (this.#state !== session) return;
    session.sequence += 1n;
    const heartbeat = create(HeartbeatSchema, {
      epoch: session.epoch,
      sequence: session.sequence,
      appliedRevision: store.revision,
      digest: store.digest,
      reportsPending: reports.pending,
      status,
      time: timestampFromMs(clock.now()),
      session: session.nonce,
      refusedMessages: verifier.refused,
    });
    try {
      link.publish(upSubject(address, 'heartbeat'), toBinary(HeartbeatSchema, heartbeat));
    } catch (error) {
      log.debug({ error: (error as Error).message }, 'a heartbeat could not be sent');
    }
    const again = this.#beatAgain(session);
    session.beat = 'due';
    // Bounded both ways: the clock may have been set meanwhile.
    const waitMs = again ? 0 : Math.min(session.heartbeatMs, Math.max(0, session.heartbeatMs - (clock.now() - begun)));
    session.cancelHeartbeat = clock.after(waitMs, () => void this.#heartbeat(session));
  }

  /** Whether something changed while the heartbeat was being made. */
  #beatAgain({ beat }: OpenSession): boolean {
    return beat === 'again';
  }

  /** There is news of the node: the next heartbeat is now. */
  #hurry(): void {
    const session = this.#state;
    if (session.name !== 'open') return;
    if (session.beat !== 'due') {
      session.beat = 'again';
      return;
    }
    session.cancelHeartbeat();
    void this.#heartbeat(session);
  }

  /** The node's status now, or the last one when the engine takes its time. */
  async #status(): Promise<NodeStatus> {
    const { workloads, clock, log } = this.#options;
    const late = Promise.withResolvers<undefined>();
    const cancel = clock.after(statusPatienceMs, () => late.resolve(undefined));
    try {
      this.#lastStatus = (await Promise.race([workloads.nodeStatus(), late.promise])) ?? this.#lastStatus;
    } catch (error) {
      log.error({ error: (error as Error).message }, 'no status of the node');
    } finally {
      cancel();
    }
    const conditions = this.#conditions();
    if (conditions.length === 0) return this.#lastStatus;
    return { ...this.#lastStatus, conditions: [...this.#lastStatus.conditions, ...conditions] };
  }

  /** What is wrong with this half of the agent. */
  #conditions(): NodeCondition[] {
    const { store, verifier } = this.#options;
    const conditions: NodeCondition[] = [];
    const add = (type: string, reason: string, message: string) => {
      const status = ConditionStatus.TRUE;
      conditions.push({ $typeName: 'baykeeper.v1.NodeCondition', type, status, reason, message });
    };
    if (store.problem) add('StateNotKept', 'WriteFailed', store.problem);
    if (store.refusal) add('StateRefused', 'NotVerified', store.refusal);
    const { problem } = verifier;
    if (problem) add(messagesRefused, problem.reason, problem.message);
    return conditions;
  }

  #wait(why: Refusal): void {
    if (this.#stopped) return;
    const { clock, random, log } = this.#options;
    let backoff = this.#backoffs.get(why);
    if (!backoff) {
      backoff = new Backoff({ ...patience[why], random });
      this.#backoffs.set(why, backoff);
    }
    const waitMs = backoff.nextMs();
    log.debug({ why, waitMs }, 'waiting before the next hello');
    const cancel = clock.after(waitMs, () => {
      if (this.#options.link.connected) void this.#greet();
      else this.#become({ name: 'offline' });
    });
    this.#become({ name: 'waiting', why, cancel });
  }

  #become(next: SessionState): void {
    const last = this.#state;
    this.#state = next;
    if (last.name === 'waiting') last.cancel();
    if (last.name !== 'open') return;
    last.cancelHeartbeat();
    if (this.#options.clock.now() - last.sinceMs >= settledMs) this.#backoffs.clear();
    this.#delivery.close();
    this.#options.reports.close();
    for (const listener of this.#openListeners) listener(false);
  }
}

/** A heartbeat interval that can be, whatever was asked for. */
const bounded = (ms: number): number => (Number.isFinite(ms) && ms > 0 ? Math.min(Math.max(ms, 250), 300_000) : 10_000);
