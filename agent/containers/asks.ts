import { type ContainerSpec, MountType } from '../../proto/gen/baykeeper/v1/container_pb.js';
import type { EngineGrants } from '../drivers/driver.ts';
import type { Ask } from '../policy.ts';

/** What a container asks of its node. Pure. */
export function asksOfSpec(spec: ContainerSpec): Ask[] {
  return [
    { rule: 'images', value: spec.image, field: 'spec.image' },
    ...spec.ports.map(
      ({ hostPort }, index): Ask => ({
        rule: 'hostPorts',
        value: String(hostPort),
        field: `spec.ports[${index}].host_port`,
      }),
    ),
    ...spec.mounts.flatMap(({ type, source, readOnly }, index): Ask[] =>
      // A type that is new to us is not known to be harmless, nor is a volume that is named by a path.
      (type === MountType.VOLUME && !source.includes('/')) || type === MountType.TMPFS
        ? []
        : [{ rule: 'hostMounts', value: source, writable: !readOnly, field: `spec.mounts[${index}].source` }],
    ),
    ...spec.capAdd.map((value, index): Ask => ({ rule: 'capabilities', value, field: `spec.cap_add[${index}]` })),
  ];
}

/** What a container on the engine has been given. */
export function asksOfGrants({ image, hostPorts, hostMounts, capabilities }: EngineGrants): Ask[] {
  return [
    { rule: 'images', value: image, field: '' },
    ...hostPorts.map((port): Ask => ({ rule: 'hostPorts', value: String(port), field: '' })),
    ...hostMounts.map(({ path, writable }): Ask => ({ rule: 'hostMounts', value: path, writable, field: '' })),
    ...capabilities.map((value): Ask => ({ rule: 'capabilities', value, field: '' })),
  ];
}
