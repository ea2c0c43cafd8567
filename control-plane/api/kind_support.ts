import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { PreconditionError, UnimplementedError } from '../domain/errors.ts';
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

/** Containers of a Kubernetes bay go to a Docker engine beside the cluster, where there is one. Throws PreconditionError. */
export function checkDocker(bay: BayRef, kind: KindName, around: Pick<Surroundings, 'nodesOf'>): void {
  if (kind !== 'Container' || bay.engine !== ContainerEngine.KUBERNETES) return;
  if (around.nodesOf(bay.uid).some((node) => node.docker)) return;
  throw new PreconditionError(
    `bay "${bay.name}" is a Kubernetes bay without a Docker engine, which containers need: use pods instead`,
  );
}
