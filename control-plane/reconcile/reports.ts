import { create, equals } from '@bufbuild/protobuf';
import {
  ErrorReason,
  type ObjectReport,
  type Report,
  type ReportReply,
  ReportReplySchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import {
  type Container,
  ContainerPhase,
  type ContainerStatus,
  ContainerStatusSchema,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { DeliverySchema } from '../../proto/gen/baykeeper/v1/delivery_pb.js';
import type { NodeAddress } from '../../proto/subjects.ts';
import { decode, encode } from '../domain/record.ts';
import type { Store, StoredObject, WriteView } from '../store/port.ts';
import type { LivenessTracker } from './liveness.ts';
import { RefusedError, refuseUnreadable } from './refused.ts';

/** Options of {@link Reporting}. */
export interface ReportingOptions {
  readonly store: Store;
  readonly liveness: LivenessTracker;
}

interface Fence {
  readonly epoch: number;
  readonly sequence: number;
}

/** How many fences of reports that were not written are kept: beyond, the oldest go. */
const fenceLimit = 100_000;
/** A report with more objects than this is refused. */
const objectLimit = 1000;
const textLimit = 4096;

/** Takes what agents report of their objects into the store. What is not newer than what is there changes nothing (Promise 4). */
export class Reporting {
  readonly #options: ReportingOptions;
  /** The newest word on each object, where it said nothing new and so was not written: by uid. */
  readonly #unwritten = new Map<string, Fence>();

  constructor(options: ReportingOptions) {
    this.#options = options;
  }

  /** Resolves once it is on disk. Throws RefusedError when it comes from an older session. */
  async take(address: NodeAddress, report: Report): Promise<ReportReply> {
    if (report.objects.length > objectLimit) {
      throw new RefusedError(ErrorReason.INVALID, `more than ${objectLimit} objects in one report`);
    }
    for (const { status } of report.objects) {
      if (status.case === 'container') refuseUnreadable(ContainerStatusSchema, status.value);
    }
    const unchanged: string[] = [];
    const unknownUids = await this.#options.store.write({
      reads: [{ uid: address.nodeUid }, ...report.objects.map(({ uid }) => ({ uid }))],
      apply: (view) => {
        const node = view.get({ uid: address.nodeUid });
        if (node?.kind !== 'Node' || node.epoch !== Number(report.epoch)) {
          throw new RefusedError(ErrorReason.FENCED, `epoch ${report.epoch} is not that of the node's newest session`);
        }
        const outcomes = report.objects.map((object) => ({
          uid: object.uid,
          outcome: takeOne(view, node, report, object, this.#unwritten.get(object.uid)),
        }));
        unchanged.push(...outcomes.filter(({ outcome }) => outcome === 'unchanged').map(({ uid }) => uid));
        return outcomes.filter(({ outcome }) => outcome === 'unknown').map(({ uid }) => uid);
      },
    });
    this.#remember(unchanged, { epoch: Number(report.epoch), sequence: Number(report.sequence) });
    this.#options.liveness.confirm(address.nodeUid);
    return create(ReportReplySchema, { unknownUids });
  }

  #remember(uids: readonly string[], fence: Fence): void {
    for (const uid of uids) {
      this.#unwritten.delete(uid);
      this.#unwritten.set(uid, fence);
    }
    for (const uid of this.#unwritten.keys()) {
      if (this.#unwritten.size <= fenceLimit) break;
      this.#unwritten.delete(uid);
    }
  }
}

type Outcome = 'unknown' | 'stale' | 'unchanged' | 'taken';

/** `unwritten`: the newest word on the object that was heard and not written. */
function takeOne(
  view: WriteView,
  node: StoredObject,
  report: Report,
  object: ObjectReport,
  unwritten: Fence | undefined,
): Outcome {
  const stored = view.get({ uid: object.uid });
  if (!stored || stored.nodeUid !== node.uid || stored.kind !== 'Container') return 'unknown';
  const fence = { epoch: Number(report.epoch), sequence: Number(report.sequence) };
  if (!isNewer(fence, stored) || (unwritten && !isNewer(fence, unwritten))) return 'stale';
  if (object.removed) {
    // "It is not there" ends only what was to end: an agent that lost a container makes it again.
    if (!stored.deleting) return 'unchanged';
    view.remove(stored.uid, node.uid);
    return 'taken';
  }
  if (object.status.case !== 'container') return 'unchanged';
  const container = decode('Container', stored);
  const status = cleaned(object.status.value, container, node.name, stored);
  if (container.status && equals(ContainerStatusSchema, container.status, status)) return 'unchanged';
  container.status = status;
  view.put(encode('Container', container, { ...stored, ...fence }), '');
  return 'taken';
}

const isNewer = (a: Fence, b: Fence): boolean => a.epoch > b.epoch || (a.epoch === b.epoch && a.sequence > b.sequence);

/** A status as the agent may set it: what the control plane says itself is not the agent's to say. */
function cleaned(
  status: ContainerStatus,
  container: Container,
  nodeName: string,
  stored: StoredObject,
): ContainerStatus {
  const delivery = status.delivery ?? create(DeliverySchema);
  const newest = BigInt(stored.generation);
  const atMost = (generation: bigint) => (generation > newest ? newest : generation < 0n ? 0n : generation);
  const unknown = status.phase === ContainerPhase.UNSPECIFIED || status.phase === ContainerPhase.UNKNOWN;
  return {
    ...status,
    phase: unknown ? (container.status?.phase ?? ContainerPhase.PENDING) : status.phase,
    lastKnownPhase: ContainerPhase.UNSPECIFIED,
    reason: status.reason.slice(0, 128),
    message: status.message.slice(0, textLimit),
    containerId: status.containerId.slice(0, 128),
    imageId: status.imageId.slice(0, 256),
    ports: status.ports.slice(0, 512),
    node: nodeName,
    delivery: {
      ...delivery,
      receivedGeneration: atMost(delivery.receivedGeneration),
      appliedGeneration: atMost(delivery.appliedGeneration),
      observedGeneration: atMost(delivery.observedGeneration),
      confirmTime: undefined,
      trustUntil: undefined,
    },
  };
}
