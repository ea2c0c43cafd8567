import { timestampMs } from '@bufbuild/protobuf/wkt';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import type { ExecutePodStart, PodLogsRequest } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import { type ClusterDriver, type ClusterObject, resourceTypes } from '../drivers/cluster_driver.ts';
import { ClusterError, type ClusterErrorKind } from '../drivers/cluster_error.ts';
import { judge, type PolicySource, refusal } from '../policy.ts';
import { type Desired, type OpenStream, StreamError, type StreamSink } from '../ports.ts';
import { executeStream, outputStream } from '../stream_pump.ts';
import { asksOfObject } from './asks.ts';
import { fieldsOf, listOf } from './json_fields.ts';
import { appliedAnnotation } from './labels.ts';
import { manifestOf, namespaceOf } from './manifest.ts';
import { isShared, objectUidOf, whoseObject } from './ownership.ts';
import { bounded } from './reasons.ts';

/** What streams into pods are opened with. */
export interface PodStreamContext {
  readonly driver: ClusterDriver;
  readonly desired: Pick<Desired, 'current'>;
  readonly bayUid: string;
  readonly policy: Pick<PolicySource, 'current'>;
}

/** Opens the log of one of a pod's containers. Rejects with StreamError. */
export async function openPodLogs(
  context: PodStreamContext,
  uid: string,
  request: PodLogsRequest,
  sink: StreamSink,
): Promise<OpenStream> {
  return await opening(async () => {
    const pod = { ...placeOf((await podOf(context, uid)).metadata), container: request.container };
    const output = await context.driver.logs(pod, {
      follow: request.follow,
      previous: request.previous,
      tailLines: request.tailLines === undefined ? undefined : Number(request.tailLines),
      sinceMs: request.sinceTime ? timestampMs(request.sinceTime) : undefined,
      timestamps: request.timestamps,
    });
    return outputStream(output, sink);
  });
}

/** Executes a command in one of a pod's containers. Rejects with StreamError. */
export async function openPodExecute(
  context: PodStreamContext,
  uid: string,
  start: ExecutePodStart,
  sink: StreamSink,
): Promise<OpenStream> {
  const { command, tty, stdin, terminalSize: size, container } = start;
  if (command.length === 0) throw new StreamError('invalid', 'there is no command to execute');
  return await opening(async () => {
    const live = await podOf(context, uid);
    checkAllowed(context, uid, live, container);
    const pod = { ...placeOf(live.metadata), container };
    const exec = await context.driver.exec(pod, {
      command,
      tty,
      stdin,
      size: size && size.columns > 0 && size.rows > 0 ? size : undefined,
    });
    return executeStream(exec, sink);
  });
}

/** The pod as it is in the cluster, which must be ours. */
async function podOf({ driver, desired, bayUid }: PodStreamContext, uid: string): Promise<ClusterObject> {
  const assignment = desired.current.objects.get(uid)?.assignment;
  if (assignment?.kind !== Kind.POD) throw new StreamError('not-found', 'this bay has no such pod');
  const namespace = namespaceOf(assignment);
  const { name } = assignment;
  const live = await driver.get({ type: resourceTypes.Pod, namespace, name });
  if (!live) throw new StreamError('not-running', `pod ${namespace}/${name} is not in the cluster (yet)`);
  if (objectUidOf(live.metadata, bayUid) !== uid) throw new StreamError('invalid', whoseObject(bayUid, 'Pod', live));
  return live;
}

const placeOf = ({ namespace = '', name }: ClusterObject['metadata']) => ({ namespace, name });

/**
 * One that is forbidden may take its time to end. What was made of the wanted manifest is judged by that, as everywhere; but not the containers that
 * the cluster has added, in which the author of the manifest would be what he may not be.
 */
function checkAllowed(
  { driver, desired, bayUid, policy }: PodStreamContext,
  uid: string,
  live: ClusterObject,
  container: string,
): void {
  const assignment = desired.current.objects.get(uid)?.assignment;
  const manifest = assignment && manifestOf(assignment, bayUid);
  const isMade =
    live.metadata.annotations?.[appliedAnnotation] === manifest?.hash && !isShared(live.metadata, driver.fieldManager);
  const { containers, initContainers } = fieldsOf(manifest?.object.spec);
  const authors = new Set([...listOf(containers), ...listOf(initContainers)].map(({ name }) => name));
  const isAuthors = (container ? [container] : defaultsOf(live)).every((name) => authors.has(name));
  const judged = manifest && isMade && isAuthors ? manifest.object : live;
  const violations = judge(policy.current, asksOfObject('Pod', judged));
  if (violations.length > 0) throw new StreamError('forbidden', bounded(refusal(policy.current, violations)));
}

/** Which container may be meant where none is named. */
function defaultsOf({ metadata, spec }: ClusterObject): unknown[] {
  const chosen = metadata.annotations?.['kubectl.kubernetes.io/default-container'];
  return [listOf(fieldsOf(spec).containers)[0]?.name, ...(chosen === undefined ? [] : [chosen])];
}

const kinds: Partial<Record<ClusterErrorKind, StreamError['kind']>> = {
  'not-found': 'not-found',
  'namespace-not-found': 'not-found',
  'not-running': 'not-running',
  unauthorized: 'engine-unavailable',
  throttled: 'engine-unavailable',
  unavailable: 'engine-unavailable',
  timeout: 'engine-unavailable',
};

/** As a StreamError says it. */
export function toStreamError(cause: unknown): unknown {
  return cause instanceof ClusterError
    ? new StreamError(kinds[cause.kind] ?? 'invalid', cause.message, { cause })
    : cause;
}

async function opening<T>(open: () => Promise<T>): Promise<T> {
  try {
    return await open();
  } catch (error) {
    throw toStreamError(error);
  }
}
