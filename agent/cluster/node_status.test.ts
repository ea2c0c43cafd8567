import test from 'ava';
import { ConditionStatus, NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { ClusterObject } from '../drivers/cluster_driver.ts';
import { metricsOf, nodeViewOf, withUsage } from './node_status.ts';
import { cpuCores, memoryBytes } from './quantity.ts';

const condition = (type: string, status: string, heartbeat = '2026-01-01T00:00:00Z') => ({
  type,
  status,
  reason: `${type}Reason`,
  message: `${type} message`,
  lastHeartbeatTime: heartbeat,
  lastTransitionTime: '2026-01-01T00:00:00Z',
});
const node = (status: object = {}, labels: Record<string, string> = {}, spec: object = {}): ClusterObject => ({
  metadata: { name: 'k1', uid: 'c1', resourceVersion: '1', labels },
  spec,
  status: {
    conditions: [condition('MemoryPressure', 'False'), condition('Ready', 'True')],
    addresses: [
      { type: 'InternalIP', address: '192.0.2.7' },
      { type: 'Hostname', address: 'k1.example.com' },
    ],
    capacity: { cpu: '4', memory: '4039584Ki', pods: '110' },
    allocatable: { cpu: '3500m', memory: '3Gi', pods: '100' },
    nodeInfo: {
      architecture: 'amd64',
      kernelVersion: '6.1',
      osImage: 'Debian',
      kubeletVersion: 'v1.20.2',
      containerRuntimeVersion: 'docker://20.10.24',
    },
    ...status,
  },
});

test('a node is what its kubelet and its labels say', (t) => {
  const labels = {
    'node-role.kubernetes.io/master': '',
    'node-role.kubernetes.io/control-plane': '',
    'node-role.kubernetes.io/etcd': '',
  };
  const { report } = nodeViewOf(node({}, labels, { unschedulable: true }), 5_000);
  t.is(report.name, 'k1');
  const { status } = report;
  t.like(status, { phase: NodePhase.READY, reason: '', message: '' });
  t.like(status?.info, {
    hostname: 'k1.example.com',
    os: 'Debian',
    kernelVersion: '6.1',
    architecture: 'x64',
    engine: 'kubernetes',
    engineVersion: 'v1.20.2',
    cpus: 4,
    memoryBytes: 4_039_584n * 1024n,
    addresses: ['192.0.2.7'],
  });
  t.like(status?.cluster, {
    roles: ['control-plane', 'etcd'],
    capacity: { cpu: '4', memory: '4039584Ki', pods: '110' },
    kubeletVersion: 'v1.20.2',
    containerRuntime: 'docker://20.10.24',
    unschedulable: true,
    clusterUid: 'c1',
  });
  t.is(status?.conditions[1]?.status, ConditionStatus.TRUE);
  t.deepEqual(nodeViewOf(node(), 0).report.status?.cluster?.roles, ['worker']);
});

test('a node that is not ready says why', (t) => {
  const { status } = nodeViewOf(node({ conditions: [condition('Ready', 'Unknown')] }), 0).report;
  t.like(status, { phase: NodePhase.NOT_READY, reason: 'ReadyReason', message: 'Ready message' });
  t.is(status?.conditions[0]?.status, ConditionStatus.UNKNOWN);
  t.like(nodeViewOf(node({ conditions: [] }), 0).report.status, { phase: NodePhase.NOT_READY, reason: 'NoCondition' });
  t.notThrows(() =>
    nodeViewOf(
      { metadata: { name: 'x', uid: 'u', resourceVersion: '1' }, status: { conditions: [null], addresses: 3 } },
      0,
    ),
  );
});

test('that a kubelet says the same again is no news', (t) => {
  const first = nodeViewOf(node(), 1_000);
  const beat = {
    conditions: [
      condition('MemoryPressure', 'False', '2026-02-01T00:00:00Z'),
      condition('Ready', 'True', '2026-02-01T00:00:00Z'),
    ],
  };
  t.is(nodeViewOf(node(beat), 9_000).key, first.key);
  t.not(nodeViewOf(node({}, {}, { unschedulable: true }), 1_000).key, first.key);
});

test('what a node uses is measured by what is allocatable', (t) => {
  const view = nodeViewOf(node(), 0);
  const metrics = metricsOf({
    metadata: { name: 'k1', uid: '', resourceVersion: '' },
    usage: { cpu: '875m', memory: '1Gi' },
  });
  t.like(withUsage(view, metrics).status?.usage, { cpuPercent: 25, memoryUsedBytes: 2n ** 30n });
  t.is(withUsage(view, undefined).status?.usage, undefined);
  t.is(withUsage(view, { cpu: 99, memoryBytes: 0 }).status?.usage?.cpuPercent, 100);
});

test('quantities are read as Kubernetes writes them', (t) => {
  t.deepEqual(
    ['2', '500m', '1500000n', '0.5', '2k', '', 'x', undefined].map(cpuCores),
    [2, 0.5, 0.002, 0.5, 2000, 0, 0, 0],
  );
  t.deepEqual(
    ['1024', '1Ki', '4039584Ki', '1e3', '1.5Gi', '2M', '1Zi'].map(memoryBytes),
    [1024, 1024, 4_136_534_016, 1000, 1_610_612_736, 2_000_000, 0],
  );
});
