import { type PodRef, resourceTypes } from '../cluster_driver.ts';
import { ClusterError } from '../cluster_error.ts';
import type { ApiClient } from './http.ts';
import { objectPath } from './paths.ts';

/** What is needed to know of a pod before one of its containers is spoken to. */
interface PodWithContainers {
  readonly metadata: { readonly annotations?: Readonly<Record<string, string>> };
  readonly spec?: {
    readonly containers?: readonly Named[];
    readonly initContainers?: readonly Named[];
    readonly ephemeralContainers?: readonly Named[];
  };
  readonly status?: {
    readonly phase?: string;
    readonly containerStatuses?: readonly ContainerState[];
    readonly initContainerStatuses?: readonly ContainerState[];
    readonly ephemeralContainerStatuses?: readonly ContainerState[];
  };
}

interface Named {
  readonly name: string;
}

interface ContainerState extends Named {
  readonly state?: {
    readonly running?: object;
    readonly terminated?: { readonly reason?: string };
    readonly waiting?: { readonly reason?: string; readonly message?: string };
  };
}

/** A container that there is, and how it is. */
export interface FoundContainer {
  readonly name: string;
  /** As far as the cluster has heard: it may be a second behind. */
  readonly running: boolean;
  /** As `waiting (ContainerCreating)`. */
  readonly state: string;
}

const chosenBy = 'kubectl.kubernetes.io/default-container';

/** Finds the container that is meant. Rejects with ClusterError: `not-found` for the pod, `invalid` for the container. */
export async function findContainer(
  client: ApiClient,
  { namespace, name, container }: PodRef,
): Promise<FoundContainer> {
  const path = objectPath({ type: resourceTypes.Pod, namespace, name });
  const { metadata, spec, status } = await client.request<PodWithContainers>({ method: 'GET', path, plural: 'pods' });
  const names = [
    ...(spec?.containers ?? []),
    ...(spec?.initContainers ?? []),
    ...(spec?.ephemeralContainers ?? []),
  ].map((one) => one.name);
  const chosen = metadata.annotations?.[chosenBy];
  const wanted = container || (chosen && names.includes(chosen) ? chosen : names[0]) || '';
  if (!names.includes(wanted)) {
    throw new ClusterError(
      'invalid',
      `the pod ${name} has no container ${JSON.stringify(wanted)}: it has ${names.join(', ')}`,
    );
  }
  const all = [
    ...(status?.containerStatuses ?? []),
    ...(status?.initContainerStatuses ?? []),
    ...(status?.ephemeralContainerStatuses ?? []),
  ];
  const state = all.find((one) => one.name === wanted)?.state;
  return { name: wanted, running: state?.running !== undefined, state: describe(state, status?.phase) };
}

function describe(state: ContainerState['state'], phase: string | undefined): string {
  if (state?.running) return 'running';
  const [word, reason] = state?.terminated
    ? ['terminated', state.terminated.reason]
    : ['waiting', state?.waiting?.reason ?? phase];
  return reason ? `${word} (${reason})` : word;
}
