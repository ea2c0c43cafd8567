import { clone, create, type DescEnum } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type Bay, BayPhase, BayStatusSchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerPhase, ContainerPhaseSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { DeliverySchema } from '../../proto/gen/baykeeper/v1/delivery_pb.js';
import {
  ConditionStatus,
  type Node,
  type NodeCondition,
  NodeConditionSchema,
  NodePhase,
  type NodeStatus,
  NodeStatusSchema,
} from '../../proto/gen/baykeeper/v1/node_pb.js';
import { PodPhase, PodPhaseSchema } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import {
  ReplicationControllerPhase,
  ReplicationControllerPhaseSchema,
} from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ServicePhase, ServicePhaseSchema } from '../../proto/gen/baykeeper/v1/service_pb.js';
import type { Freshness } from './freshness.ts';
import type { AssignedKind, KindName, Kinds } from './kinds.ts';
import type { AssignedStatus, ObjectMessage } from './object.ts';
import { decode, type StoredRecord } from './record.ts';
import { lastHeard, nodeSilent, silenceOf } from './silence.ts';

/**
 * Objects as they are shown: what is stored, and what is known of how fresh it is. Every answer goes through here, so that status past its trust
 * reads UNKNOWN on every surface, without a write.
 */

/** What presenting needs to know beside the object. */
export interface Surroundings {
  /** Undefined: nothing heard of the node since this control plane started. */
  liveness(assigneeUid: string): Freshness | undefined;
  /** Uid of the node whose agent leads a Kubernetes bay. */
  leaderOf(bayUid: string): string | undefined;
  /** The nodes of a bay. */
  nodesOf(bayUid: string): readonly NodeFacts[];
}

/** A node, as far as its bay's status needs it. */
export interface NodeFacts {
  readonly uid: string;
  readonly revoked: boolean;
  readonly deleting: boolean;
  /** Whether it has ever been heard from. */
  readonly heard: boolean;
  /** Whether containers can go to it beside a cluster. */
  readonly docker: boolean;
  /** Of a node that has no agent of its own: what the agent that leads its bay says of it. */
  readonly reported: { readonly ready: boolean } | undefined;
}

/** A stored object as it is shown now. */
export function present<K extends KindName>(kind: K, stored: StoredRecord, around: Surroundings): Kinds[K] {
  return presentMessage(kind, decode(kind, stored), stored, around);
}

/** The same, for one that is decoded already. Changes and returns `object`. */
export function presentMessage<T extends ObjectMessage>(
  kind: KindName,
  object: T,
  stored: Pick<StoredRecord, 'uid' | 'bayUid' | 'assigneeUid' | 'epoch' | 'deleting'>,
  around: Surroundings,
): T {
  if (kind === 'Node') presentAnyNode(object as ObjectMessage as Node, stored, around);
  else if (kind === 'Bay') presentBay(object as ObjectMessage as Bay, around);
  else if (kind !== 'BayModel') presentAssigned(kind, object, stored, around);
  return object;
}

const phases: Readonly<
  Record<
    AssignedKind,
    {
      readonly schema: DescEnum;
      readonly unknown: number;
      readonly deleting: number;
      readonly pending: number;
      readonly failed: number;
    }
  >
> = {
  Container: {
    schema: ContainerPhaseSchema,
    unknown: ContainerPhase.UNKNOWN,
    deleting: ContainerPhase.DELETING,
    pending: ContainerPhase.PENDING,
    failed: ContainerPhase.FAILED,
  },
  Pod: {
    schema: PodPhaseSchema,
    unknown: PodPhase.UNKNOWN,
    deleting: PodPhase.DELETING,
    pending: PodPhase.PENDING,
    failed: PodPhase.FAILED,
  },
  Service: {
    schema: ServicePhaseSchema,
    unknown: ServicePhase.UNKNOWN,
    deleting: ServicePhase.DELETING,
    pending: ServicePhase.PENDING,
    failed: ServicePhase.FAILED,
  },
  ReplicationController: {
    schema: ReplicationControllerPhaseSchema,
    unknown: ReplicationControllerPhase.UNKNOWN,
    deleting: ReplicationControllerPhase.DELETING,
    pending: ReplicationControllerPhase.PENDING,
    failed: ReplicationControllerPhase.FAILED,
  },
};

/** The numbers of the phases that rules speak of. */
export const phasesOf = (kind: AssignedKind) => phases[kind];

/** Short name of a phase: RUNNING. */
export function phaseName(kind: AssignedKind, phase: number): string {
  return shortEnumName(phases[kind].schema, phase);
}

/** The value's name without the prefix that all values of its enum share. */
export function shortEnumName(schema: DescEnum, value: number): string {
  const name = schema.value[value]?.name ?? String(value);
  const prefix = schema.sharedPrefix?.toUpperCase() ?? '';
  return prefix && name.startsWith(prefix) ? name.slice(prefix.length) : name;
}

function presentAssigned(
  kind: AssignedKind,
  object: ObjectMessage,
  stored: Pick<StoredRecord, 'assigneeUid' | 'bayUid' | 'deleting'>,
  around: Surroundings,
): void {
  const status = object.status as AssignedStatus | undefined;
  if (!status) return;
  const names = phases[kind];
  const live = stored.assigneeUid ? around.liveness(stored.assigneeUid) : undefined;
  const reported = status.delivery !== undefined && status.delivery.observedGeneration > 0n;
  if (live && reported) {
    status.delivery ??= create(DeliverySchema);
    status.delivery.confirmTime = timestampFromMs(live.confirmTimeMs);
    status.delivery.trustUntil = timestampFromMs(live.trustUntilMs);
  }
  if (stored.deleting && status.phase !== names.deleting) {
    status.phase = names.deleting;
    status.reason = '';
    status.message = 'Its deletion is asked for.';
  }
  if (!stored.assigneeUid || live?.fresh) return;
  const silence = silenceOf(stored, status.node, around);
  if (!reported && !stored.deleting) {
    // That it was accepted and waits is the control plane's own word, and stays true while the node is away.
    if (status.phase !== names.pending) return;
    status.reason = silence.reason;
    status.message = `It waits for its node. ${silence.message}`;
    return;
  }
  status.lastKnownPhase = status.phase;
  status.phase = names.unknown;
  const last = phaseName(kind, status.lastKnownPhase);
  const why = status.reason ? ` (${status.reason})` : '';
  status.reason = silence.reason;
  status.message = `${silence.message} The last that is known of it is ${last}${why}.`;
}

function presentAnyNode(
  node: Node,
  stored: Pick<StoredRecord, 'uid' | 'bayUid' | 'epoch'>,
  around: Surroundings,
): void {
  if (node.status?.reportedBy) {
    presentReportedNode(node.status, stored.bayUid, around);
    return;
  }
  presentNode(node, stored, around.liveness(stored.uid));
  // Whoever led before says so still: only the newest counts.
  if (node.status?.leader) node.status.leader = around.leaderOf(stored.bayUid) === stored.uid;
}

/** A cluster's node without an agent of its own is as fresh as the word of the agent that leads the bay. */
function presentReportedNode(status: NodeStatus, bayUid: string, around: Surroundings): void {
  const live = around.liveness(bayUid);
  if (live) {
    status.confirmTime = timestampFromMs(live.confirmTimeMs);
    status.trustUntil = timestampFromMs(live.trustUntilMs);
  }
  if (live?.fresh) return;
  status.phase = NodePhase.UNKNOWN;
  const { reason, message } = silenceOf({ assigneeUid: bayUid, bayUid }, status.reportedBy, around);
  status.reason = reason;
  status.message = `Its cluster is watched from another node. ${message}`;
  status.conditions = status.conditions.map((condition) => unknownCondition(condition, status.message));
}

function presentNode(node: Node, stored: Pick<StoredRecord, 'epoch'>, live: Freshness | undefined): void {
  node.status ??= create(NodeStatusSchema);
  const status: NodeStatus = node.status;
  const name = node.metadata?.name ?? '';
  status.sessionEpoch = BigInt(stored.epoch);
  status.connected = live?.connected ?? false;
  if (live) {
    const said = live.status;
    status.confirmTime = live.confirmTimeMs > 0 ? timestampFromMs(live.confirmTimeMs) : undefined;
    status.trustUntil = live.confirmTimeMs > 0 ? timestampFromMs(live.trustUntilMs) : undefined;
    status.appliedRevision = BigInt(live.appliedRevision);
    status.assignedRevision = BigInt(live.assignedRevision);
    if (said.observeTime) status.observeTime = said.observeTime;
    if (said.info) status.info = said.info;
    if (said.usage) status.usage = said.usage;
    if (said.agentVersion) status.agentVersion = said.agentVersion;
    if (said.conditions.length > 0) status.conditions = mergeConditions(status.conditions, said.conditions);
  }
  const ready = status.conditions.find((condition) => condition.type === 'Ready');
  status.phase = nodePhase(node, stored, live, ready);
  status.reason = '';
  status.message = '';
  switch (status.phase) {
    case NodePhase.REVOKED:
      status.reason = 'Revoked';
      status.message = 'Its credentials no longer count. What runs on it goes on running, out of sight.';
      break;
    case NodePhase.PENDING:
      status.message = 'Enrolled, and not heard from yet.';
      break;
    case NodePhase.UNKNOWN:
      status.reason = nodeSilent;
      status.message = lastHeard(name, live);
      break;
    case NodePhase.NOT_READY:
      status.reason = ready?.reason || said(live)?.reason || 'NotReady';
      status.message = ready?.message || said(live)?.message || 'Its agent says that it is not ready.';
  }
  if (status.phase === NodePhase.UNKNOWN || status.phase === NodePhase.REVOKED) {
    status.conditions = status.conditions.map((condition) => unknownCondition(condition, status.message));
  }
}

const said = (live: Freshness | undefined): NodeStatus | undefined => live?.status;

/** What the control plane has written itself stays, unless the agent has something to say on the same. */
function mergeConditions(stored: readonly NodeCondition[], reported: readonly NodeCondition[]): NodeCondition[] {
  const types = new Set(reported.map((condition) => condition.type));
  // The agent's are in memory and shown to everybody: each answer gets its own.
  return [
    ...reported.map((condition) => clone(NodeConditionSchema, condition)),
    ...stored.filter((condition) => !types.has(condition.type)),
  ];
}

function unknownCondition(condition: NodeCondition, message: string): NodeCondition {
  const status = ConditionStatus.UNKNOWN;
  return create(NodeConditionSchema, { ...condition, status, reason: nodeSilent, message });
}

function nodePhase(
  node: Node,
  stored: Pick<StoredRecord, 'epoch'>,
  live: Freshness | undefined,
  ready: NodeCondition | undefined,
): NodePhase {
  if (node.spec?.revoked) return NodePhase.REVOKED;
  if (live?.fresh) {
    const isReady = ready ? ready.status === ConditionStatus.TRUE : live.status.phase === NodePhase.READY;
    return isReady ? NodePhase.READY : NodePhase.NOT_READY;
  }
  return stored.epoch === 0 && !live ? NodePhase.PENDING : NodePhase.UNKNOWN;
}

function presentBay(bay: Bay, around: Surroundings): void {
  // A revoked node is no longer part of what the bay can do.
  const nodes = around.nodesOf(bay.metadata?.uid ?? '').filter((node) => !node.revoked);
  const endpoint = bay.status?.endpoint ?? '';
  let ready = 0;
  let fresh = 0;
  let heard = 0;
  for (const node of nodes) {
    const live = around.liveness(node.reported ? (bay.metadata?.uid ?? '') : node.uid);
    if (node.heard || live) heard += 1;
    if (!live?.fresh) continue;
    fresh += 1;
    if (node.reported) {
      if (node.reported.ready) ready += 1;
      continue;
    }
    const condition = live.status.conditions.find((candidate) => candidate.type === 'Ready');
    if (condition ? condition.status === ConditionStatus.TRUE : live.status.phase === NodePhase.READY) ready += 1;
  }
  const status = create(BayStatusSchema, { endpoint, nodes: nodes.length, nodesReady: ready });
  const name = bay.metadata?.name ?? '';
  if (bay.metadata?.deleteTime) {
    status.phase = BayPhase.DELETING;
    status.message = 'Its deletion is asked for.';
  } else if (heard === 0) {
    status.phase = BayPhase.PENDING;
    status.reason = nodes.length === 0 ? 'NoNodes' : 'NodesPending';
    status.message =
      nodes.length === 0
        ? `No node has joined yet: \`bayctl bay join-command ${name}\` prints what to run on one.`
        : 'No node has been heard from yet.';
  } else if (fresh === 0) {
    status.phase = BayPhase.UNKNOWN;
    status.reason = nodeSilent;
    status.message = 'Nothing is heard from any of its nodes.';
  } else if (ready === nodes.length) status.phase = BayPhase.READY;
  else {
    status.phase = BayPhase.DEGRADED;
    status.reason = 'NodesNotReady';
    status.message = `${ready} of ${nodes.length} nodes ${nodes.length === 1 ? 'is' : 'are'} ready.`;
  }
  bay.status = status;
}
