import type { JsonObject } from '@bufbuild/protobuf';
import type { CheckRefusal } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type {
  ExecuteResponse,
  ExecuteStart,
  LogsRequest,
  LogsResponse,
  TerminalSize,
} from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import type { NodeStatus } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type {
  ExecutePodResponse,
  ExecutePodStart,
  PodLogsRequest,
  PodLogsResponse,
} from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import type { NodeAddress } from '../../proto/subjects.ts';
import type { AuditedCall } from '../audit/port.ts';
import type { AssignedKind } from '../domain/kinds.ts';
import type { ObjectMessage } from '../domain/object.ts';

/** What is known of each node from its agent's heartbeats, in memory only. */
export interface Liveness {
  /** Undefined: nothing heard since this control plane started. With the uid of a Kubernetes bay: of the agent that leads it. */
  node(nodeUid: string): NodeLiveness | undefined;
  /** Uid of the node whose agent sees to what is assigned to this node, or to this Kubernetes bay. Undefined: no agent leads the bay. */
  agentOf(assigneeUid: string): string | undefined;
  /** Calls back when what a node (or the leader of a Kubernetes bay) says becomes stale, or is fresh again: all of it reads otherwise now. */
  subscribe(listener: (nodeUid: string) => void): () => void;
}

export interface NodeLiveness {
  /** Whether the agent's words may be believed now. */
  readonly fresh: boolean;
  readonly connected: boolean;
  readonly confirmTimeMs: number;
  readonly trustUntilMs: number;
  readonly appliedRevision: number;
  /** The newest link of the node's chain. */
  readonly assignedRevision: number;
  /** As of the last heartbeat: usage, info and conditions. */
  readonly status: NodeStatus;
}

/** Which node a new object goes to. */
export interface Placement {
  /** Undefined: no node of the bay can take it now; it is placed when one can. `node`: the name of the only one allowed. */
  choose(bayUid: string, node: string): PlacementChoice | undefined;
}
/** A node; or, of a Kubernetes bay, the bay itself, without a name: its agents agree among themselves on who sees to it. */
export interface PlacementChoice {
  readonly uid: string;
  readonly name: string;
}

/** What has been handed to the bus lately. */
export interface Publications {
  /** When this generation was published to its node, in this control plane's life. */
  publishTimeMs(objectUid: string, generation: number): number | undefined;
}

/** Bytes out of (and into) a workload, through the agent that has it. Each ends when `signal` aborts, and frees everything. */
export interface Streams {
  logs(target: StreamTarget, request: LogsRequest, signal: AbortSignal): AsyncIterable<LogsResponse>;
  execute(
    target: StreamTarget,
    start: ExecuteStart,
    input: AsyncIterable<ExecuteInput>,
    signal: AbortSignal,
  ): AsyncIterable<ExecuteResponse>;
  podLogs(target: StreamTarget, request: PodLogsRequest, signal: AbortSignal): AsyncIterable<PodLogsResponse>;
  executePod(
    target: StreamTarget,
    start: ExecutePodStart,
    input: AsyncIterable<ExecuteInput>,
    signal: AbortSignal,
  ): AsyncIterable<ExecutePodResponse>;
}
/** What a cluster would say to an object: its own dry run, by way of the agent that leads the bay. */
export interface Checks {
  /** `object`: with its metadata and spec complete. Rejects with UnavailableError when it cannot be found out. */
  check(target: NodeAddress, kind: AssignedKind, object: ObjectMessage): Promise<Verdict>;
}
export interface Verdict {
  /** Why the cluster refuses it. Undefined: it does not. */
  readonly refusal?: CheckRefusal;
  /** The object as it is in the cluster; undefined where there is none. */
  readonly live?: JsonObject;
  /** As it would be. */
  readonly merged?: JsonObject;
}

export interface StreamTarget extends NodeAddress {
  readonly nodeName: string;
  readonly objectUid: string;
  /** Whose stream it is. */
  readonly call: AuditedCall;
}
export type ExecuteInput =
  | { readonly case: 'stdin'; readonly value: Uint8Array }
  | { readonly case: 'stdinEnd'; readonly value: boolean }
  | { readonly case: 'resize'; readonly value: TerminalSize };
