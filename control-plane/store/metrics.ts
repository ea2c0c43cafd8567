import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { CommitMetrics } from './group_commit.ts';
import type { Store } from './port.ts';

/** Counts commits into a Prometheus registry. */
export function createStoreMetrics(registry: Registry): CommitMetrics {
  const registers = [registry];
  const durations = new Histogram({
    name: 'baykeeper_store_commit_duration_seconds',
    help: 'How long commits took, from the first read to the disk.',
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5],
    registers,
  });
  const writes = new Histogram({
    name: 'baykeeper_store_commit_writes',
    help: 'How many writes shared a commit.',
    buckets: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
    registers,
  });
  const changes = new Counter({
    name: 'baykeeper_store_changes_total',
    help: 'Changes that are on disk.',
    registers,
  });
  const failures = new Counter({
    name: 'baykeeper_store_commit_failures_total',
    help: 'Commits that have failed.',
    registers,
  });
  return {
    batch(batch) {
      durations.observe(batch.durationMs / 1000);
      if (batch.failed) {
        failures.inc();
        return;
      }
      writes.observe(batch.writes);
      changes.inc(batch.changes);
    },
  };
}

/** Shows the store's revision in a Prometheus registry. */
export function exposeRevision(registry: Registry, store: Pick<Store, 'revision'>): void {
  new Gauge({
    name: 'baykeeper_store_revision',
    help: 'The newest committed revision.',
    registers: [registry],
    collect() {
      this.set(store.revision);
    },
  });
}
