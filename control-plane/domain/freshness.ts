import type { NodeStatus } from '../../proto/gen/baykeeper/v1/node_pb.js';

/** How far a node's agent may be believed now: `NodeLiveness` of reconcile/port.ts is one. */
export interface Freshness {
  /** Whether the agent's words may be believed now. */
  readonly fresh: boolean;
  /** Whether its connection to the broker is up. */
  readonly connected: boolean;
  readonly confirmTimeMs: number;
  readonly trustUntilMs: number;
  readonly appliedRevision: number;
  /** The newest link of the node's chain. */
  readonly assignedRevision: number;
  /** As of the last heartbeat. */
  readonly status: NodeStatus;
}
