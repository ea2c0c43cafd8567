import type { JsonObject } from '@bufbuild/protobuf';
import test from 'ava';
import { PodPhase, type PodStatus } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import {
  ReplicationControllerPhase,
  type ReplicationControllerStatus,
} from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ServicePhase, type ServiceStatus } from '../../proto/gen/baykeeper/v1/service_pb.js';
import type { ClusterObject } from '../drivers/cluster_driver.ts';
import { liveOf } from './live.ts';
import type { ClusterKind } from './manifest.ts';
import { endingMessage, type StatusInput, statusOf } from './status.ts';

const liveFrom = (
  kind: ClusterKind,
  spec: JsonObject,
  status: JsonObject,
  metadata: Partial<ClusterObject['metadata']> = {},
) =>
  liveOf(
    {
      metadata: {
        name: 'web',
        namespace: 'default',
        uid: 'c1',
        resourceVersion: '5',
        labels: { 'baykeeper.io/uid': 'u1', 'baykeeper.io/bay': 'bay-1' },
        ...metadata,
      },
      spec,
      status,
    },
    { kind, bayUid: 'bay-1', fieldManager: 'baykeeper', manifest: undefined },
  );

const input = (kind: ClusterKind, change: Partial<StatusInput> = {}): StatusInput => ({
  kind,
  nodeName: 'n1',
  removing: false,
  live: undefined,
  endpoints: undefined,
  events: [],
  problem: undefined,
  passing: false,
  note: undefined,
  delivery: {
    receivedGeneration: 2n,
    appliedGeneration: 1n,
    observedGeneration: 1n,
    publishMs: 1_000,
    receiveMs: 2_000,
    applyMs: 3_000,
    observeMs: 4_000.5,
  },
  ...change,
});
const pod = (status: JsonObject, change: Partial<StatusInput> = {}, spec: JsonObject = { containers: [{}, {}] }) =>
  statusOf(input('Pod', { live: liveFrom('Pod', spec, status), ...change })).value as PodStatus;
const container = (name: string, state: JsonObject, more: JsonObject = {}): JsonObject => ({
  name,
  state,
  restartCount: 0,
  ready: false,
  ...more,
});

test('a pod that runs: what kubectl would show', (t) => {
  const running = { running: { startedAt: '2026-01-01T00:00:00Z' } };
  const manifest = {
    phase: 'Running',
    podIP: '10.0.0.7',
    containerStatuses: [
      container('a', running, { ready: true, restartCount: 2 }),
      container('b', running, { ready: true, restartCount: 1 }),
    ],
    initContainerStatuses: [container('i', { terminated: { exitCode: 0 } }, { restartCount: 4 })],
  };
  const status = pod(manifest, {}, { nodeName: 'k1', containers: [{}, {}] });
  t.like(status, {
    phase: PodPhase.RUNNING,
    reason: '',
    message: '',
    node: 'n1',
    clusterNode: 'k1',
    clusterUid: 'c1',
    podIp: '10.0.0.7',
    containers: 2,
    containersReady: 2,
    restarts: 7,
  });
  t.deepEqual(status.manifest, manifest);
  t.is(status.delivery?.receivedGeneration, 2n);
});

test('a pod that does not run as it should: why, as far as the cluster knows', (t) => {
  const cases: [JsonObject, Partial<PodStatus>][] = [
    [{ phase: 'Pending' }, { phase: PodPhase.PENDING, reason: 'NotScheduled' }],
    [
      {
        phase: 'Pending',
        conditions: [{ type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message: 'no nodes' }],
      },
      { phase: PodPhase.PENDING, reason: 'Unschedulable', message: 'no nodes' },
    ],
    [
      { phase: 'Pending', containerStatuses: [container('a', { waiting: { reason: 'ContainerCreating' } })] },
      { phase: PodPhase.PENDING, reason: 'ContainerCreating', message: 'container a does not run yet' },
    ],
    [
      {
        phase: 'Running',
        containerStatuses: [
          container('a', { waiting: { reason: 'ContainerCreating' } }),
          container('b', { waiting: { reason: 'CrashLoopBackOff', message: 'back-off 10s' } }),
        ],
      },
      { phase: PodPhase.RUNNING, reason: 'CrashLoopBackOff', message: 'container b: back-off 10s' },
    ],
    [
      {
        phase: 'Running',
        containerStatuses: [container('a', { running: {} }, { ready: true }), container('b', { running: {} })],
      },
      { phase: PodPhase.RUNNING, reason: 'ContainersNotReady', message: '1 of 2 containers are ready' },
    ],
    [
      {
        phase: 'Failed',
        containerStatuses: [
          container('a', { terminated: { exitCode: 0 } }),
          container('b', { terminated: { exitCode: 137, reason: 'OOMKilled' } }),
        ],
      },
      { phase: PodPhase.FAILED, reason: 'OOMKilled', message: 'container b ended with exit code 137' },
    ],
    [
      { phase: 'Succeeded', containerStatuses: [container('a', { terminated: { exitCode: 0, reason: 'Completed' } })] },
      { phase: PodPhase.SUCCEEDED, reason: 'Completed' },
    ],
    [
      { phase: 'Failed', reason: 'Evicted', message: 'low on memory' },
      { phase: PodPhase.FAILED, reason: 'Evicted', message: 'low on memory' },
    ],
    [
      { phase: 'Unknown', reason: 'NodeLost' },
      { phase: PodPhase.RUNNING, reason: 'NodeLost' },
    ],
    [{ phase: 7, containerStatuses: 'garbage', conditions: [null] } as never, { phase: PodPhase.PENDING }],
  ];
  for (const [manifest, expected] of cases) t.like(pod(manifest), expected);
});

test('what runs goes on where a change is refused; what does not run has failed, unless that may pass', (t) => {
  const problem = { reason: 'Invalid', message: 'no', retryTimeMs: 9_000 };
  t.like(pod({ phase: 'Running' }, { problem }), { phase: PodPhase.RUNNING, reason: 'Invalid', message: 'no' });
  t.like(pod({ phase: 'Pending' }, { problem }), { phase: PodPhase.FAILED, reason: 'Invalid' });
  t.like(statusOf(input('Pod', { problem })).value, { phase: PodPhase.FAILED });
  const passing = statusOf(input('Pod', { problem, passing: true })).value as PodStatus;
  t.like(passing, { phase: PodPhase.PENDING, reason: 'Invalid' });
  t.is(passing.retryTime?.seconds, 9n);
  t.like(pod({ phase: 'Running' }, { problem, removing: true }), { phase: PodPhase.DELETING, reason: 'Invalid' });
});

test('a status that is too large for a message is left out, and the rest is said', (t) => {
  const status = pod({ phase: 'Running', podIP: '10.0.0.7', junk: 'x'.repeat(200_000) });
  t.is(status.manifest, undefined);
  t.is(status.podIp, '10.0.0.7');
});

test('a service: its address, its ports and what it leads to', (t) => {
  const spec: JsonObject = {
    clusterIP: '10.96.0.9',
    type: 'NodePort',
    ports: [
      { port: 80, protocol: 'TCP' },
      { port: 53, protocol: 'UDP', nodePort: 30_053 },
    ],
  };
  const endpoints = { ready: Array.from({ length: 200 }, (_, i) => `10.0.0.${i}:80`), notReady: ['10.0.1.1:80'] };
  const status = statusOf(input('Service', { live: liveFrom('Service', spec, {}), endpoints })).value as ServiceStatus;
  t.like(status, { phase: ServicePhase.RUNNING, reason: '', clusterIp: '10.96.0.9' });
  t.deepEqual(status.ports, ['80/TCP', '53:30053/UDP']);
  t.is(status.endpointsReady.length, 100);
  t.deepEqual(status.endpointsNotReady, ['10.0.1.1:80']);
  const balancer = liveFrom('Service', { ...spec, type: 'LoadBalancer' }, {});
  t.like(statusOf(input('Service', { live: balancer })).value, {
    phase: ServicePhase.RUNNING,
    reason: 'LoadBalancerPending',
  });
  const given = liveFrom(
    'Service',
    { ...spec, type: 'LoadBalancer' },
    { loadBalancer: { ingress: [{ ip: '192.0.2.1' }] } },
  );
  t.like(statusOf(input('Service', { live: given })).value, { reason: '' });
});

test('a controller: pending until it was looked at, then how many are ready', (t) => {
  const controller = (status: JsonObject) =>
    statusOf(
      input('ReplicationController', {
        live: liveFrom('ReplicationController', { replicas: 3, selector: { b: '2', a: '1' } }, status, {
          generation: 4,
        }),
      }),
    ).value as ReplicationControllerStatus;
  t.like(controller({ observedGeneration: 3, replicas: 1 }), {
    phase: ReplicationControllerPhase.PENDING,
    reason: 'NotObserved',
  });
  t.like(controller({ observedGeneration: 4, replicas: 3, readyReplicas: 1 }), {
    phase: ReplicationControllerPhase.RUNNING,
    message: '1 of 3 ready',
    replicasWanted: 3,
    replicas: 3,
    replicasReady: 1,
  });
  t.like(controller({ observedGeneration: 4, replicas: 3, readyReplicas: 3 }), { message: '' });
  const failing = { type: 'ReplicaFailure', status: 'True', reason: 'FailedCreate', message: 'quota' };
  t.like(controller({ observedGeneration: 4, conditions: [failing] }), {
    phase: ReplicationControllerPhase.RUNNING,
    reason: 'FailedCreate',
    message: '0 of 3 ready: quota',
  });
});

test('what an end waits for is said', (t) => {
  const none = { ending: undefined, finalizers: [] };
  t.is(endingMessage(none), 'waiting for the cluster to take it away');
  t.is(endingMessage(none, 1), 'waiting for its pod');
  t.is(endingMessage(none, 3), 'waiting for its 3 pods');
  t.is(
    endingMessage({ ending: { dueMs: 0, graceSeconds: 30 }, finalizers: ['a/b', 'c/d'] }),
    'waiting for whoever has set its finalizers a/b, c/d, and for its containers to end (grace period of 30 s, until 1970-01-01T00:00:00.000Z)',
  );
});
