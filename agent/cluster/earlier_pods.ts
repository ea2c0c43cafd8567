import type { Clock } from '../clock.ts';
import { type ClusterDriver, type ClusterObject, resourceTypes } from '../drivers/cluster_driver.ts';
import { ClusterError } from '../drivers/cluster_error.ts';
import type { Log } from '../log.ts';
import {
  type Ask,
  endSeconds,
  forbiddenReason,
  judge,
  type Policy,
  type PolicySource,
  refusal,
  restricts,
} from '../policy.ts';
import type { Aside } from '../queue.ts';
import { asksOfObject } from './asks.ts';
import { fieldsOf } from './json_fields.ts';
import { type Leftovers, leftoversOf, podsOf } from './leftovers.ts';
import { graceSecondsOf, type Live } from './live.ts';
import { bounded, isPassing } from './reasons.ts';
import type { Tracked } from './tracked.ts';

export interface EarlierPodsOptions {
  readonly driver: ClusterDriver;
  readonly policy: PolicySource;
  /** Aborts when this agent may write no more. */
  readonly term: AbortSignal;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * A controller leaves the pods of its earlier templates as they are. Those that the owner of the nodes forbids by now are ended: the controller makes
 * others in their place, from the template that is allowed.
 */
export class EarlierPods {
  readonly #options: EarlierPodsOptions;

  constructor(options: EarlierPodsOptions) {
    this.#options = options;
  }

  /** Looks once for each policy and each change of the controller. Rejects with ClusterError. */
  async look(one: Tracked, live: Live | undefined, aside: Aside): Promise<void> {
    const policy = this.#options.policy.current;
    const pods = live && leftoversOf([live]);
    if (!restricts(policy) || !pods || live.facts.kind !== 'ReplicationController') return;
    const state = `${live.clusterUid} ${live.facts.generation}`;
    if (one.vetted?.policy === policy && one.vetted.state === state) return;
    await aside(() => this.#endForbidden(one, live, pods, policy));
    one.vetted = { policy, state };
  }

  async #endForbidden(one: Tracked, live: Live, of: Leftovers, policy: Policy): Promise<void> {
    const { driver, term: signal } = this.#options;
    const suspects = (await podsOf(driver, of, signal))
      .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
      .map((pod) => ({ pod, forbidden: forbiddenOf(policy, pod) }))
      .filter(({ forbidden }) => forbidden.length > 0);
    if (suspects.length === 0) return;
    const again = await this.#askedAgain(live, policy);
    for (const { pod, forbidden } of suspects) {
      const asks = forbidden.filter((ask) => !again.has(keyOf(ask)));
      if (asks.length === 0) continue;
      const { name, namespace = '', uid } = pod.metadata;
      const gracePeriodSeconds = Math.min(graceSecondsOf(fieldsOf(pod.spec)), endSeconds);
      await driver
        .delete({ type: resourceTypes.Pod, namespace, name }, { uid, gracePeriodSeconds, signal })
        .catch(unlessGone);
      this.#tell(one, pod, bounded(`pod ${name} was ended: ${refusal(policy, judge(policy, asks))}`));
    }
  }

  /**
   * What is forbidden of a pod that would be made now. That is not the author's doing but the cluster's, which adds it to what is made of the
   * template; to end a pod for it would lead to another one just like it.
   */
  async #askedAgain({ namespace, name, kind }: Live, policy: Policy): Promise<ReadonlySet<string>> {
    const { driver, term: signal } = this.#options;
    const controller = await driver.get({ type: resourceTypes[kind], namespace, name }, { signal });
    const { metadata, spec } = fieldsOf(fieldsOf(controller?.spec).template);
    const { labels, annotations } = fieldsOf(metadata);
    const pod = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { generateName: `${name}-`, namespace, labels, annotations },
      spec,
    };
    try {
      const made = await driver.create(resourceTypes.Pod, JSON.parse(JSON.stringify(pod)), { dryRun: true, signal });
      return new Set(forbiddenOf(policy, made).map(keyOf));
    } catch (error) {
      if (!(error instanceof ClusterError) || isPassing(error) || error.kind === 'unauthorized') throw error;
      // The cluster takes no pod of this template, so a bad template is no way to keep pods that are forbidden.
      return new Set();
    }
  }

  #tell(one: Tracked, { metadata: { name } }: ClusterObject, message: string): void {
    const { log, clock } = this.#options;
    const nowMs = clock.now();
    log.warn({ uid: one.uid, message }, 'a pod of an earlier template is forbidden by the policy of the node');
    one.events.add({
      id: `${name}.forbidden`,
      clusterUid: '',
      type: 'Warning',
      reason: forbiddenReason,
      message,
      source: 'baykeeper-agent',
      count: 1,
      firstMs: nowMs,
      lastMs: nowMs,
    });
  }
}

const forbiddenOf = (policy: Policy, pod: ClusterObject): Ask[] =>
  asksOfObject('Pod', pod).filter((ask) => judge(policy, [ask]).length > 0);

const keyOf = ({ rule, value, writable }: Ask): string => `${rule} ${writable ?? ''} ${value}`;

function unlessGone(error: unknown): void {
  if (!(error instanceof ClusterError) || (error.kind !== 'conflict' && error.kind !== 'not-found')) throw error;
}
