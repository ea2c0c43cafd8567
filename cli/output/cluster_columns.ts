import { PodSchema } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import {
  type ReplicationController,
  ReplicationControllerPhase,
  ReplicationControllerSchema,
} from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { type Service, ServicePhase, ServiceSchema } from '../../proto/gen/baykeeper/v1/service_pb.js';
import { mappingAt, mappingsAt, textAt, valueAt } from '../json.ts';
import { ageColumn, cellOf, confirmed, generation, message, name, type ObjectColumn, reason } from './column.ts';
import { podReady, podRestarts, podStatus } from './pod_state.ts';

/** What is shown for figures that were so once, and that nobody can tell now. */
const unknown = '<unknown>';
/** How many endpoints are named before the others are counted. */
const maxEndpoints = 3;

/** As `kubectl get pods` has them. */
export const podColumns: readonly ObjectColumn[] = [
  name,
  { title: 'READY', cell: cellOf(PodSchema, podReady) },
  { title: 'STATUS', cell: cellOf(PodSchema, podStatus) },
  { title: 'RESTARTS', cell: cellOf(PodSchema, podRestarts) },
  ageColumn,
  { title: 'IP', wide: true, cell: cellOf(PodSchema, ({ status }) => status?.podIp ?? '') },
  { title: 'NODE', wide: true, shrinks: true, cell: cellOf(PodSchema, ({ status }) => status?.clusterNode ?? '') },
  generation,
  confirmed,
  { ...reason, wide: true },
  message,
];

/** As `kubectl get services` has them, and where they lead. */
export const serviceColumns: readonly ObjectColumn[] = [
  name,
  { title: 'CLUSTER-IP', cell: cellOf(ServiceSchema, clusterIp) },
  { title: 'PORT(S)', shrinks: true, cell: cellOf(ServiceSchema, portsText) },
  { title: 'ENDPOINTS', shrinks: true, cell: cellOf(ServiceSchema, endpointsText) },
  ageColumn,
  {
    title: 'TYPE',
    wide: true,
    cell: cellOf(ServiceSchema, ({ spec }) => textAt(spec?.manifest, 'type') || 'ClusterIP'),
  },
  {
    title: 'SELECTOR',
    wide: true,
    shrinks: true,
    cell: cellOf(ServiceSchema, ({ spec }) => selectorText(spec?.manifest)),
  },
  generation,
  confirmed,
  reason,
  message,
];

/** As `kubectl get rc` has them. */
export const controllerColumns: readonly ObjectColumn[] = [
  name,
  { title: 'DESIRED', cell: cellOf(ReplicationControllerSchema, (rc) => String(replicasWanted(rc))) },
  { title: 'CURRENT', cell: cellOf(ReplicationControllerSchema, (rc) => figure(rc, 'replicas')) },
  { title: 'READY', cell: cellOf(ReplicationControllerSchema, (rc) => figure(rc, 'replicasReady')) },
  ageColumn,
  {
    title: 'CONTAINERS',
    wide: true,
    shrinks: true,
    cell: cellOf(ReplicationControllerSchema, (rc) => templateText(rc, 'name')),
  },
  {
    title: 'IMAGES',
    wide: true,
    shrinks: true,
    cell: cellOf(ReplicationControllerSchema, (rc) => templateText(rc, 'image')),
  },
  {
    title: 'SELECTOR',
    wide: true,
    shrinks: true,
    cell: cellOf(ReplicationControllerSchema, ({ spec }) => selectorText(spec?.manifest)),
  },
  generation,
  confirmed,
  reason,
  message,
];

/** How many pods it keeps: an autoscaler in the cluster may ask for another number than the manifest. */
export function replicasWanted(controller: ReplicationController): number {
  const { status } = controller;
  return status?.clusterUid ? status.replicasWanted : replicasAsked(controller);
}

/** How many pods its manifest asks for; where it does not say, how many there are to be. */
export function replicasAsked({ spec, status }: ReplicationController): number {
  const asked = valueAt(spec?.manifest, 'replicas');
  return typeof asked === 'number' ? asked : status?.clusterUid ? status.replicasWanted : 1;
}

function figure(rc: ReplicationController, field: 'replicas' | 'replicasReady'): string {
  const { status } = rc;
  return status?.phase === ReplicationControllerPhase.UNKNOWN ? unknown : String(status?.[field] ?? 0);
}

function templateText(rc: ReplicationController, field: 'name' | 'image'): string {
  return mappingsAt(rc.spec?.manifest, 'template', 'spec', 'containers')
    .map((container) => textAt(container, field))
    .join(',');
}

function selectorText(manifest: unknown): string {
  return Object.entries(mappingAt(manifest, 'selector'))
    .map(([key, value]) => `${key}=${String(value)}`)
    .join(',');
}

function clusterIp({ spec, status }: Service): string {
  return status?.clusterIp || textAt(spec?.manifest, 'clusterIP') || '<pending>';
}

/** As the cluster has them; before it has said anything, as they are asked for. */
function portsText({ spec, status }: Service): string {
  if (status && status.ports.length > 0) return status.ports.join(',');
  return mappingsAt(spec?.manifest, 'ports')
    .map(({ port, protocol }) => `${String(port)}/${typeof protocol === 'string' ? protocol : 'TCP'}`)
    .join(',');
}

function endpointsText({ status }: Service): string {
  if (status?.phase === ServicePhase.UNKNOWN) return unknown;
  const { endpointsReady = [], endpointsNotReady = [] } = status ?? {};
  const more = endpointsReady.length - maxEndpoints;
  const named = endpointsReady.slice(0, maxEndpoints).join(',') + (more > 0 ? ` + ${more} more` : '');
  const waiting = endpointsNotReady.length > 0 ? `${endpointsNotReady.length} not ready` : '';
  return [named, waiting].filter(Boolean).join(', ');
}
