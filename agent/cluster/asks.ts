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
    ...asksOfSysctls(fieldsOf(spec.securityContext).sysctls, `${at}securityContext.sysctls`),
    ...asksOfAnnotations(fieldsOf(fieldsOf(pod.metadata).annotations), `${prefix}metadata.annotations`),
    ...containers.flatMap((one) => asksOfContainer(one.container, one.at)),
    ...containers.flatMap((one) => asksOfHandlers(one.container, one.at)),
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
const confinedTypes: ReadonlySet<string> = new Set([
  '',
  'container_t',
  'container_init_t',
  'container_kvm_t',
  'container_engine_t',
]);

/** What takes away the walls around a container counts as privileged, whatever it is called. */
function asksOfSecurity(security: Fields, at: string): Ask[] {
  const privileged = (value: unknown, field: string): Ask => ({
    rule: 'privileged',
    value: shown(value),
    field: `${at}${field}`,
  });
  const asks: Ask[] = [];
  if (!isOff(security.privileged)) asks.push(privileged(security.privileged, 'privileged'));
  if (!isOff(security.procMount) && security.procMount !== 'Default')
    asks.push(privileged(security.procMount, 'procMount'));
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

/** Those that are of the pod alone; as the Pod Security Standards count them. Others change the node, or other pods. */
const ownSysctls: ReadonlySet<string> = new Set([
  'kernel.shm_rmid_forced',
  'net.ipv4.ip_local_port_range',
  'net.ipv4.ip_local_reserved_ports',
  'net.ipv4.ip_unprivileged_port_start',
  'net.ipv4.ping_group_range',
  'net.ipv4.tcp_fin_timeout',
  'net.ipv4.tcp_keepalive_intvl',
  'net.ipv4.tcp_keepalive_probes',
  'net.ipv4.tcp_keepalive_time',
  'net.ipv4.tcp_rmem',
  'net.ipv4.tcp_syncookies',
  'net.ipv4.tcp_wmem',
]);

/** Kubernetes takes `net/ipv4/tcp_rmem`, too. */
const asksOfSysctls = (sysctls: unknown, at: string): Ask[] =>
  listOf(sysctls).flatMap(({ name }, index): Ask[] =>
    ownSysctls.has(text(name).replaceAll('/', '.'))
      ? []
      : [{ rule: 'privileged', value: shown(name), field: `${at}[${index}].name` }],
  );

const probes = ['livenessProbe', 'readinessProbe', 'startupProbe'] as const;
const hooks = ['postStart', 'preStop'] as const;

/** The kubelet asks in the network of the node. Without `host` it asks the pod only. */
function asksOfHandlers(container: Fields, at: string): Ask[] {
  const lifecycle = fieldsOf(container.lifecycle);
  const handlers = [
    ...probes.map((name) => ({ handler: fieldsOf(container[name]), at: `${at}${name}` })),
    ...hooks.map((name) => ({ handler: fieldsOf(lifecycle[name]), at: `${at}lifecycle.${name}` })),
  ];
  return handlers.flatMap(({ handler, at }) =>
    (['httpGet', 'tcpSocket'] as const).flatMap((action): Ask[] => {
      const { host } = fieldsOf(handler[action]);
      return isOff(host) || host === ''
        ? []
        : [{ rule: 'hostNetwork', value: shown(host), field: `${at}.${action}.host` }];
    }),
  );
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

/**
 * Kinds of volumes that show a pod nothing of its node: what is made for the pod, storage elsewhere, and what the cluster's owner has set up (claims, CSI
 * drivers). Of others it is not known; `gitRepo` and `flexVolume` run programs on the node.
 */
const harmlessVolumes: ReadonlySet<string> = new Set([
  ...[
    'configMap',
    'downwardAPI',
    'emptyDir',
    'ephemeral',
    'image',
    'persistentVolumeClaim',
    'projected',
    'secret',
    'csi',
  ],
  ...['awsElasticBlockStore', 'azureDisk', 'azureFile', 'cephfs', 'cinder', 'fc', 'flocker', 'gcePersistentDisk'],
  ...['glusterfs', 'iscsi', 'nfs', 'photonPersistentDisk', 'portworxVolume', 'quobyte', 'rbd', 'scaleIO', 'storageos'],
  'vsphereVolume',
]);

/** Types of `hostPath` for which nothing is made on the node. */
const existing: ReadonlySet<unknown> = new Set(['', 'Directory', 'File', 'Socket', 'CharDevice', 'BlockDevice']);

function asksOfVolume(volume: Fields, at: string, containers: readonly Fields[]): Ask[] {
  const { name, ...kinds } = volume;
  const given = Object.entries(kinds).filter(([, value]) => value !== undefined && value !== null);
  return given.flatMap(([kind, value]): Ask[] => {
    if (kind === 'image') {
      return [{ rule: 'images', value: text(fieldsOf(value).reference), field: `${at}image.reference` }];
    }
    if (harmlessVolumes.has(kind)) return [];
    const mounts = containers.flatMap((container) => listOf(container.volumeMounts));
    const { path, type } = fieldsOf(value);
    const isWritten = mounts.some((mount) => mount.name === name && mount.readOnly !== true);
    const writable = isWritten || !existing.has(type ?? '');
    return kind === 'hostPath'
      ? [{ rule: 'hostMounts', value: text(path), writable, field: `${at}hostPath.path` }]
      : [{ rule: 'hostMounts', value: `(${kind})`, writable, field: `${at}${kind}` }];
  });
}

const isOff = (value: unknown): boolean => value === undefined || value === null || value === false;
const shown = (value: unknown): string => (typeof value === 'string' ? value : (JSON.stringify(value) ?? ''));
