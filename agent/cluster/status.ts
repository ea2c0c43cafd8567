import { create, type JsonObject } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { ObjectReport } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { ClusterEvent } from '../../proto/gen/baykeeper/v1/cluster_pb.js';
import type { Delivery } from '../../proto/gen/baykeeper/v1/delivery_pb.js';
import { PodPhase, PodStatusSchema } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import {
  type ReplicationControllerPhase,
  ReplicationControllerStatusSchema,
} from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { type ServicePhase, ServiceStatusSchema } from '../../proto/gen/baykeeper/v1/service_pb.js';
import { type DeliveryTimes, deliveryOf, type Problem, timestampAt } from '../delivery.ts';
import { number, text } from './json_fields.ts';
import type { Live } from './live.ts';
import type { ClusterKind } from './manifest.ts';
import { type PodNote, podNote, readPodStatus } from './pod_state.ts';

/** How what is in the cluster reads as a status. Pure. */

export interface StatusInput {
  readonly kind: ClusterKind;
  readonly nodeName: string;
  /** It is on its way out. */
  readonly removing: boolean;
  readonly live: Live | undefined;
  /** Of a service. */
  readonly endpoints: EndpointAddresses | undefined;
  /** Oldest first. */
  readonly events: readonly ClusterEvent[];
  readonly problem: Problem | undefined;
  /** Whether the problem may pass by itself. */
  readonly passing: boolean;
  /** What is going on, when it is not what the cluster says itself. */
  readonly note: StatusNote | undefined;
  readonly delivery: DeliveryTimes;
}

export type StatusNote = PodNote;

/** As `IP:PORT`. */
export interface EndpointAddresses {
  readonly ready: readonly string[];
  readonly notReady: readonly string[];
}

/** Phases have the same numbers for all three kinds. */
interface Word {
  phase: PodPhase;
  reason: string;
  message: string;
}

/** What all three kinds have. */
interface Common extends Word {
  readonly node: string;
  readonly manifest: JsonObject | undefined;
  readonly delivery: Delivery;
  readonly retryTime: Timestamp | undefined;
  readonly clusterUid: string;
  readonly events: ClusterEvent[];
}

/** A status above this size is left out: a report has to fit in a message. */
const maxManifestChars = 128 * 1024;
const maxEndpoints = 100;

export function statusOf(input: StatusInput): ObjectReport['status'] {
  const { kind, live } = input;
  const status = live ? (JSON.parse(live.status) as JsonObject) : {};
  const common = commonOf(input, wordOf(input, status), status);
  switch (kind) {
    case 'Pod':
      return { case: 'pod', value: podStatus(input, common, status) };
    case 'Service':
      return { case: 'service', value: serviceStatus(input, common) };
    case 'ReplicationController':
      return { case: 'replicationController', value: controllerStatus(input, common, status) };
  }
}

function commonOf({ nodeName, live, problem, delivery, events }: StatusInput, word: Word, status: JsonObject): Common {
  const fits = (live?.status.length ?? 0) <= maxManifestChars;
  return {
    ...word,
    node: nodeName,
    manifest: live && fits ? status : undefined,
    delivery: deliveryOf(delivery),
    retryTime: problem?.retryTimeMs === undefined ? undefined : timestampAt(problem.retryTimeMs),
    clusterUid: live?.clusterUid ?? '',
    events: [...events],
  };
}

function wordOf({ kind, removing, live, problem, passing, note }: StatusInput, status: JsonObject): Word {
  const word = removing ? { phase: PodPhase.DELETING, reason: '', message: '' } : clusterWord(kind, live, status);
  if (note) Object.assign(word, note);
  if (!problem) return word;
  const { reason, message } = problem;
  // What runs goes on, and says why it is not (yet) what was asked for.
  const goesOn = removing || word.phase === PodPhase.RUNNING || word.phase === PodPhase.SUCCEEDED;
  return { phase: goesOn || passing ? word.phase : PodPhase.FAILED, reason, message };
}

/** What the cluster itself says. */
function clusterWord(kind: ClusterKind, live: Live | undefined, status: JsonObject): Word {
  if (!live) return { phase: PodPhase.PENDING, reason: '', message: '' };
  switch (kind) {
    case 'Pod':
      return { phase: podPhases[text(status.phase)] ?? PodPhase.PENDING, ...podNote(status) };
    case 'Service':
      return serviceWord(live, status);
    case 'ReplicationController':
      return controllerWord(live, status);
  }
}

const podPhases: Readonly<Record<string, PodPhase>> = {
  Pending: PodPhase.PENDING,
  Running: PodPhase.RUNNING,
  Succeeded: PodPhase.SUCCEEDED,
  Failed: PodPhase.FAILED,
  // Of a node that the cluster has lost: what ran there runs on, as far as is known.
  Unknown: PodPhase.RUNNING,
};

function podStatus({ live }: StatusInput, common: Common, status: JsonObject) {
  const { facts } = live ?? {};
  const { ready, restarts, podIp } = readPodStatus(status);
  return create(PodStatusSchema, {
    ...common,
    clusterNode: facts?.kind === 'Pod' ? facts.node : '',
    containers: facts?.kind === 'Pod' ? facts.containers : 0,
    podIp,
    containersReady: ready,
    restarts,
  });
}

function serviceWord({ facts }: Live, status: JsonObject): Word {
  const { loadBalancer } = status as { loadBalancer?: { ingress?: unknown[] } };
  if (facts.kind === 'Service' && facts.type === 'LoadBalancer' && !loadBalancer?.ingress?.length) {
    const message = 'the cluster has not given it a load balancer yet';
    return { phase: PodPhase.RUNNING, reason: 'LoadBalancerPending', message };
  }
  return { phase: PodPhase.RUNNING, reason: '', message: '' };
}

function serviceStatus({ live, endpoints }: StatusInput, common: Common) {
  const facts = live?.facts.kind === 'Service' ? live.facts : undefined;
  return create(ServiceStatusSchema, {
    ...common,
    phase: common.phase as number as ServicePhase,
    clusterIp: facts?.clusterIp ?? '',
    ports: facts?.ports.map(({ port, nodePort, protocol }) => `${port}${nodePort ? `:${nodePort}` : ''}/${protocol}`),
    endpointsReady: endpoints?.ready.slice(0, maxEndpoints),
    endpointsNotReady: endpoints?.notReady.slice(0, maxEndpoints),
  });
}

function controllerWord({ facts }: Live, status: JsonObject): Word {
  if (facts.kind !== 'ReplicationController') return { phase: PodPhase.PENDING, reason: '', message: '' };
  if (number(status.observedGeneration) < facts.generation) {
    const message = 'the cluster has not looked at it yet';
    return { phase: PodPhase.PENDING, reason: 'NotObserved', message };
  }
  const ready = number(status.readyReplicas);
  const counted = `${ready} of ${facts.replicas} ready`;
  const conditions = Array.isArray(status.conditions) ? (status.conditions as JsonObject[]) : [];
  const failure = conditions.find(({ type, status: holds }) => type === 'ReplicaFailure' && holds === 'True');
  if (failure) {
    const message = `${counted}: ${text(failure.message)}`;
    return { phase: PodPhase.RUNNING, reason: text(failure.reason) || 'ReplicaFailure', message };
  }
  return { phase: PodPhase.RUNNING, reason: '', message: ready === facts.replicas ? '' : counted };
}

function controllerStatus({ live }: StatusInput, common: Common, status: JsonObject) {
  return create(ReplicationControllerStatusSchema, {
    ...common,
    phase: common.phase as number as ReplicationControllerPhase,
    replicasWanted: live?.facts.kind === 'ReplicationController' ? live.facts.replicas : 0,
    replicas: number(status.replicas),
    replicasReady: number(status.readyReplicas),
  });
}

/** For people: what an object waits for that is on its way out. `pods`: how many that it made are still there. */
export function endingMessage({ ending, finalizers }: Pick<Live, 'ending' | 'finalizers'>, pods = 0): string {
  const waits: string[] = [];
  if (finalizers.length > 0) {
    const names = finalizers.slice(0, 8).join(', ');
    waits.push(`for whoever has set its ${finalizers.length === 1 ? 'finalizer' : 'finalizers'} ${names}`);
  }
  if (ending?.graceSeconds) {
    const until = ending.dueMs === undefined ? '' : `, until ${new Date(ending.dueMs).toISOString()}`;
    waits.push(`for its containers to end (grace period of ${ending.graceSeconds} s${until})`);
  }
  if (pods > 0) waits.push(`for its ${pods === 1 ? 'pod' : `${pods} pods`}`);
  return waits.length > 0 ? `waiting ${waits.join(', and ')}` : 'waiting for the cluster to take it away';
}
