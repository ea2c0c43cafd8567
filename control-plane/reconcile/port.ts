import type {
  ExecuteResponse,
  ExecuteStart,
  LogsRequest,
  LogsResponse,
  TerminalSize,
} from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import type { NodeStatus } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { NodeAddress } from '../../proto/subjects.ts';

/** What is known of each node from its agent's heartbeats, in memory only. */
export interface Liveness {
  /** Undefined: nothing heard since this control plane started. */
  node(nodeUid: string): NodeLiveness | undefined;
  /** Calls back when what a node says becomes stale, or is fresh again: everything on it reads otherwise now. */
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
  choose(bayUid: string, node: string): { readonly uid: string; readonly name: string } | undefined;
}

/** What has been handed to the bus lately. */
export interface Publications {
  /** When this generation was published to its node, in this control plane's life. */
  publishTimeMs(objectUid: string, generation: number): number | undefined;
}

/** Bytes out of (and into) a container, through its node's agent. Each ends when `signal` aborts, and frees everything. */
export interface Streams {
  logs(target: StreamTarget, request: LogsRequest, signal: AbortSignal): AsyncIterable<LogsResponse>;
  execute(
    target: StreamTarget,
    start: ExecuteStart,
    input: AsyncIterable<ExecuteInput>,
    signal: AbortSignal,
  ): AsyncIterable<ExecuteResponse>;
}
export interface StreamTarget extends NodeAddress {
  readonly nodeName: string;
  readonly objectUid: string;
}
export type ExecuteInput =
  | { readonly case: 'stdin'; readonly value: Uint8Array }
  | { readonly case: 'stdinEnd'; readonly value: boolean }
  | { readonly case: 'resize'; readonly value: TerminalSize };
