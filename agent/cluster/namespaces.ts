import { type ClusterDriver, type ClusterObject, type ResourceType, resourceTypes } from '../drivers/cluster_driver.ts';
import { ClusterError } from '../drivers/cluster_error.ts';
import type { Log } from '../log.ts';
import { label } from './labels.ts';

export interface NamespacesOptions {
  readonly driver: ClusterDriver;
  readonly bayUid: string;
  /** Whether an object is to be in a namespace. */
  readonly isWanted: (namespace: string) => boolean;
  readonly log: Log;
  /** Aborts when this agent may write no more. */
  readonly term: AbortSignal;
}

/** Makes namespaces that are asked for, and removes those again that it made once nothing is in them. */
export class Namespaces {
  readonly #options: NamespacesOptions;
  readonly #making = new Map<string, Promise<void>>();
  readonly #tidying = new Map<string, Promise<void>>();

  constructor(options: NamespacesOptions) {
    this.#options = options;
  }

  /** Resolves when there is one. Rejects with ClusterError. */
  async ensure(name: string): Promise<void> {
    // One that is just being removed, and was empty, is made again after that.
    await this.#tidying.get(name);
    await this.#once(this.#making, name, () => this.#make(name));
  }

  /** Removes a namespace that was made here when nothing is in it, and nothing is to be. What cannot be found out leaves it as it is. */
  tidy(name: string): void {
    void this.#once(this.#tidying, name, () => this.#removeIfEmpty(name)).catch((error: unknown) => {
      if (this.#options.term.aborted) return;
      const { message } = error as Error;
      this.#options.log.warn({ namespace: name, error: message }, 'an empty namespace could not be removed, and stays');
    });
  }

  /** The same for all that were made here. Rejects with ClusterError. */
  async tidyAll(): Promise<void> {
    const { driver, bayUid, term } = this.#options;
    const selection = { labelSelector: `${label.createdBy}=${bayUid}`, signal: term };
    const { items } = await driver.list(resourceTypes.Namespace, selection);
    for (const { metadata } of items) this.tidy(metadata.name);
  }

  async #once(under: Map<string, Promise<void>>, name: string, work: () => Promise<void>): Promise<void> {
    let running = under.get(name);
    if (!running) {
      running = work().finally(() => under.delete(name));
      under.set(name, running);
    }
    await running;
  }

  async #make(name: string): Promise<void> {
    const { driver, bayUid, log, term } = this.#options;
    const object = {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name, labels: { [label.createdBy]: bayUid } },
    };
    try {
      await driver.create(resourceTypes.Namespace, object, { signal: term });
      log.info({ namespace: name }, 'made a namespace');
    } catch (error) {
      if (error instanceof ClusterError && error.kind === 'already-exists') return;
      throw error;
    }
  }

  async #removeIfEmpty(name: string): Promise<void> {
    const { driver, bayUid, isWanted, log, term } = this.#options;
    if (isWanted(name)) return;
    const ref = { type: resourceTypes.Namespace, name };
    const namespace = await driver.get(ref, { signal: term });
    if (namespace?.metadata.labels?.[label.createdBy] !== bayUid || namespace.metadata.deletionTimestamp) return;
    const holds = await this.#contentOf(name);
    if (holds) {
      log.info({ namespace: name, holds }, 'a namespace that was made here is not empty, and stays');
      return;
    }
    if (isWanted(name) || term.aborted) return;
    const { uid, resourceVersion } = namespace.metadata;
    await driver.delete(ref, { uid, resourceVersion, signal: term });
    log.info({ namespace: name }, 'removed a namespace that was made here');
  }

  /** Something that is in it beside what the cluster puts in every namespace; undefined: nothing. Rejects when that is not known. */
  async #contentOf(namespace: string): Promise<string | undefined> {
    const { driver, term } = this.#options;
    for (const type of await driver.namespacedTypes({ signal: term })) {
      if (isPassing(type)) continue;
      const { items } = await driver.list(type, { namespace, atMost: defaultsOf(type) + 1, signal: term });
      const found = items.find((object) => !isDefault(type, object));
      if (found) return `${type.kind} ${found.metadata.name}`;
    }
    return undefined;
  }
}

/** What only tells of other objects, or of a moment. */
function isPassing({ kind, apiVersion }: ResourceType): boolean {
  return (
    kind === 'Event' || apiVersion.startsWith('metrics.k8s.io/') || apiVersion.startsWith('custom.metrics.k8s.io/')
  );
}

/** How many objects of a kind the cluster itself puts in a namespace. */
const defaultsOf = ({ kind }: ResourceType): number => (kind === 'Secret' || kind === 'ConfigMap' ? 4 : 1);

/** Whether the cluster puts such an object in every namespace. */
function isDefault({ kind }: ResourceType, { metadata, type }: ClusterObject): boolean {
  switch (kind) {
    case 'ServiceAccount':
      return metadata.name === 'default';
    case 'ConfigMap':
      return metadata.name === 'kube-root-ca.crt' || metadata.name === 'openshift-service-ca.crt';
    case 'Secret':
      return (
        type === 'kubernetes.io/service-account-token' &&
        metadata.annotations?.['kubernetes.io/service-account.name'] === 'default'
      );
    default:
      return false;
  }
}
