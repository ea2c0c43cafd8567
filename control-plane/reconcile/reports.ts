import { create } from '@bufbuild/protobuf';
import {
  ErrorReason,
  type NodeReport,
  NodeReportSchema,
  type ObjectReport,
  type Report,
  type ReportReply,
  ReportReplySchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { NodeStatusSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { NodeAddress } from '../../proto/subjects.ts';
import { statusSchema } from '../domain/object.ts';
import { decode } from '../domain/record.ts';
import { forbiddenByPolicy } from '../domain/refusal.ts';
import type { ObjectKey, Store, StoredObject, WriteView } from '../store/port.ts';
import type { Effects } from './effects.ts';
import type { Inventory } from './inventory.ts';
import type { LivenessTracker } from './liveness.ts';
import { nodeKey, takeNode } from './node_reports.ts';
import { kindOfCase, takeObject, type UnwrittenFence } from './object_reports.ts';
import { RefusedError, refuseUnreadable } from './refused.ts';

/** Options of {@link Reporting}. */
export interface ReportingOptions {
  readonly store: Store;
  readonly liveness: LivenessTracker;
  readonly inventory: Inventory;
  readonly effects: Effects;
  readonly clock: { now(): number };
  /** A new UUIDv7. */
  readonly newUid: () => string;
  /** Told of each container that the owner of its node forbids. */
  readonly onForbidden: (bayUid: string, uid: string) => void;
}

/** How many fences of reports that were not written are kept: beyond, the oldest go. */
const fenceLimit = 100_000;
/** A report with more objects, or more nodes, than this is refused. */
const objectLimit = 1000;
/** More nodes than Kubernetes allows a cluster. */
const clusterLimit = 10_000;

/** A node of the cluster, as the write takes it. */
interface NodeToTake {
  readonly key: ObjectKey;
  readonly uid: string;
  readonly report: NodeReport;
}

/** Takes what agents report into the store. What is not newer than what is there changes nothing (Promise 4). */
export class Reporting {
  readonly #options: ReportingOptions;
  /** The newest word on each object, where it said nothing new and so was not written: by uid. */
  readonly #unwritten = new Map<string, UnwrittenFence>();

  constructor(options: ReportingOptions) {
    this.#options = options;
  }

  /** Resolves once it is on disk. Throws RefusedError when it comes from an older session. */
  async take(address: NodeAddress, report: Report): Promise<ReportReply> {
    refuseImpossible(report);
    const by = this.#options.inventory.node(address.nodeUid);
    const nodes = by ? this.#nodesToTake(by, report) : [];
    const outcomes = await this.#options.store.write({
      reads: [{ uid: address.nodeUid }, ...report.objects.map(({ uid }) => ({ uid })), ...nodes.map(({ key }) => key)],
      apply: (view) => {
        const node = view.get({ uid: address.nodeUid });
        if (node?.kind !== 'Node' || node.epoch !== Number(report.epoch)) {
          throw new RefusedError(ErrorReason.FENCED, `epoch ${report.epoch} is not that of the node's newest session`);
        }
        const { metadata, status } = decode('Node', node);
        const leads = status?.leader ?? false;
        const bay = metadata?.bay ?? '';
        if (leads) this.#takeNodes(view, node, bay, nodes);
        return report.objects.map((object) => ({
          object,
          assigneeUid: view.get({ uid: object.uid })?.assigneeUid ?? '',
          ...takeObject(view, node, leads, report, object, bay, this.#unwritten.get(object.uid)),
        }));
      },
    });
    this.#options.effects.record(outcomes.flatMap(({ effect }) => effect ?? []));
    const fence = { epoch: Number(report.epoch), sequence: Number(report.sequence) };
    for (const { object, assigneeUid, outcome } of outcomes) {
      if (outcome === 'unchanged') this.#remember(object.uid, { ...fence, assigneeUid });
      const isHeard = outcome === 'taken' || outcome === 'unchanged';
      if (isHeard && isForbidden(object)) this.#options.onForbidden(address.bayUid, object.uid);
    }
    const unknownUids = outcomes.filter(({ outcome }) => outcome === 'unknown').map(({ object }) => object.uid);
    // With others still to come, silence about an object does not mean that it has not changed.
    if (report.pending === 0) this.#options.liveness.confirm(address.nodeUid);
    return create(ReportReplySchema, { unknownUids });
  }

  /** What a report says of the cluster's nodes; with the list of all of them, that the others are gone. */
  #nodesToTake(by: Pick<StoredObject, 'project' | 'bayUid'>, report: Report): NodeToTake[] {
    const { inventory, newUid } = this.#options;
    const reports = [...report.nodes];
    if (reports.length > 0) {
      // Whatever an agent makes up, it does not fill the store: quotas do not hold for what is reported.
      const names = new Set(inventory.nodesOfBay(by.bayUid).map(({ name }) => name));
      for (const { name, removed } of reports) if (!removed) names.add(name);
      refuseLargeCluster(names.size);
    }
    if (report.allNodes) {
      const there = new Set([...report.allNodes.names, ...reports.map(({ name }) => name)]);
      for (const { name, publicKey } of inventory.nodesOfBay(by.bayUid)) {
        if (!publicKey && !there.has(name)) reports.push(create(NodeReportSchema, { name, removed: true }));
      }
    }
    return reports.flatMap((one) => {
      const key = nodeKey(by, one.name);
      return key ? [{ key, uid: newUid(), report: one }] : [];
    });
  }

  #takeNodes(view: WriteView, by: StoredObject, bay: string, nodes: readonly NodeToTake[]): void {
    const nowMs = this.#options.clock.now();
    for (const { key, uid, report } of nodes) takeNode(view, key, report, { by, bay, uid, nowMs });
  }

  #remember(uid: string, fence: UnwrittenFence): void {
    this.#unwritten.delete(uid);
    this.#unwritten.set(uid, fence);
    for (const oldest of this.#unwritten.keys()) {
      if (this.#unwritten.size <= fenceLimit) break;
      this.#unwritten.delete(oldest);
    }
  }
}

function refuseLargeCluster(nodes: number): void {
  if (nodes > clusterLimit)
    throw new RefusedError(ErrorReason.INVALID, `more than ${clusterLimit} nodes in one cluster`);
}

const isForbidden = ({ status }: ObjectReport): boolean =>
  status.case === 'container' && status.value.reason === forbiddenByPolicy;

function refuseImpossible(report: Report): void {
  if (report.objects.length > objectLimit || report.nodes.length > objectLimit) {
    throw new RefusedError(ErrorReason.INVALID, `more than ${objectLimit} objects in one report`);
  }
  refuseLargeCluster(report.allNodes?.names.length ?? 0);
  for (const { status } of report.objects) {
    if (status.case) refuseUnreadable(statusSchema(kindOfCase[status.case]), status.value);
  }
  for (const { status } of report.nodes) if (status) refuseUnreadable(NodeStatusSchema, status);
}
