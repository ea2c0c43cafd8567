import { durationMs } from '@bufbuild/protobuf/wkt';
import type Docker from 'dockerode';
import {
  type ContainerSpec,
  type HealthCheck,
  MountType,
  PortProtocol,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { restartOf, stopTimeoutSeconds } from '../containers/container_spec.ts';
import type { CreateRequest, EngineContainer, EnginePort, EngineState } from './driver.ts';

/** A ContainerSpec in Docker's words, and Docker's answers in ours. */
export function toCreateBody({ name, spec, labels }: CreateRequest): Docker.ContainerCreateOptions {
  const memoryBytes = Number(spec.resources?.memoryBytes ?? 0n);
  const restart = restartOf(spec);
  const exposed: Record<string, object> = {};
  const bindings: Record<string, Docker.PortBinding[]> = {};
  for (const port of spec.ports) {
    const key = `${port.containerPort}/${protocolName(port.protocol)}`;
    exposed[key] = {};
    const binding = { HostIp: port.hostIp, HostPort: port.hostPort ? String(port.hostPort) : '' };
    bindings[key] = [...(bindings[key] ?? []), binding];
  }
  return {
    name,
    Image: spec.image,
    ...(spec.command.length > 0 && { Entrypoint: spec.command }),
    ...(spec.args.length > 0 && { Cmd: spec.args }),
    Env: spec.env.map((v) => `${v.name}=${v.value}`),
    ...(spec.workingDir && { WorkingDir: spec.workingDir }),
    ...(spec.user && { User: spec.user }),
    ...(spec.hostname && { Hostname: spec.hostname }),
    ExposedPorts: exposed,
    Labels: { ...labels },
    StopTimeout: stopTimeoutSeconds(spec),
    ...(spec.healthCheck && { Healthcheck: healthBody(spec.healthCheck) }),
    HostConfig: {
      PortBindings: bindings,
      Mounts: mounts(spec),
      RestartPolicy: { Name: restart.policy, MaximumRetryCount: restart.maxRetries },
      NanoCpus: Number(spec.resources?.cpuMillis ?? 0n) * 1e6,
      // No swap beyond the limit: the limit is what was asked for.
      Memory: memoryBytes,
      MemorySwap: memoryBytes,
      CapAdd: spec.capAdd,
      CapDrop: spec.capDrop,
      ReadonlyRootfs: spec.readOnlyRoot,
    },
  };
}

function mounts(spec: ContainerSpec): Docker.MountConfig {
  return spec.mounts.map((mount): Docker.MountSettings => {
    const base = { Target: mount.target, ReadOnly: mount.readOnly };
    switch (mount.type) {
      case MountType.TMPFS: {
        const tmpfs: Docker.MountSettings = { ...base, Source: '', Type: 'tmpfs' };
        if (mount.sizeBytes > 0n) {
          tmpfs.TmpfsOptions = { SizeBytes: Number(mount.sizeBytes), Mode: 0o1777 };
        }
        return tmpfs;
      }
      case MountType.VOLUME:
        return { ...base, Source: mount.source, Type: 'volume' };
      default:
        return { ...base, Source: mount.source, Type: 'bind' };
    }
  });
}

const nanos = (ms: number) => Math.round(ms * 1e6);

function healthBody(check: HealthCheck): Docker.HealthConfig {
  return {
    Test: ['CMD', ...check.command],
    Interval: check.interval ? nanos(durationMs(check.interval)) : 0,
    Timeout: check.timeout ? nanos(durationMs(check.timeout)) : 0,
    StartPeriod: check.startPeriod ? nanos(durationMs(check.startPeriod)) : 0,
    Retries: check.retries,
  };
}

const protocolName = (protocol: PortProtocol): EnginePort['protocol'] =>
  protocol === PortProtocol.UDP ? 'udp' : protocol === PortProtocol.SCTP ? 'sctp' : 'tcp';

const states: readonly EngineState[] = ['created', 'running', 'paused', 'restarting', 'exited', 'removing', 'dead'];

/** A state that is new to us counts as `dead`: it is neither running nor to be built on. */
export const stateOf = (text: string | undefined): EngineState => states.find((s) => s === text) ?? 'dead';

/** Docker says "never" as the year 1. The fraction of a millisecond is kept: two things may happen within one. */
export function timeMs(text: string | undefined): number | undefined {
  if (!text || text.startsWith('0001-')) return undefined;
  const ms = Date.parse(text);
  if (Number.isNaN(ms)) return undefined;
  const fraction = /\.\d{3}(\d{1,6})/.exec(text)?.[1];
  return fraction ? ms + Number(`0.${fraction}`) : ms;
}

export function fromInspect(inspected: Docker.ContainerInspectInfo): EngineContainer {
  const { State: state, HostConfig: host } = inspected;
  const policy = host.RestartPolicy?.Name;
  const health = state.Health?.Status;
  return {
    id: inspected.Id,
    name: inspected.Name.replace(/^\//, ''),
    labels: inspected.Config.Labels ?? {},
    state: stateOf(state.Status),
    imageId: inspected.Image,
    createdMs: timeMs(inspected.Created) ?? 0,
    startedMs: timeMs(state.StartedAt),
    finishedMs: timeMs(state.FinishedAt),
    exitCode: state.ExitCode,
    oomKilled: state.OOMKilled,
    error: state.Error ?? '',
    restartCount: inspected.RestartCount ?? 0,
    health: health === 'starting' || health === 'healthy' || health === 'unhealthy' ? health : 'none',
    restart: {
      policy: policy === 'unless-stopped' || policy === 'on-failure' || policy === 'always' ? policy : 'no',
      maxRetries: host.RestartPolicy?.MaximumRetryCount ?? 0,
    },
    nanoCpus: host.NanoCpus ?? 0,
    memoryBytes: host.Memory ?? 0,
    ports: portsOf(inspected.NetworkSettings?.Ports ?? {}),
    pid: state.Pid,
    grants: {
      image: inspected.Config.Image,
      hostMounts: (host.Mounts ?? [])
        .filter(({ Type }) => Type === 'bind')
        .map(({ Source, ReadOnly }) => ({ path: Source, writable: ReadOnly !== true })),
      hostPorts: Object.values((host.PortBindings ?? {}) as Readonly<Record<string, Docker.PortBinding[] | null>>)
        .flatMap((bindings) => bindings ?? [])
        .map(({ HostPort }) => Number(HostPort) || 0),
      capabilities: host.CapAdd ?? [],
    },
  };
}

function portsOf(ports: Docker.ContainerInspectInfo['NetworkSettings']['Ports']): EnginePort[] {
  const found: EnginePort[] = [];
  for (const [key, bindings] of Object.entries(ports)) {
    const [port, protocol] = key.split('/');
    for (const binding of bindings ?? []) {
      found.push({
        containerPort: Number(port),
        hostPort: Number(binding.HostPort) || 0,
        protocol: protocol === 'udp' || protocol === 'sctp' ? protocol : 'tcp',
        hostIp: binding.HostIp ?? '',
      });
    }
  }
  return found.sort(
    (a, b) => a.containerPort - b.containerPort || a.hostPort - b.hostPort || (a.hostIp < b.hostIp ? -1 : 1),
  );
}
