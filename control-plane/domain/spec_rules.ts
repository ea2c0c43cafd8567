import type { BayModelSpec } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import type { BaySpec } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { type ContainerSpec, type Mount, MountType } from '../../proto/gen/baykeeper/v1/container_pb.js';
import type { NodeSpec } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { InvalidError } from './errors.ts';
import { ipVersion, isCidr } from './ip.ts';
import type { KindName } from './kinds.ts';
import { fieldOf, type ObjectMessage } from './object.ts';

/** Checks what the rules in the proto files cannot say. Throws InvalidError. */
export function checkSpec(kind: KindName, object: ObjectMessage): void {
  if (!object.spec) throw new InvalidError(fieldOf(kind, 'spec'), 'is required');
  if (kind === 'Container') checkContainer(object.spec as ContainerSpec);
  if (kind === 'BayModel') checkBayModel(object.spec as BayModelSpec);
}

/**
 * Holds a changed spec against the one before: what cannot change must be as it was. What the control plane has written, and the caller
 * left out, is put back. Throws InvalidError.
 */
export function keepImmutable(kind: KindName, current: ObjectMessage, next: ObjectMessage): void {
  if (kind === 'Container') {
    const was = current.spec as ContainerSpec;
    const is = next.spec as ContainerSpec;
    refuseChange('container.spec.node', was.node, is.node);
    // It counts what has been asked for, so it never goes back: a manifest that says nothing of it asks for nothing.
    if (is.reboots < was.reboots) is.reboots = was.reboots;
  } else if (kind === 'Bay') {
    const was = current.spec as BaySpec;
    const is = next.spec as BaySpec;
    refuseChange('bay.spec.bay_model', was.bayModel, is.bayModel);
    is.containerEngine ||= was.containerEngine;
    is.provisioner ||= was.provisioner;
    refuseChange('bay.spec.container_engine', was.containerEngine, is.containerEngine);
    refuseChange('bay.spec.provisioner', was.provisioner, is.provisioner);
  } else if (kind === 'Node') {
    const was = current.spec as NodeSpec;
    const is = next.spec as NodeSpec;
    is.publicKey ||= was.publicKey;
    refuseChange('node.spec.public_key', was.publicKey, is.publicKey);
    if (is.revoked && !was.revoked) {
      throw new InvalidError('node.spec.revoked', 'is set by RevokeNode, which also cuts the node off');
    }
    is.revoked = was.revoked;
  }
}

function refuseChange(field: string, was: string | number, is: string | number): void {
  if (was !== is) throw new InvalidError(field, `cannot change: it is ${was === '' ? 'empty' : JSON.stringify(was)}`);
}

function checkContainer(spec: ContainerSpec): void {
  spec.command.forEach((value, i) => {
    noNul(`container.spec.command[${i}]`, value);
  });
  spec.args.forEach((value, i) => {
    noNul(`container.spec.args[${i}]`, value);
  });
  spec.healthCheck?.command.forEach((value, i) => {
    noNul(`container.spec.health_check.command[${i}]`, value);
  });
  noNul('container.spec.working_dir', spec.workingDir);
  noNul('container.spec.user', spec.user);

  const names = new Set<string>();
  spec.env.forEach((variable, i) => {
    noNul(`container.spec.env[${i}].value`, variable.value);
    if (names.has(variable.name))
      throw new InvalidError(`container.spec.env[${i}].name`, `"${variable.name}" is there twice`);
    names.add(variable.name);
  });

  const taken = new Set<string>();
  spec.ports.forEach((port, i) => {
    if (port.hostIp && ipVersion(port.hostIp) === undefined) {
      throw new InvalidError(`container.spec.ports[${i}].host_ip`, `"${port.hostIp}" is not an IP address`);
    }
    if (port.hostPort === 0) return;
    const key = `${port.hostIp}|${port.hostPort}|${port.protocol}`;
    if (taken.has(key))
      throw new InvalidError(`container.spec.ports[${i}].host_port`, `${port.hostPort} is there twice`);
    taken.add(key);
  });

  const targets = new Set<string>();
  spec.mounts.forEach((mount, i) => {
    checkMount(`container.spec.mounts[${i}]`, mount);
    if (targets.has(mount.target)) {
      throw new InvalidError(`container.spec.mounts[${i}].target`, `"${mount.target}" is there twice`);
    }
    targets.add(mount.target);
  });
}

function checkMount(field: string, mount: Mount): void {
  noNul(`${field}.source`, mount.source);
  noNul(`${field}.target`, mount.target);
  const { source } = mount;
  if (mount.type === MountType.BIND && !source.startsWith('/')) {
    throw new InvalidError(`${field}.source`, 'is an absolute path on the node for a BIND mount');
  }
  if (mount.type === MountType.VOLUME && !/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(source)) {
    throw new InvalidError(
      `${field}.source`,
      'is the name of a volume (letters, digits, "_", "." and "-") for a VOLUME mount',
    );
  }
  if (mount.type === MountType.TMPFS && source !== '')
    throw new InvalidError(`${field}.source`, 'is empty for a TMPFS mount');
  if (mount.type !== MountType.TMPFS && mount.sizeBytes !== 0n) {
    throw new InvalidError(`${field}.size_bytes`, 'is for a TMPFS mount only');
  }
}

function checkBayModel(spec: BayModelSpec): void {
  if (spec.fixedNetwork && !isCidr(spec.fixedNetwork)) {
    throw new InvalidError('bay_model.spec.fixed_network', `"${spec.fixedNetwork}" is not a range such as 10.0.0.0/24`);
  }
  if (spec.dnsServer && ipVersion(spec.dnsServer) === undefined) {
    throw new InvalidError('bay_model.spec.dns_server', `"${spec.dnsServer}" is not an IP address`);
  }
}

/** The kernel cannot take it in any string. */
function noNul(field: string, value: string): void {
  if (value.includes('\0')) throw new InvalidError(field, 'must not contain a NUL character');
}
