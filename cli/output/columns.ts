import { type DescEnum, isMessage } from '@bufbuild/protobuf';
import { type Timestamp, timestampMs } from '@bufbuild/protobuf/wkt';
import { BayModelSchema } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import { BayPhaseSchema, BaySchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerEngineSchema, ProvisionerSchema } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import {
  ContainerPhaseSchema,
  ContainerSchema,
  HealthStateSchema,
  type PortMapping,
  PortProtocol,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { NodePhaseSchema, NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { type Pod, PodPhaseSchema } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { ReplicationControllerPhaseSchema } from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ServicePhaseSchema } from '../../proto/gen/baykeeper/v1/service_pb.js';
import type { KindName } from '../kinds.ts';
import { type AnyObject, metadataOf } from '../objects.ts';
import { age, duration } from './age.ts';
import { enumName } from './enum_name.ts';

/** A column of a kind's table: its title, and the cell for an object. */
export interface ObjectColumn {
  readonly title: string;
  /** Only with `-o wide`. */
  readonly wide?: boolean;
  readonly shrinks?: boolean;
  readonly right?: boolean;
  cell(object: AnyObject, nowMs: number): string;
}

const none = '<none>';

const name: ObjectColumn = { title: 'NAME', cell: (object) => metadataOf(object).name };
const status: ObjectColumn = { title: 'STATUS', cell: (object) => phaseOf(object) || 'PENDING' };
const reason: ObjectColumn = { title: 'REASON', shrinks: true, cell: (object) => reasonOf(object) };
const ageColumn: ObjectColumn = { title: 'AGE', cell: (object, nowMs) => age(metadataOf(object).createTime, nowMs) };
const message: ObjectColumn = {
  title: 'MESSAGE',
  wide: true,
  shrinks: true,
  cell: (object) => statusOf(object)?.message ?? '',
};
const node: ObjectColumn = {
  title: 'NODE',
  shrinks: true,
  cell: (object) => {
    const { status: own } = object;
    return (own && 'node' in own && own.node) || none;
  },
};
const generation: ObjectColumn = {
  title: 'GENERATION',
  wide: true,
  cell: (object) => {
    const applied = deliveryOf(object)?.appliedGeneration ?? 0n;
    return `${applied}/${metadataOf(object).generation}`;
  },
};
const confirmed: ObjectColumn = {
  title: 'CONFIRMED',
  wide: true,
  cell: (object, nowMs) =>
    ago(isMessage(object, NodeSchema) ? object.status?.confirmTime : deliveryOf(object)?.confirmTime, nowMs),
};

const containerColumns: readonly ObjectColumn[] = [
  name,
  status,
  {
    title: 'RESTARTS',
    right: true,
    cell: (object) => (isMessage(object, ContainerSchema) ? String(object.status?.restarts ?? 0) : ''),
  },
  {
    title: 'IMAGE',
    shrinks: true,
    cell: (object) => (isMessage(object, ContainerSchema) && object.spec?.image) || none,
  },
  node,
  ageColumn,
  {
    title: 'PORTS',
    wide: true,
    shrinks: true,
    cell: (object) => (isMessage(object, ContainerSchema) && object.status?.ports.map(portText).join(',')) || none,
  },
  {
    title: 'HEALTH',
    wide: true,
    cell: (object) =>
      (isMessage(object, ContainerSchema) && enumName(HealthStateSchema, object.status?.health ?? 0)) || none,
  },
  {
    title: 'CONTAINER ID',
    wide: true,
    cell: (object) => (isMessage(object, ContainerSchema) && object.status?.containerId.slice(0, 12)) || none,
  },
  generation,
  confirmed,
  reason,
  message,
];

const nodeColumns: readonly ObjectColumn[] = [
  name,
  status,
  {
    title: 'CONTAINERS',
    right: true,
    cell: (object) => {
      const usage = isMessage(object, NodeSchema) ? object.status?.usage : undefined;
      return usage ? `${usage.containersRunning}/${usage.containersTotal}` : none;
    },
  },
  { title: 'VERSION', cell: (object) => (isMessage(object, NodeSchema) && object.status?.agentVersion) || none },
  {
    title: 'ENGINE',
    shrinks: true,
    cell: (object) => {
      const info = isMessage(object, NodeSchema) ? object.status?.info : undefined;
      return info?.engine ? `${info.engine} ${info.engineVersion}` : none;
    },
  },
  ageColumn,
  {
    title: 'ADDRESSES',
    wide: true,
    shrinks: true,
    cell: (object) => (isMessage(object, NodeSchema) && object.status?.info?.addresses.join(',')) || none,
  },
  {
    title: 'OS',
    wide: true,
    shrinks: true,
    cell: (object) => (isMessage(object, NodeSchema) && object.status?.info?.os) || none,
  },
  {
    title: 'KERNEL',
    wide: true,
    shrinks: true,
    cell: (object) => (isMessage(object, NodeSchema) && object.status?.info?.kernelVersion) || none,
  },
  {
    title: 'ARCH',
    wide: true,
    cell: (object) => (isMessage(object, NodeSchema) && object.status?.info?.architecture) || none,
  },
  {
    title: 'REVISION',
    wide: true,
    cell: (object) =>
      isMessage(object, NodeSchema) && object.status
        ? `${object.status.appliedRevision}/${object.status.assignedRevision}`
        : none,
  },
  confirmed,
  reason,
  message,
];

const bayColumns: readonly ObjectColumn[] = [
  name,
  status,
  {
    title: 'NODES',
    right: true,
    cell: (object) =>
      isMessage(object, BaySchema) ? `${object.status?.nodesReady ?? 0}/${object.status?.nodes ?? 0}` : '',
  },
  {
    title: 'ENGINE',
    cell: (object) =>
      (isMessage(object, BaySchema) && enumName(ContainerEngineSchema, object.spec?.containerEngine ?? 0)) || none,
  },
  ageColumn,
  { title: 'MODEL', wide: true, cell: (object) => (isMessage(object, BaySchema) && object.spec?.bayModel) || none },
  {
    title: 'PROVISIONER',
    wide: true,
    cell: (object) =>
      (isMessage(object, BaySchema) && enumName(ProvisionerSchema, object.spec?.provisioner ?? 0)) || none,
  },
  {
    title: 'ENDPOINT',
    wide: true,
    shrinks: true,
    cell: (object) => (isMessage(object, BaySchema) && object.status?.endpoint) || none,
  },
  reason,
  message,
];

const bayModelColumns: readonly ObjectColumn[] = [
  name,
  {
    title: 'ENGINE',
    cell: (object) =>
      (isMessage(object, BayModelSchema) && enumName(ContainerEngineSchema, object.spec?.containerEngine ?? 0)) || none,
  },
  {
    title: 'PROVISIONER',
    cell: (object) =>
      (isMessage(object, BayModelSchema) && enumName(ProvisionerSchema, object.spec?.provisioner ?? 0)) || none,
  },
  {
    title: 'IMAGE',
    shrinks: true,
    cell: (object) => (isMessage(object, BayModelSchema) && object.spec?.image) || none,
  },
  ageColumn,
  { title: 'FLAVOR', wide: true, cell: (object) => (isMessage(object, BayModelSchema) && object.spec?.flavor) || none },
  {
    title: 'KEYPAIR',
    wide: true,
    cell: (object) => (isMessage(object, BayModelSchema) && object.spec?.keypair) || none,
  },
];

const manifestColumns: readonly ObjectColumn[] = [
  name,
  status,
  node,
  ageColumn,
  generation,
  confirmed,
  reason,
  message,
];

const columnsOf: Readonly<Record<KindName, readonly ObjectColumn[]>> = {
  BayModel: bayModelColumns,
  Bay: bayColumns,
  Node: nodeColumns,
  Pod: manifestColumns,
  Service: manifestColumns,
  ReplicationController: manifestColumns,
  Container: containerColumns,
};

/** The columns of a kind's table. */
export function columnsFor(
  kind: KindName,
  options: { readonly wide: boolean; readonly namespaces: boolean },
): readonly ObjectColumn[] {
  const chosen = columnsOf[kind].filter((column) => options.wide || !column.wide);
  return options.namespaces
    ? [{ title: 'NAMESPACE', cell: (object) => metadataOf(object).namespace }, ...chosen]
    : chosen;
}

/** The short name of an object's phase: RUNNING. Empty when it has none. */
export function phaseOf(object: AnyObject): string {
  const found = phaseEnum(object);
  return found ? enumName(found.desc, found.phase) : '';
}

/** Why a phase is not as one would wish; empty while it runs. */
export function reasonOf(object: AnyObject): string {
  const phase = phaseOf(object);
  const parts: string[] = [];
  if (isMessage(object, NodeSchema) && object.spec?.unschedulable) parts.push('Cordoned');
  const said = statusOf(object)?.reason ?? '';
  if (said && !['RUNNING', 'READY', 'SUCCEEDED'].includes(phase)) parts.push(said);
  const found = phaseEnum(object);
  if (phase === 'UNKNOWN' && found && found.lastKnown !== 0) parts.push(`was ${enumName(found.desc, found.lastKnown)}`);
  return parts.join(', ');
}

function phaseEnum(object: AnyObject): { desc: DescEnum; phase: number; lastKnown: number } | undefined {
  if (isMessage(object, BayModelSchema)) return undefined;
  if (isMessage(object, BaySchema)) return { desc: BayPhaseSchema, phase: object.status?.phase ?? 0, lastKnown: 0 };
  if (isMessage(object, NodeSchema)) return { desc: NodePhaseSchema, phase: object.status?.phase ?? 0, lastKnown: 0 };
  const desc = {
    'baykeeper.v1.Container': ContainerPhaseSchema,
    'baykeeper.v1.Pod': PodPhaseSchema,
    'baykeeper.v1.Service': ServicePhaseSchema,
    'baykeeper.v1.ReplicationController': ReplicationControllerPhaseSchema,
  }[object.$typeName];
  return { desc, phase: object.status?.phase ?? 0, lastKnown: object.status?.lastKnownPhase ?? 0 };
}

/** What all statuses but a BayModel's have. */
export function statusOf(object: AnyObject): { readonly reason: string; readonly message: string } | undefined {
  const { status: own } = object;
  return own && 'reason' in own ? own : undefined;
}

/** How far word of the object has come; for the kinds that agents report on. */
export function deliveryOf(object: AnyObject): NonNullable<Pod['status']>['delivery'] {
  const { status: own } = object;
  return own && 'delivery' in own ? own.delivery : undefined;
}

/** `0.0.0.0:8080->80/tcp`, or `80/tcp` while no port of the node leads to it. */
export function portText(port: PortMapping): string {
  const protocol =
    { [PortProtocol.UDP]: 'udp', [PortProtocol.SCTP]: 'sctp' }[port.protocol as PortProtocol.UDP | PortProtocol.SCTP] ??
    'tcp';
  const address = port.hostIp.includes(':') ? `[${port.hostIp}]` : port.hostIp;
  const host = port.hostPort ? `${address ? `${address}:` : ''}${port.hostPort}->` : '';
  return `${host}${port.containerPort}/${protocol}`;
}

function ago(time: Timestamp | undefined, nowMs: number): string {
  return time ? `${duration(nowMs - timestampMs(time))} ago` : 'never';
}
