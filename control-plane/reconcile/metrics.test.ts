import test from 'ava';
import { Registry } from 'prom-client';
import { createReconcileMetrics } from './metrics.ts';

test('messages and reports are counted, and what is so now is asked at each reading', async (t) => {
  const registry = new Registry();
  const state = { nodes: 3, freshNodes: 2, sessions: 2, streams: 0, unplaced: 1 };
  const metrics = createReconcileMetrics(registry, () => state);
  metrics.sent('delta', 100);
  metrics.sent('delta', 50);
  metrics.sent('snapshot', 1000);
  metrics.reported('taken', 7);
  metrics.reported('refused', 9);
  state.streams = 4;
  const text = await registry.metrics();
  for (const line of [
    'baykeeper_nodes 3',
    'baykeeper_nodes_fresh 2',
    'baykeeper_sessions 2',
    'baykeeper_streams 4',
    'baykeeper_objects_unplaced 1',
    'baykeeper_assign_messages_total{what="delta"} 2',
    'baykeeper_assign_bytes_total{what="delta"} 150',
    'baykeeper_assign_messages_total{what="snapshot"} 1',
    'baykeeper_reports_total{outcome="taken"} 1',
    'baykeeper_reports_total{outcome="refused"} 1',
    'baykeeper_report_objects_total 7',
  ]) {
    t.true(text.split('\n').includes(line), line);
  }
});
