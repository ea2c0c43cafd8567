import { isMessage } from '@bufbuild/protobuf';
import { BayModelSchema } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import { BaySchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerEngineSchema, ProvisionerSchema } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import {
  ContainerSchema,
  HealthStateSchema,
  type PortMapping,
  PortProtocol,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { KindName } from '../kinds.ts';
import { type AnyObject, metadataOf } from '../objects.ts';
import { controllerColumns, podColumns, serviceColumns } from './cluster_columns.ts';
import {
  ageColumn,
  confirmed,
  generation,
  message,
  name,
  node,
  none,
  type ObjectColumn,
  reason,
  status,
} from './column.ts';
import { enumName } from './enum_name.ts';
import { clusterNodeColumns, nodeColumns } from './node_columns.ts';

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
    title: 'PUBLIC',
    cell: (object) => (isMessage(object, BayModelSchema) && object.spec?.public ? 'yes' : 'no'),
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

const columnsOf: Readonly<Record<KindName, readonly ObjectColumn[]>> = {
  BayModel: bayModelColumns,
  Bay: bayColumns,
  Node: nodeColumns,
  Pod: podColumns,
  Service: serviceColumns,
  ReplicationController: controllerColumns,
  Container: containerColumns,
};

/** The columns of a kind's table. Those of nodes depend on whether a Kubernetes cluster is among `objects`, which are its first rows. */
export function columnsFor(
  kind: KindName,
  objects: readonly AnyObject[],
  options: { readonly wide: boolean; readonly namespaces: boolean; readonly projects: boolean },
): readonly ObjectColumn[] {
  const inCluster = objects.some((object) => isMessage(object, NodeSchema) && object.status?.cluster !== undefined);
  const all = kind === 'Node' && inCluster ? clusterNodeColumns : columnsOf[kind];
  const chosen = all.filter((column) => options.wide || !column.wide);
  const [project, bay, namespace] = (['project', 'bay', 'namespace'] as const).map((field) => ({
    title: field.toUpperCase(),
    cell: (object: AnyObject) => metadataOf(object)[field],
  }));
  const inBay = kind !== 'Bay' && kind !== 'BayModel';
  const places = [options.projects && project, options.projects && inBay && bay, options.namespaces && namespace];
  return [...places.filter((column) => column !== false && column !== undefined), ...chosen];
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
