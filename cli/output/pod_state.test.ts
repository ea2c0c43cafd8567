import { create, type JsonObject } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import { PodPhase, PodSchema } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { podCondition, podReady, podRestarts, podStatus } from './pod_state.ts';
import { quantity } from './quantity.ts';

function pod(manifest: JsonObject, status: { phase?: PodPhase; reason?: string; restarts?: number } = {}) {
  return create(PodSchema, {
    metadata: { name: 'p' },
    spec: { manifest: { containers: [{ name: 'a' }, { name: 'b' }], initContainers: [{ name: 'i' }, { name: 'j' }] } },
    status: { phase: PodPhase.RUNNING, ...status, manifest },
  });
}

const containers = (...states: JsonObject[]): JsonObject => ({
  phase: 'Running',
  containerStatuses: states.map((state) => ({ ready: 'running' in state, state })),
});
const running = { running: { startedAt: '2026-11-22T11:46:05Z' } };

test('the status of a pod is in the words of kubectl', (t) => {
  const cases: [JsonObject, string][] = [
    [{}, 'Pending'],
    [{ phase: 'Pending' }, 'Pending'],
    [containers(running, running), 'Running'],
    [{ ...containers({ waiting: { reason: 'ContainerCreating' } }), phase: 'Pending' }, 'ContainerCreating'],
    [containers(running, { waiting: { reason: 'CrashLoopBackOff' } }), 'CrashLoopBackOff'],
    [
      { phase: 'Succeeded', containerStatuses: [{ state: { terminated: { exitCode: 0, reason: 'Completed' } } }] },
      'Completed',
    ],
    [containers({ terminated: { exitCode: 3 } }), 'ExitCode:3'],
    [containers({ terminated: { exitCode: 137, signal: 9 } }), 'Signal:9'],
    [containers({ terminated: { exitCode: 1, reason: 'Error' } }), 'Error'],
    [containers(running, { terminated: { exitCode: 0, reason: 'Completed' } }), 'NotReady'],
    [
      {
        ...containers(running, { terminated: { exitCode: 0, reason: 'Completed' } }),
        conditions: [{ type: 'Ready', status: 'True' }],
      },
      'Running',
    ],
    [{ phase: 'Failed', reason: 'Evicted' }, 'Evicted'],
    [{ phase: 'Pending', initContainerStatuses: [{ state: running }, { state: {} }] }, 'Init:0/2'],
    [
      {
        phase: 'Pending',
        initContainerStatuses: [
          { state: { terminated: { exitCode: 0 } } },
          { state: { waiting: { reason: 'PodInitializing' } } },
        ],
      },
      'Init:1/2',
    ],
    [
      { phase: 'Pending', initContainerStatuses: [{ state: { waiting: { reason: 'ImagePullBackOff' } } }] },
      'Init:ImagePullBackOff',
    ],
    [{ phase: 'Pending', initContainerStatuses: [{ state: { terminated: { exitCode: 2 } } }] }, 'Init:ExitCode:2'],
    [{ ...containers(running), initContainerStatuses: [{ started: true, state: running }] }, 'Running'],
  ];
  for (const [manifest, expected] of cases) t.is(podStatus(pod(manifest)), expected, JSON.stringify(manifest));
});

test('what we say of a pod goes before what the cluster said of it', (t) => {
  const was = containers(running);
  t.is(podStatus(pod(was, { phase: PodPhase.UNKNOWN })), 'Unknown');
  t.is(podStatus(pod(was, { phase: PodPhase.DELETING })), 'Terminating');
  t.is(podStatus(pod({}, { phase: PodPhase.FAILED, reason: 'Conflict' })), 'Conflict');
  t.is(podStatus(pod(was, { phase: PodPhase.FAILED, reason: 'Invalid' })), 'Invalid');
  t.is(podStatus(pod({ phase: 'Failed' }, { phase: PodPhase.FAILED, reason: 'Error' })), 'Failed');
  t.is(podStatus(create(PodSchema, { metadata: { name: 'p' } })), 'Pending');
  t.is(podStatus(create(PodSchema, { metadata: { deleteTime: timestampFromMs(0) } })), 'Terminating');
  t.is(podReady(pod(was, { phase: PodPhase.UNKNOWN })), '?/2');
  t.is(podReady(pod({})), '0/2');
});

test('restarts are counted, and the last is dated', (t) => {
  const now = Date.parse('2026-11-22T12:00:00Z');
  const manifest = {
    containerStatuses: [
      { lastState: { terminated: { finishedAt: '2026-11-22T11:00:00Z' } } },
      { lastState: { terminated: { finishedAt: '2026-11-22T11:55:00Z' } } },
    ],
  };
  t.is(podRestarts(pod(manifest, { restarts: 3 }), now), '3 (5m ago)');
  t.is(podRestarts(pod({}, { restarts: 3 }), now), '3');
  t.is(podRestarts(pod({}), now), '0');
});

test('conditions are those of the cluster, its own and others', (t) => {
  const found = pod({
    conditions: [
      { type: 'Ready', status: 'False' },
      { type: 'example.com/Gate', status: 'True' },
    ],
  });
  t.is(podCondition(found, 'ready'), 'False');
  t.is(podCondition(found, 'example.com/gate'), 'True');
  t.is(podCondition(found, 'Initialized'), '');
});

test('quantities of Kubernetes are numbers', (t) => {
  t.is(quantity('4039584Ki'), 4039584 * 1024);
  t.is(quantity('500m'), 0.5);
  t.is(quantity('1.5Gi'), 1.5 * 2 ** 30);
  t.is(quantity('2'), 2);
  t.is(quantity('1e3'), 1000);
  t.is(quantity('12E'), 12e18);
  t.is(quantity('much'), 0);
});
