import { create } from '@bufbuild/protobuf';
import { type NodeReport, NodeReportSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import {
  ConditionStatus,
  type NodeCondition,
  NodeConditionSchema,
  NodePhase,
  NodeStatusSchema,
  type NodeUsage,
  NodeUsageSchema,
} from '../../proto/gen/baykeeper/v1/node_pb.js';
import { timestampAt } from '../delivery.ts';
import type { ClusterObject } from '../drivers/cluster_driver.ts';
import { fieldsOf, listOf, text } from './json_fields.ts';
import { cpuCores, memoryBytes } from './quantity.ts';

/** How a cluster's Node reads as a status. Pure. */

/** What is kept of a node of the cluster. */
export interface ClusterNodeView {
  readonly name: string;
  readonly report: NodeReport;
  /** The same for two views that say the same, whenever they say it. */
  readonly key: string;
  /** Of what is allocatable: what its usage is measured by. */
  readonly cpus: number;
}

/** What a metrics server says of a node. */
export interface NodeMetrics {
  /** In cores. */
  readonly cpu: number;
  readonly memoryBytes: number;
}

const conditionStatuses: Readonly<Record<string, ConditionStatus>> = {
  True: ConditionStatus.TRUE,
  False: ConditionStatus.FALSE,
};

/** As Node.js names them. */
const architectures: Readonly<Record<string, string>> = { amd64: 'x64', '386': 'ia32', arm64: 'arm64', arm: 'arm' };

const roleLabel = 'node-role.kubernetes.io/';
/** `master` is what control planes were called before Kubernetes 1.20. */
const roleNames: Readonly<Record<string, string>> = { master: 'control-plane' };

export function nodeViewOf(object: ClusterObject, nowMs: number): ClusterNodeView {
  const { metadata } = object;
  const spec = fieldsOf(object.spec);
  const status = fieldsOf(object.status);
  const info = fieldsOf(status.nodeInfo);
  const capacity = quantitiesOf(status.capacity);
  const allocatable = quantitiesOf(status.allocatable);
  const conditions = listOf(status.conditions).map(conditionOf);
  const ready = conditions.find(({ type }) => type === 'Ready');
  const isReady = ready?.status === ConditionStatus.TRUE;
  const addresses = listOf(status.addresses);
  const cluster = {
    roles: rolesOf(metadata.labels ?? {}),
    capacity,
    allocatable,
    kubeletVersion: text(info.kubeletVersion),
    containerRuntime: text(info.containerRuntimeVersion),
    unschedulable: spec.unschedulable === true,
    clusterUid: metadata.uid,
  };
  const report = create(NodeReportSchema, {
    name: metadata.name,
    status: create(NodeStatusSchema, {
      phase: isReady ? NodePhase.READY : NodePhase.NOT_READY,
      reason: isReady ? '' : ready?.reason || 'NoCondition',
      message: isReady ? '' : ready?.message || 'its kubelet has said nothing yet',
      conditions,
      observeTime: timestampAt(nowMs),
      info: {
        hostname: text(addresses.find(({ type }) => type === 'Hostname')?.address) || metadata.name,
        os: text(info.osImage),
        kernelVersion: text(info.kernelVersion),
        architecture: architectures[text(info.architecture)] ?? text(info.architecture),
        engine: 'kubernetes',
        engineVersion: text(info.kubeletVersion),
        cpus: Math.floor(cpuCores(capacity.cpu)),
        memoryBytes: BigInt(memoryBytes(capacity.memory)),
        addresses: addresses.filter(({ type }) => type !== 'Hostname').map(({ address }) => text(address)),
      },
      cluster,
    }),
  });
  const { phase, reason, message, info: nodeInfo } = report.status ?? {};
  // A kubelet says all of this anew every few seconds or minutes, with another time.
  const key = JSON.stringify(
    [metadata.name, phase, reason, message, conditions, nodeInfo, cluster],
    (name, value: unknown) =>
      typeof value === 'bigint' ? String(value) : name === 'lastHeartbeatTime' ? undefined : value,
  );
  return { name: metadata.name, report, key, cpus: cpuCores(allocatable.cpu ?? capacity.cpu) };
}

/** The report with what the node uses, where that is known. */
export function withUsage(view: ClusterNodeView, metrics: NodeMetrics | undefined): NodeReport {
  const { report, cpus } = view;
  if (!metrics || !report.status) return report;
  const usage: NodeUsage = create(NodeUsageSchema, {
    cpuPercent: cpus > 0 ? Math.min(100, Math.round((10_000 * metrics.cpu) / cpus) / 100) : 0,
    memoryUsedBytes: BigInt(metrics.memoryBytes),
  });
  return create(NodeReportSchema, { ...report, status: { ...report.status, usage } });
}

export function metricsOf({ usage }: ClusterObject): NodeMetrics {
  const { cpu, memory } = quantitiesOf(usage);
  return { cpu: cpuCores(cpu), memoryBytes: memoryBytes(memory) };
}

export const removedNode = (name: string): NodeReport => create(NodeReportSchema, { name, removed: true });

function conditionOf(condition: Readonly<Record<string, unknown>>): NodeCondition {
  const sinceMs = Date.parse(text(condition.lastTransitionTime));
  return create(NodeConditionSchema, {
    type: text(condition.type),
    status: conditionStatuses[text(condition.status)] ?? ConditionStatus.UNKNOWN,
    reason: text(condition.reason),
    message: text(condition.message),
    ...(Number.isNaN(sinceMs) ? {} : { lastTransitionTime: timestampAt(sinceMs) }),
  });
}

function rolesOf(labels: Readonly<Record<string, string>>): string[] {
  const named = Object.keys(labels)
    .filter((key) => key.startsWith(roleLabel))
    .map((key) => key.slice(roleLabel.length))
    .map((role) => roleNames[role] ?? role);
  const roles = [...new Set(named.filter((role) => role !== ''))].sort();
  return roles.length > 0 ? roles : ['worker'];
}

function quantitiesOf(value: unknown): Record<string, string> {
  return Object.fromEntries(
    Object.entries(fieldsOf(value)).flatMap(([key, quantity]) =>
      typeof quantity === 'string' || typeof quantity === 'number' ? [[key, String(quantity)]] : [],
    ),
  );
}
