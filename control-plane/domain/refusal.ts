import type { Container, ContainerStatus } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { firstStatus, place } from './lifecycle.ts';

/** Reason in a status: the node's owner forbids it there. As the agent writes it. */
export const forbiddenByPolicy = 'ForbiddenByPolicy';

/**
 * Whether a container that its node refuses may be given to another one: it may be anywhere, and nothing was ever made of it. What ran has data, and those
 * who reach it, where it is.
 */
export function mayMove({ metadata, spec, status }: Container): boolean {
  return (
    status?.reason === forbiddenByPolicy &&
    !status.made &&
    spec?.node === '' &&
    metadata?.deleteTime === undefined &&
    status.delivery?.observedGeneration === metadata?.generation
  );
}

/** Names of the nodes that are known to refuse it. */
export const refusing = ({ node, refusedBy }: ContainerStatus): string[] => [...new Set([...refusedBy, node])];

/** Gives a container that was refused to another node. What the one before said of it is forgotten but for its name. */
export function move(container: Container, node: { readonly name: string }): void {
  const status = firstStatus('Container') as ContainerStatus;
  if (container.status) status.refusedBy = refusing(container.status);
  place(status, node, container.metadata?.bay ?? '', '');
  container.status = status;
}

/** Whether a status shows that there is, or was, a container. */
export const showsContainer = ({ containerId, startTime, finishTime, delivery }: ContainerStatus): boolean =>
  containerId !== '' || startTime !== undefined || finishTime !== undefined || (delivery?.appliedGeneration ?? 0n) > 0n;
