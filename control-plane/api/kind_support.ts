import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { UnimplementedError } from '../domain/errors.ts';
import { type KindName, kinds } from '../domain/kinds.ts';
import type { BayRef } from './bay_directory.ts';

/** Kinds that a Docker bay does not know yet. */
const notOnDocker: ReadonlySet<KindName> = new Set(['Pod', 'Service', 'ReplicationController']);

/** Says so where the bay's engine cannot do it yet. Throws UnimplementedError. `what`: `pods`, `join tokens`. */
export function checkSupported(bay: BayRef, kind: KindName | 'JoinToken'): void {
  const what = kind === 'JoinToken' ? 'join tokens' : kinds[kind].plural;
  if (bay.engine === ContainerEngine.KUBERNETES) {
    throw new UnimplementedError(`bay "${bay.name}" is a Kubernetes bay: ${what} on Kubernetes are not built yet`);
  }
  if (kind !== 'JoinToken' && notOnDocker.has(kind)) {
    throw new UnimplementedError(
      `bay "${bay.name}" is a Docker bay: ${what} on Docker are not built yet, containers are`,
    );
  }
}
