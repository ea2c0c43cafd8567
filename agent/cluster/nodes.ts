import type { NodeReport } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { Clock } from '../clock.ts';
import { type ClusterDriver, resourceTypes, type WatchEvent } from '../drivers/cluster_driver.ts';
import { ClusterError } from '../drivers/cluster_error.ts';
import type { Log } from '../log.ts';
import type { ClusterReports } from '../ports.ts';
import {
  type ClusterNodeView,
  metricsOf,
  type NodeMetrics,
  nodeViewOf,
  removedNode,
  withUsage,
} from './node_status.ts';

export interface NodesOptions {
  readonly driver: ClusterDriver;
  readonly reports: Pick<ClusterReports, 'putNode' | 'putNodes'>;
  /** Aborts when this agent leads no more. */
  readonly term: AbortSignal;
  readonly clock: Clock;
  readonly log: Log;
  /** How often a metrics server is asked. Default 30 s. */
  readonly metricsMs?: number;
}

/** How often a cluster without a metrics server is asked whether it has one by now. */
const withoutMetricsMs = 300_000;

/** The nodes of a bay are those of its cluster: they appear, change and vanish as they do there. */
export class Nodes {
  readonly #options: NodesOptions;
  readonly #nodes = new Map<string, ClusterNodeView>();
  #usage: ReadonlyMap<string, NodeMetrics> = new Map();
  #listed = false;
  #tried = false;
  #cancelMetrics: () => void = () => undefined;

  constructor(options: NodesOptions) {
    this.#options = options;
    const { term } = options;
    void this.#watch();
    term.addEventListener('abort', () => this.#cancelMetrics(), { once: true });
  }

  /** Undefined until the cluster has told. */
  all(): readonly NodeReport[] | undefined {
    return this.#listed ? [...this.#nodes.values()].map((view) => this.#reportOf(view)) : undefined;
  }

  /** It is not known yet what nodes there are, nor why that cannot be known. */
  get isAwaited(): boolean {
    return !this.#tried;
  }

  async #watch(): Promise<void> {
    const { driver, term, clock, log } = this.#options;
    const transform = (object: Parameters<typeof nodeViewOf>[0]) => nodeViewOf(object, clock.now());
    for await (const event of driver.watch(resourceTypes.Node, { signal: term, transform })) {
      try {
        this.#take(event);
      } catch (error) {
        log.error({ error: (error as Error).stack }, 'a change of a node could not be taken in');
      }
    }
  }

  #take(event: WatchEvent<ClusterNodeView>): void {
    const { reports, log } = this.#options;
    this.#tried = true;
    switch (event.type) {
      case 'snapshot': {
        const first = !this.#listed;
        this.#nodes.clear();
        for (const view of event.items) this.#nodes.set(view.name, view);
        this.#listed = true;
        reports.putNodes(this.all() ?? []);
        if (first) void this.#measure();
        break;
      }
      case 'put': {
        const { item } = event;
        const before = this.#nodes.get(item.name);
        this.#nodes.set(item.name, item);
        if (before?.key !== item.key) reports.putNode(this.#reportOf(item));
        break;
      }
      case 'delete':
        if (this.#nodes.delete(event.item.name)) reports.putNode(removedNode(event.item.name));
        break;
      case 'down':
        log.warn({ error: event.error.message }, "the cluster's nodes cannot be watched");
        break;
      case 'up':
        break;
    }
  }

  #reportOf(view: ClusterNodeView): NodeReport {
    return withUsage(view, this.#usage.get(view.name));
  }

  /** Asks for what the nodes use, again and again. */
  async #measure(): Promise<void> {
    const { driver, term, clock, log, metricsMs = 30_000 } = this.#options;
    let againMs = metricsMs;
    try {
      const { items } = await driver.list(resourceTypes.NodeMetrics, { signal: term });
      this.#use(new Map(items.map((item) => [item.metadata.name, metricsOf(item)])));
    } catch (error) {
      // What is not measured any more is not shown any more.
      this.#use(new Map());
      againMs = error instanceof ClusterError && error.kind === 'not-found' ? withoutMetricsMs : metricsMs;
      log.debug({ error: (error as Error).message }, 'the cluster serves no metrics of its nodes');
    }
    if (!term.aborted) this.#cancelMetrics = clock.after(againMs, () => void this.#measure());
  }

  #use(usage: ReadonlyMap<string, NodeMetrics>): void {
    const { reports } = this.#options;
    const before = this.#usage;
    this.#usage = usage;
    for (const view of this.#nodes.values()) {
      const was = before.get(view.name);
      const is = usage.get(view.name);
      if (was?.cpu !== is?.cpu || was?.memoryBytes !== is?.memoryBytes) reports.putNode(this.#reportOf(view));
    }
  }
}
