import { create, equals } from '@bufbuild/protobuf';
import type { NodeReport } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import {
  type ClusterNode,
  ClusterNodeSchema,
  type Node,
  NodePhase,
  NodeSchema,
  type NodeStatus,
  NodeStatusSchema,
} from '../../proto/gen/baykeeper/v1/node_pb.js';
import { newObject } from '../domain/lifecycle.ts';
import { decode, encode, newRecord } from '../domain/record.ts';
import type { ObjectKey, StoredObject, WriteView } from '../store/port.ts';

/** What taking a node of a cluster needs to know besides. */
export interface NodeReportContext {
  /** The agent's own node, in the bay that the cluster's nodes are in. */
  readonly by: StoredObject;
  /** Name of the bay. */
  readonly bay: string;
  /** For a node that is new. */
  readonly uid: string;
  readonly nowMs: number;
}

/** Names as the contract has them; a cluster may know others. */
const nodeName = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;
const conditionLimit = 32;
const resourceLimit = 64;

/** Where a node of the cluster is found. Undefined: it has a name that none of ours can have. */
export function nodeKey(by: Pick<StoredObject, 'project' | 'bayUid'>, name: string): ObjectKey | undefined {
  if (!nodeName.test(name)) return undefined;
  return { kind: 'Node', project: by.project, bayUid: by.bayUid, namespace: '', name };
}

/**
 * Takes what the cluster says of one of its nodes. One that runs an agent of its own speaks for itself, and bears the cluster's word beside; others
 * come and go with the cluster. `key` must be among the reads of the write.
 */
export function takeNode(view: WriteView, key: ObjectKey, report: NodeReport, context: NodeReportContext): void {
  const { by, bay, nowMs } = context;
  const stored = view.get(key);
  const node = stored && decode('Node', stored);
  const enrolled = Boolean(node?.spec?.publicKey);
  if (report.removed) {
    if (stored && !enrolled) view.remove(stored.uid, '');
    else if (stored && node?.status?.cluster) {
      node.status.cluster = undefined;
      view.put(encode('Node', node, stored), '');
    }
    return;
  }
  const said = report.status ?? create(NodeStatusSchema);
  const cluster = said.cluster && bounded(said.cluster);
  if (stored && node && enrolled) {
    node.status ??= create(NodeStatusSchema);
    if (sameCluster(node.status.cluster, cluster)) return;
    node.status.cluster = cluster;
    view.put(encode('Node', node, stored), '');
    return;
  }
  const status = create(NodeStatusSchema, {
    phase: said.phase === NodePhase.READY ? NodePhase.READY : NodePhase.NOT_READY,
    reason: said.reason.slice(0, 128),
    message: said.message.slice(0, 4096),
    conditions: said.conditions.slice(0, conditionLimit),
    observeTime: said.observeTime,
    info: said.info,
    usage: said.usage,
    cluster,
    reportedBy: by.name,
  });
  if (stored && node) {
    if (node.status && equals(NodeStatusSchema, timeless(node.status), timeless(status))) return;
    node.status = status;
    view.put(encode('Node', node, stored), '');
    return;
  }
  const made = { uid: context.uid, project: by.project, bay, nowMs };
  const fresh: Node = newObject('Node', create(NodeSchema, { metadata: { name: report.name } }), made);
  fresh.status = status;
  view.put(encode('Node', fresh, newRecord(by.bayUid, '')), '');
}

const timeless = (status: NodeStatus): NodeStatus => ({ ...status, observeTime: undefined });

function sameCluster(a: ClusterNode | undefined, b: ClusterNode | undefined): boolean {
  return a === undefined || b === undefined ? a === b : equals(ClusterNodeSchema, a, b);
}

const bounded = (cluster: ClusterNode): ClusterNode => ({
  ...cluster,
  roles: cluster.roles.slice(0, 16),
  capacity: firstOf(cluster.capacity),
  allocatable: firstOf(cluster.allocatable),
});

const firstOf = (map: { readonly [name: string]: string }): { [name: string]: string } =>
  Object.fromEntries(Object.entries(map).slice(0, resourceLimit));
