import { type Node, NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { ageColumn, cellOf, confirmed, message, name, type ObjectColumn, reason, status } from './column.ts';

/** The nodes of a Docker bay: each has an agent of its own. */
export const nodeColumns: readonly ObjectColumn[] = [
  name,
  status,
  {
    title: 'CONTAINERS',
    right: true,
    cell: cellOf(NodeSchema, (node) => {
      const { usage } = node.status ?? {};
      return usage ? `${usage.containersRunning}/${usage.containersTotal}` : '';
    }),
  },
  { title: 'VERSION', cell: cellOf(NodeSchema, agentVersion) },
  {
    title: 'ENGINE',
    shrinks: true,
    cell: cellOf(NodeSchema, (node) => {
      const { info } = node.status ?? {};
      return info?.engine ? `${info.engine} ${info.engineVersion}` : '';
    }),
  },
  ageColumn,
  { title: 'ADDRESSES', wide: true, shrinks: true, cell: cellOf(NodeSchema, addresses) },
  { title: 'OS', wide: true, shrinks: true, cell: cellOf(NodeSchema, os) },
  { title: 'KERNEL', wide: true, shrinks: true, cell: cellOf(NodeSchema, kernel) },
  { title: 'ARCH', wide: true, cell: cellOf(NodeSchema, architecture) },
  { title: 'REVISION', wide: true, cell: cellOf(NodeSchema, revision) },
  confirmed,
  reason,
  message,
];

/** The nodes of a Kubernetes cluster, as `kubectl get nodes` has them; then what their agents say, where they have one. */
export const clusterNodeColumns: readonly ObjectColumn[] = [
  name,
  status,
  { title: 'ROLES', cell: cellOf(NodeSchema, (node) => node.status?.cluster?.roles.join(',') ?? '') },
  ageColumn,
  { title: 'VERSION', cell: cellOf(NodeSchema, (node) => node.status?.cluster?.kubeletVersion ?? '') },
  { title: 'AGENT', cell: cellOf(NodeSchema, agent) },
  { title: 'ADDRESSES', wide: true, shrinks: true, cell: cellOf(NodeSchema, addresses) },
  { title: 'OS-IMAGE', wide: true, shrinks: true, cell: cellOf(NodeSchema, os) },
  { title: 'KERNEL-VERSION', wide: true, shrinks: true, cell: cellOf(NodeSchema, kernel) },
  {
    title: 'CONTAINER-RUNTIME',
    wide: true,
    shrinks: true,
    cell: cellOf(NodeSchema, (node) => node.status?.cluster?.containerRuntime ?? ''),
  },
  { title: 'ARCH', wide: true, cell: cellOf(NodeSchema, architecture) },
  { title: 'REVISION', wide: true, cell: cellOf(NodeSchema, revision) },
  confirmed,
  reason,
  message,
];

function agentVersion(node: Node): string {
  return node.status?.agentVersion ?? '';
}

/** `leader` is the one that applies what the bay should have; the others take over when it dies. */
function agent(node: Node): string {
  const { agentVersion: version, leader, reportedBy } = node.status ?? {};
  if (!version || reportedBy) return '';
  return leader ? `${version} (leader)` : version;
}

function addresses(node: Node): string {
  return node.status?.info?.addresses.join(',') ?? '';
}

function os(node: Node): string {
  return node.status?.info?.os ?? '';
}

function kernel(node: Node): string {
  return node.status?.info?.kernelVersion ?? '';
}

function architecture(node: Node): string {
  return node.status?.info?.architecture ?? '';
}

/** What its agent has, of what is meant for it. */
function revision(node: Node): string {
  const { status: own } = node;
  return own && !own.reportedBy ? `${own.appliedRevision}/${own.assignedRevision}` : '';
}
