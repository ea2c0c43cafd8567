import { Counter, Gauge, type Registry } from 'prom-client';

/** What the reconcilers count. */
export interface ReconcileMetrics {
  /** A message with work for a node was handed to the bus. */
  sent(what: 'delta' | 'snapshot', bytes: number): void;
  /** A report was taken into the store, or refused. */
  reported(outcome: 'taken' | 'refused', objects: number): void;
  /** Agents have refused so many more messages, as their signature was not good. */
  messagesRefused(count: number): void;
}

/** What is asked when somebody reads the metrics. */
export interface ReconcileState {
  readonly nodes: number;
  readonly freshNodes: number;
  readonly sessions: number;
  readonly streams: number;
  readonly unplaced: number;
}

/** Counts into a Prometheus registry. `state` is asked at each reading. Nothing is labelled by node or object: there may be many. */
export function createReconcileMetrics(registry: Registry, state: () => ReconcileState): ReconcileMetrics {
  const registers = [registry];
  const gauge = (name: string, help: string, read: (now: ReconcileState) => number): void => {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read(state()));
      },
    });
  };
  gauge('baykeeper_nodes', 'Nodes of all bays.', ({ nodes }) => nodes);
  gauge('baykeeper_nodes_fresh', 'Nodes whose agent may be believed now.', ({ freshNodes }) => freshNodes);
  gauge('baykeeper_sessions', 'Sessions of agents that this control plane knows.', ({ sessions }) => sessions);
  gauge('baykeeper_streams', 'Logs and commands that are open.', ({ streams }) => streams);
  gauge('baykeeper_objects_unplaced', 'Objects that wait for a node.', ({ unplaced }) => unplaced);
  const messages = new Counter({
    name: 'baykeeper_assign_messages_total',
    help: 'Messages with work for nodes that were handed to the bus.',
    labelNames: ['what'] as const,
    registers,
  });
  const bytes = new Counter({
    name: 'baykeeper_assign_bytes_total',
    help: 'Their size.',
    labelNames: ['what'] as const,
    registers,
  });
  const reports = new Counter({
    name: 'baykeeper_reports_total',
    help: 'Reports of agents that were answered.',
    labelNames: ['outcome'] as const,
    registers,
  });
  const objects = new Counter({
    name: 'baykeeper_report_objects_total',
    help: 'Objects in the reports that were taken.',
    registers,
  });
  const messagesRefused = new Counter({
    name: 'baykeeper_agent_refused_messages_total',
    help: 'Messages that agents say they have refused, as their signature was not good: somebody else sends on the bus.',
    registers,
  });
  return {
    messagesRefused: (count) => messagesRefused.inc(count),
    sent(what, size) {
      messages.inc({ what });
      bytes.inc({ what }, size);
    },
    reported(outcome, count) {
      reports.inc({ outcome });
      if (outcome === 'taken') objects.inc(count);
    },
  };
}
