import { type ClusterDriver, type ClusterObject, resourceTypes } from '../drivers/cluster_driver.ts';
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

/** Those that are still there. Rejects with ClusterError. */
export async function podsOf(
  driver: ClusterDriver,
  { namespace, selector, ownerUid }: Leftovers,
  signal: AbortSignal,
): Promise<ClusterObject[]> {
  const { items } = await driver.list(resourceTypes.Pod, { namespace, labelSelector: selector, signal });
  return items.filter(({ metadata }) => metadata.ownerReferences?.some(({ uid }) => uid === ownerUid));
}

/** How many are still there. Rejects with ClusterError. */
export const countLeftovers = async (...args: Parameters<typeof podsOf>): Promise<number> =>
  (await podsOf(...args)).length;
