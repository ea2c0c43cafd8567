import type { NodeStatus } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { Clock } from '../clock.ts';
import type { Driver, EngineContainer } from '../drivers/driver.ts';
import { type HealthThresholds, NodeHealth, policyFinding } from '../health.ts';
import type { PolicySource } from '../policy.ts';
import type { EngineWatch } from './engine_watch.ts';

/** Options of {@link EngineHealth}. */
export interface EngineHealthOptions {
  readonly driver: Pick<Driver, 'ping'>;
  readonly policy: PolicySource;
  readonly clock: Clock;
  readonly thresholds?: HealthThresholds;
}

/** How a node is that has an engine, and who wants to hear when that changes. */
export class EngineHealth {
  readonly #options: EngineHealthOptions;
  readonly #health: NodeHealth;
  readonly #listeners = new Set<() => void>();

  constructor(options: EngineHealthOptions) {
    this.#options = options;
    this.#health = new NodeHealth(options);
  }

  /** @param containers All of ours on the engine. */
  async status(
    watch: Pick<EngineWatch, 'info' | 'problem'>,
    containers: readonly Pick<EngineContainer, 'state'>[],
  ): Promise<NodeStatus> {
    const { driver, policy } = this.#options;
    let { problem } = watch;
    if (problem === undefined) {
      // The stream of events does not tell an engine that hangs from one that has nothing to say.
      await driver.ping().catch((error: unknown) => {
        problem = error instanceof Error ? error.message : String(error);
      });
    }
    const running = containers.filter(({ state }) => state === 'running' || state === 'paused');
    return await this.#health.status({
      info: watch.info,
      problem,
      containersRunning: running.length,
      containersTotal: containers.length,
      findings: [policyFinding(policy)],
    });
  }

  onNews(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The status is worth to be told now. */
  news(): void {
    for (const listener of this.#listeners) listener();
  }
}
