import { type ClusterDriver, resourceTypes } from '../drivers/cluster_driver.ts';
import type { Live } from './live.ts';

/** Pods that a controller has made, and that go after it. */
export interface Leftovers {
  readonly namespace: string;
  /** As a label selector. */
  readonly selector: string;
  /** Uid of the controller in the cluster. */
  readonly ownerUid: string;
}

/** What will be left when these are deleted; undefined: nothing. */
export function leftoversOf(targets: readonly Live[]): Leftovers | undefined {
  for (const { facts, namespace, clusterUid } of targets) {
    if (facts.kind === 'ReplicationController') return { namespace, selector: facts.selector, ownerUid: clusterUid };
  }
  return undefined;
}

/** How many are still there. Rejects with ClusterError. */
export async function countLeftovers(
  driver: ClusterDriver,
  { namespace, selector, ownerUid }: Leftovers,
  signal: AbortSignal,
): Promise<number> {
  const { items } = await driver.list(resourceTypes.Pod, { namespace, labelSelector: selector, signal });
  return items.filter(({ metadata }) => metadata.ownerReferences?.some(({ uid }) => uid === ownerUid)).length;
}
