import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { InvalidError, PreconditionError, UnimplementedError } from '../domain/errors.ts';
import { type KindName, kinds } from '../domain/kinds.ts';
import type { Surroundings } from '../domain/present.ts';
import type { BayRef } from './bay_directory.ts';

/** Kinds that a Docker bay does not know yet. */
const notOnDocker: ReadonlySet<KindName> = new Set(['Pod', 'Service', 'ReplicationController']);

/** Says so where the bay's engine cannot do it yet. Throws UnimplementedError. */
export function checkSupported(bay: BayRef, kind: KindName): void {
  if (bay.engine === ContainerEngine.DOCKER && notOnDocker.has(kind)) {
    throw new UnimplementedError(
      `bay "${bay.name}" is a Docker bay: ${kinds[kind].plural} on Docker are not built yet, containers are`,
    );
  }
}

/**
 * Containers of a Kubernetes bay go to the Docker engine of the master that leads, where there is one. `node`: the only one allowed; empty: any. Throws
 * InvalidError, PreconditionError.
 */
export function checkDocker(bay: BayRef, kind: KindName, node: string, around: Pick<Surroundings, 'nodesOf'>): void {
  if (kind !== 'Container' || bay.engine !== ContainerEngine.KUBERNETES) return;
  if (node) throw new InvalidError('container.spec.node', 'on a Kubernetes bay containers go to the master that leads');
  if (around.nodesOf(bay.uid).some((node) => node.docker)) return;
  throw new PreconditionError(
    `bay "${bay.name}" is a Kubernetes bay without a Docker engine, which containers need: use pods instead`,
  );
}
