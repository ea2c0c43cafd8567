import type { JsonObject } from '@bufbuild/protobuf';
import type { Assignment, NodeReport, ObjectReport } from '../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { ExecuteStart, LogsRequest, TerminalSize } from '../proto/gen/baykeeper/v1/container_service_pb.js';
import type { NodeStatus } from '../proto/gen/baykeeper/v1/node_pb.js';
import type { ExecutePodStart, PodLogsRequest } from '../proto/gen/baykeeper/v1/pod_service_pb.js';

/**
 * What the two halves of the agent know of each other. One half talks to the control plane (link, session, state, report), the other to the
 * engine (plan, execute, loop, drivers). Desired state goes one way, reports the other.
 */

/** The last desired state that was verified. It is on disk before anybody acts on it. */
export interface DesiredState {
  /**
   * Whether this is known to be all that the node should have: a complete snapshot was verified, and every change since. Until it is,
   * nothing may be removed but what `objects` (a DELETE) and `graves` name.
   */
  readonly complete: boolean;
  readonly objects: ReadonlyMap<string, DesiredObject>;
  /** Uids that are no longer in the set, and of which something may still be on the node: to be removed. */
  readonly graves: ReadonlySet<string>;
}

export interface DesiredObject {
  /** `op` is PUT or DELETE. */
  readonly assignment: Assignment;
  /** When the control plane published it, and when it was on disk here. */
  readonly publishTimeMs: number;
  readonly receiveTimeMs: number;
}

/** The half that talks to the control plane, as the other half sees it. */
export interface Desired {
  readonly current: DesiredState;
  /** Calls back after each change. */
  subscribe(listener: (changedUids: readonly string[]) => void): () => void;
  /** Nothing of this one is left on the node. Safe to repeat. */
  buried(uid: string): Promise<void>;
}

/** Where the loop puts what it has seen. Latest wins per object; resent until acknowledged. */
export interface Reports {
  put(report: ObjectReport): void;
}

/** The same, for an agent that leads a Kubernetes bay. */
export interface ClusterReports extends Reports {
  putNode(report: NodeReport): void;
  /** Every node that the cluster has: others that were reported are gone. */
  putNodes(reports: readonly NodeReport[]): void;
}

/** The half that talks to the engine, as the other half sees it. */
export interface Workloads {
  /** What every object looks like now: reported anew at the start of each session. */
  snapshot(): readonly ObjectReport[];
  /** How many objects of those that this agent sees to were not looked at yet. Undefined: none. */
  readonly unseen?: number;
  /** For a heartbeat: phase, conditions, info and usage. Never rejects: an engine that is away is a condition. */
  nodeStatus(): Promise<NodeStatus>;
  /** Calls back when `nodeStatus` has something to say that should not wait for the next heartbeat. Returns what ends that. */
  onNodeChange?(listener: () => void): () => void;
  openLogs(objectUid: string, request: LogsRequest, sink: StreamSink): Promise<OpenStream>;
  openExecute(objectUid: string, start: ExecuteStart, sink: StreamSink): Promise<OpenStream>;
  /** Undefined on a Docker bay. */
  readonly cluster?: Cluster;
}

/** What the engine half of a Kubernetes bay's agent does besides. */
export interface Cluster {
  /** Whether this agent is the one of the bay's that sees to what the bay shares. Only then does it report on that. */
  readonly leads: boolean;
  /** Calls back when that changes. Returns what ends it. */
  onLeads(listener: () => void): () => void;
  /** Every node of the cluster: reported anew at the start of each session that leads. Undefined until the cluster has told. */
  nodes(): readonly NodeReport[] | undefined;
  /** What would the cluster say to this object? Nothing is changed. Rejects with StreamError when it cannot be found out. */
  check(assignment: Assignment): Promise<Verdict>;
  openPodLogs(objectUid: string, request: PodLogsRequest, sink: StreamSink): Promise<OpenStream>;
  openPodExecute(objectUid: string, start: ExecutePodStart, sink: StreamSink): Promise<OpenStream>;
}

/** The outcome of a cluster's own dry run. */
export interface Verdict {
  /** Unset: the cluster takes it. */
  readonly refusal?: {
    /** A gRPC code. */
    readonly code: number;
    /** As in an object's status. */
    readonly reason: string;
    /** The cluster's own words. */
    readonly message: string;
    /** Path of the field that is wrong; empty: no single one. */
    readonly field: string;
  };
  /** The object as it is in the cluster; undefined where there is none. */
  readonly live?: JsonObject;
  /** As it would be; undefined when it is refused. */
  readonly merged?: JsonObject;
}

/** Takes the output of a stream. A call resolves when there is room for more: the producer waits for it, and reads no further meanwhile. */
export interface StreamSink {
  stdout(data: Uint8Array): Promise<void>;
  stderr(data: Uint8Array): Promise<void>;
  /** The last call. */
  end(result: { readonly exitCode?: number; readonly error?: string }): void;
}

/** An open stream, for the side that consumes it. */
export interface OpenStream {
  /** Input. Resolves when it has been taken. */
  write(data: Uint8Array): Promise<void>;
  endInput(): void;
  resize(size: TerminalSize): void;
  /** Nobody listens any more: frees everything, a process started by it included. Safe to repeat. */
  close(): void;
}

/** Thrown by `open…`: why there can be no stream. */
export class StreamError extends Error {
  override readonly name = 'StreamError';
  readonly kind: 'not-found' | 'not-running' | 'engine-unavailable' | 'invalid' | 'forbidden';
  constructor(kind: StreamError['kind'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}
