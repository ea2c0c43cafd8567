import type { Ask } from '../policy.ts';
import { type Fields, fieldsOf, listOf, text } from './json_fields.ts';
import type { ClusterKind } from './manifest.ts';

/**
 * What an object of a cluster asks of the nodes that it runs on. Pure. `object` is a manifest, or what the cluster has; what is not of the shape
 * that Kubernetes expects is refused there.
 */
export function asksOfObject(
  kind: ClusterKind,
  object: { readonly spec?: unknown; readonly metadata?: unknown },
): Ask[] {
  switch (kind) {
    case 'Service':
      return asksOfService(fieldsOf(object.spec));
    case 'Pod':
      return asksOfPod(object, '');
    case 'ReplicationController':
      return asksOfPod(fieldsOf(fieldsOf(object.spec).template), 'spec.template.');
  }
}

/** The lists of containers that a pod has. */
const containerLists = ['containers', 'initContainers', 'ephemeralContainers'] as const;

function asksOfPod(pod: { readonly spec?: unknown; readonly metadata?: unknown }, prefix: string): Ask[] {
  const spec = fieldsOf(pod.spec);
  const at = `${prefix}spec.`;
  const containers = containerLists.flatMap((name) =>
    listOf(spec[name]).map((container, index) => ({ container, at: `${at}${name}[${index}].` })),
  );
  return [
    ...(['hostNetwork', 'hostPID', 'hostIPC'] as const).flatMap((rule): Ask[] =>
      isOff(spec[rule]) ? [] : [{ rule, value: shown(spec[rule]), field: `${at}${rule}` }],
    ),
    ...asksOfSecurity(fieldsOf(spec.securityContext), `${at}securityContext.`),
    ...asksOfAnnotations(fieldsOf(fieldsOf(pod.metadata).annotations), `${prefix}metadata.annotations`),
    ...containers.flatMap((one) => asksOfContainer(one.container, one.at)),
    ...containers.flatMap((one) => asksOfPorts(one.container, one.at, !isOff(spec.hostNetwork))),
    ...listOf(spec.volumes).flatMap((volume, index) =>
      asksOfVolume(
        volume,
        `${at}volumes[${index}].`,
        containers.map(({ container }) => container),
      ),
    ),
  ];
}

function asksOfContainer(container: Fields, at: string): Ask[] {
  const security = fieldsOf(container.securityContext);
  const added = fieldsOf(security.capabilities).add;
  return [
    { rule: 'images', value: text(container.image), field: `${at}image` },
    ...asksOfSecurity(security, `${at}securityContext.`),
    ...(Array.isArray(added) ? added : []).map(
      (value: unknown, index): Ask => ({
        rule: 'capabilities',
        value: String(value),
        field: `${at}securityContext.capabilities.add[${index}]`,
      }),
    ),
  ];
}

/** In the network of the node each port that is declared is one of the node's; Kubernetes fills that in. */
const asksOfPorts = (container: Fields, at: string, onHost: boolean): Ask[] =>
  listOf(container.ports).flatMap(({ hostPort, containerPort }, index) =>
    isNone(hostPort) && !onHost
      ? []
      : [portOf(isNone(hostPort) ? containerPort : hostPort, `${at}ports[${index}].hostPort`)],
  );

/** Every node listens on the node ports of a service, and takes in what comes for its external addresses. */
function asksOfService(spec: Fields): Ask[] {
  const { type, externalIPs } = spec;
  const ports = listOf(spec.ports);
  const given = (port: Fields) => !isNone(port.nodePort);
  const chosen = type === 'NodePort' || (type === 'LoadBalancer' && spec.allocateLoadBalancerNodePorts !== false);
  const asks = ports.flatMap((port, index) =>
    given(port) || chosen ? [portOf(given(port) ? port.nodePort : 0, `spec.ports[${index}].nodePort`)] : [],
  );
  if (Array.isArray(externalIPs) && externalIPs.length > 0) {
    asks.push(...ports.map(({ port }) => portOf(port, 'spec.externalIPs')));
  }
  const isChecked = type === 'LoadBalancer' && spec.externalTrafficPolicy === 'Local';
  if (isChecked || !isNone(spec.healthCheckNodePort)) {
    asks.push(portOf(spec.healthCheckNodePort ?? 0, 'spec.healthCheckNodePort'));
  }
  return asks;
}

const isNone = (port: unknown): boolean => port === undefined || port === null || port === 0;
const portOf = (port: unknown, field: string): Ask => ({ rule: 'hostPorts', value: shown(port), field });

/** What the confinement of an ordinary container has; as the Pod Security Standards count it. */
const confinedTypes: ReadonlySet<string> = new Set(['', 'container_t', 'container_init_t', 'container_kvm_t']);

/** What takes away the walls around a container counts as privileged, whatever it is called. */
function asksOfSecurity(security: Fields, at: string): Ask[] {
  const privileged = (value: unknown, field: string): Ask => ({
    rule: 'privileged',
    value: shown(value),
    field: `${at}${field}`,
  });
  const asks: Ask[] = [];
  if (!isOff(security.privileged)) asks.push(privileged(security.privileged, 'privileged'));
  if (security.procMount === 'Unmasked') asks.push(privileged(security.procMount, 'procMount'));
  for (const profile of ['seccompProfile', 'appArmorProfile'] as const) {
    const { type } = fieldsOf(security[profile]);
    if (type === 'Unconfined') asks.push(privileged(type, `${profile}.type`));
  }
  const { hostProcess } = fieldsOf(security.windowsOptions);
  if (!isOff(hostProcess)) asks.push(privileged(hostProcess, 'windowsOptions.hostProcess'));
  const { type, user, role } = fieldsOf(security.seLinuxOptions);
  if (!confinedTypes.has(text(type))) asks.push(privileged(type, 'seLinuxOptions.type'));
  if (text(user)) asks.push(privileged(user, 'seLinuxOptions.user'));
  if (text(role)) asks.push(privileged(role, 'seLinuxOptions.role'));
  return asks;
}

/** As it was asked for before there were fields for it. */
const confinements = [
  'container.apparmor.security.beta.kubernetes.io/',
  'container.seccomp.security.alpha.kubernetes.io/',
  'seccomp.security.alpha.kubernetes.io/',
];

const asksOfAnnotations = (annotations: Fields, at: string): Ask[] =>
  Object.entries(annotations)
    .filter(([key, value]) => value === 'unconfined' && confinements.some((prefix) => key.startsWith(prefix)))
    .map(([key, value]) => ({ rule: 'privileged', value: String(value), field: `${at}[${key}]` }));

function asksOfVolume(volume: Fields, at: string, containers: readonly Fields[]): Ask[] {
  const asks: Ask[] = [];
  if (volume.hostPath !== undefined && volume.hostPath !== null) {
    const mounts = containers.flatMap((container) => listOf(container.volumeMounts));
    asks.push({
      rule: 'hostMounts',
      value: text(fieldsOf(volume.hostPath).path),
      writable: mounts.some(({ name, readOnly }) => name === volume.name && readOnly !== true),
      field: `${at}hostPath.path`,
    });
  }
  if (volume.image !== undefined && volume.image !== null) {
    asks.push({ rule: 'images', value: text(fieldsOf(volume.image).reference), field: `${at}image.reference` });
  }
  return asks;
}

const isOff = (value: unknown): boolean => value === undefined || value === null || value === false;
const shown = (value: unknown): string => (typeof value === 'string' ? value : (JSON.stringify(value) ?? ''));
