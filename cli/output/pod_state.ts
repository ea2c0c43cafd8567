import { type Pod, PodPhase } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { type Mapping, mappingAt, mappingsAt, numberAt, textAt } from '../json.ts';
import { duration } from './age.ts';

/**
 * How a pod is, in the word that `kubectl get pods` has for it: `Running`, `ContainerCreating`, `CrashLoopBackOff`, `Init:0/1`, `Completed`,
 * `Terminating`. Where it could not be made as asked, the reason for that: `Conflict`. `Unknown` once nobody can tell.
 */
export function podStatus(pod: Pod): string {
  const { status, metadata } = pod;
  if (status?.phase === PodPhase.UNKNOWN) return 'Unknown';
  if (metadata?.deleteTime || status?.phase === PodPhase.DELETING) return 'Terminating';
  const own = mappingAt(status, 'manifest');
  if (status?.phase === PodPhase.FAILED && textAt(own, 'phase') !== 'Failed') return status.reason || 'Failed';
  return initState(own, mappingsAt(pod.spec?.manifest, 'initContainers').length) ?? containerState(own);
}

/** Whether its containers are ready: `1/2`. `?/2` once nobody can tell. */
export function podReady(pod: Pod): string {
  const { status } = pod;
  const all = status?.containers || mappingsAt(pod.spec?.manifest, 'containers').length;
  return `${status?.phase === PodPhase.UNKNOWN ? '?' : (status?.containersReady ?? 0)}/${all}`;
}

/** How often its containers were restarted, and when last: `3 (5m ago)`. */
export function podRestarts(pod: Pod, nowMs: number): string {
  const count = pod.status?.restarts ?? 0;
  const own = mappingAt(pod.status, 'manifest');
  const times = [...mappingsAt(own, 'containerStatuses'), ...mappingsAt(own, 'initContainerStatuses')]
    .map((container) => Date.parse(textAt(container, 'lastState', 'terminated', 'finishedAt')))
    .filter((ms) => !Number.isNaN(ms));
  return count > 0 && times.length > 0 ? `${count} (${duration(nowMs - Math.max(...times))} ago)` : String(count);
}

/** Whether a condition of the pod holds, as the cluster says: `True`, `False`, `Unknown`; empty when it does not speak of it. */
export function podCondition(pod: Pod, type: string): string {
  const wanted = type.toLowerCase();
  const found = mappingsAt(pod.status, 'manifest', 'conditions').find(
    (condition) => textAt(condition, 'type').toLowerCase() === wanted,
  );
  return textAt(found, 'status');
}

/** Of a pod whose init containers have not all ended well. */
function initState(status: Mapping, total: number): string | undefined {
  for (const [index, container] of mappingsAt(status, 'initContainerStatuses').entries()) {
    const terminated = mappingAt(container, 'state', 'terminated');
    const isSidecar = container.started === true;
    if (isSidecar || ('exitCode' in terminated && terminated.exitCode === 0)) continue;
    if ('exitCode' in terminated) return `Init:${terminationText(terminated)}`;
    const waiting = textAt(container, 'state', 'waiting', 'reason');
    return waiting && waiting !== 'PodInitializing' ? `Init:${waiting}` : `Init:${index}/${total}`;
  }
  return undefined;
}

function containerState(status: Mapping): string {
  let word = textAt(status, 'reason') || textAt(status, 'phase') || 'Pending';
  let running = false;
  for (const container of [...mappingsAt(status, 'containerStatuses')].reverse()) {
    const waiting = textAt(container, 'state', 'waiting', 'reason');
    const terminated = mappingAt(container, 'state', 'terminated');
    if (waiting) word = waiting;
    else if ('exitCode' in terminated) word = terminationText(terminated);
    else if (container.ready === true && 'startedAt' in mappingAt(container, 'state', 'running')) running = true;
  }
  // One container has ended well, and another goes on.
  if (word !== 'Completed' || !running) return word;
  const ready = mappingsAt(status, 'conditions').some(
    (condition) => condition.type === 'Ready' && condition.status === 'True',
  );
  return ready ? 'Running' : 'NotReady';
}

function terminationText(terminated: Mapping): string {
  const signal = numberAt(terminated, 'signal');
  return textAt(terminated, 'reason') || (signal ? `Signal:${signal}` : `ExitCode:${numberAt(terminated, 'exitCode')}`);
}
