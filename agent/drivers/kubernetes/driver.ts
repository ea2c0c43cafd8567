import type { JsonObject } from '@bufbuild/protobuf';
import { type Clock, systemClock } from '../../clock.ts';
import type {
  ApplyOptions,
  CallOptions,
  ClusterDriver,
  ClusterInfo,
  ClusterObject,
  DeleteOptions,
  Election,
  ElectionOptions,
  ListOptions,
  ObjectList,
  ObjectRef,
  PodExecOptions,
  PodLogOptions,
  PodRef,
  ResourceType,
  WatchEvent,
  WatchOptions,
  WriteOptions,
} from '../cluster_driver.ts';
import { ClusterError } from '../cluster_error.ts';
import type { EngineExec, EngineOutput } from '../driver.ts';
import { Connector, type ConnectorOptions } from './connection.ts';
import { discoverNamespacedTypes } from './discovery.ts';
import { openExec } from './exec.ts';
import { fieldManager } from './field_manager.ts';
import { AccessFinder, type FindAccessOptions } from './find_access.ts';
import { ApiClient } from './http.ts';
import { LeaseElection } from './lease.ts';
import { readList } from './list.ts';
import { openLogs } from './logs.ts';
import { collectionPath, objectPath, refOf, withQuery } from './paths.ts';
import { type WatchContext, watch } from './watch.ts';

export interface KubernetesDriverOptions extends FindAccessOptions, Omit<ConnectorOptions, 'find' | 'nowMs'> {
  /** Default: the machine's. */
  readonly clock?: Clock;
  /** In [0, 1). Default `Math.random`. */
  readonly random?: () => number;
  /** Name and version, for the cluster's audit log. Default `baykeeper-agent`. */
  readonly userAgent?: string;
  /** See WatchContext. */
  readonly watch?: Pick<WatchContext, 'idleMs' | 'lifetimeMs'>;
}

const chunkSize = 250;
const pingTimeoutMs = 5_000;
/**
 * An apply that may create but not change carries this. A create clears the field before anything is stored; a change is refused for it,
 * as nobody may set it. No precondition does the same: a uid or a resourceVersion demands that there is an object.
 */
const onlyAbsent = { deletionGracePeriodSeconds: 1_000_000_007 };

/** A Kubernetes cluster, 1.20 or newer. Nothing is dialled until it is used. */
export class KubernetesDriver implements ClusterDriver {
  readonly fieldManager = fieldManager;
  readonly #client: ApiClient;
  readonly #clock: Clock;
  readonly #random: (() => number) | undefined;
  readonly #watch: KubernetesDriverOptions['watch'];

  constructor({ clock = systemClock, random, userAgent, watch: watchOptions, ...options }: KubernetesDriverOptions) {
    const finder = new AccessFinder(options);
    const connector = new Connector({ ...options, find: () => finder.find(), nowMs: () => clock.now() });
    this.#client = new ApiClient({ connector, userAgent });
    this.#clock = clock;
    this.#random = random;
    this.#watch = watchOptions;
  }

  get target(): string {
    return this.#client.target;
  }

  async get<T extends ClusterObject = ClusterObject>(
    ref: ObjectRef,
    options: CallOptions = {},
  ): Promise<T | undefined> {
    try {
      return await this.#client.request<T>({
        method: 'GET',
        path: objectPath(ref),
        plural: ref.type.plural,
        ...calls(options),
      });
    } catch (error) {
      if (error instanceof ClusterError && (error.kind === 'not-found' || error.kind === 'namespace-not-found'))
        return undefined;
      throw error;
    }
  }

  async list<T extends ClusterObject = ClusterObject>(
    type: ResourceType,
    options: ListOptions = {},
  ): Promise<ObjectList<T>> {
    return await readList(this.#client, type, { chunkSize, ...options, transform: (object) => object as T });
  }

  async apply(type: ResourceType, object: JsonObject, options: ApplyOptions = {}): Promise<ClusterObject> {
    const { expect, force, dryRun } = options;
    const demands = expect === 'absent' ? onlyAbsent : expect;
    const body = demands ? { ...object, metadata: { ...(object.metadata as JsonObject), ...demands } } : object;
    const query = { fieldManager, force: force || expect === 'absent', dryRun: dryRun && 'All' };
    try {
      return await this.#client.request<ClusterObject>({
        method: 'PATCH',
        path: withQuery(objectPath(refOf(type, object)), query),
        body,
        contentType: 'application/apply-patch+yaml',
        plural: type.plural,
        // To have it applied twice is to have it applied, unless it was to find something.
        repeatable: expect === undefined,
        ...calls(options),
      });
    } catch (error) {
      throw expect === undefined ? error : expectation(error, type, object);
    }
  }

  async create(type: ResourceType, object: JsonObject, options: WriteOptions = {}): Promise<ClusterObject> {
    const { namespace } = refOf(type, object);
    const query = { fieldManager, dryRun: options.dryRun && 'All' };
    return await this.#client.request<ClusterObject>({
      method: 'POST',
      path: withQuery(collectionPath(type, namespace), query),
      body: object,
      plural: type.plural,
      ...calls(options),
    });
  }

  async mergePatch(ref: ObjectRef, patch: JsonObject, options: WriteOptions = {}): Promise<ClusterObject> {
    return await this.#client.request<ClusterObject>({
      method: 'PATCH',
      path: withQuery(objectPath(ref), { fieldManager, dryRun: options.dryRun && 'All' }),
      body: patch,
      contentType: 'application/merge-patch+json',
      plural: ref.type.plural,
      ...calls(options),
    });
  }

  async delete(ref: ObjectRef, options: DeleteOptions = {}): Promise<ClusterObject | undefined> {
    const { uid, resourceVersion, propagationPolicy, gracePeriodSeconds, dryRun } = options;
    try {
      const answer = await this.#client.request<ClusterObject>({
        method: 'DELETE',
        path: objectPath(ref),
        body: {
          apiVersion: 'v1',
          kind: 'DeleteOptions',
          preconditions: { uid, resourceVersion },
          propagationPolicy,
          gracePeriodSeconds,
          ...(dryRun && { dryRun: ['All'] }),
        },
        plural: ref.type.plural,
        ...calls(options),
      });
      return awaited(answer) ? answer : undefined;
    } catch (error) {
      if (error instanceof ClusterError && (error.kind === 'not-found' || error.kind === 'namespace-not-found'))
        return undefined;
      throw error;
    }
  }

  watch<T = ClusterObject>(type: ResourceType, options: WatchOptions<T>): AsyncIterable<WatchEvent<T>> {
    return watch({ client: this.#client, clock: this.#clock, random: this.#random, ...this.#watch }, type, options);
  }

  elect(options: ElectionOptions): Election {
    return new LeaseElection({ client: this.#client, clock: this.#clock, random: this.#random }, options);
  }

  async logs(pod: PodRef, options: PodLogOptions): Promise<EngineOutput> {
    return await openLogs(this.#client, pod, options);
  }

  async exec(pod: PodRef, options: PodExecOptions): Promise<EngineExec> {
    return await openExec(this.#client, pod, options);
  }

  async namespacedTypes(options: CallOptions = {}): Promise<readonly ResourceType[]> {
    return await discoverNamespacedTypes(this.#client, calls(options));
  }

  async info(options: CallOptions = {}): Promise<ClusterInfo> {
    const version = await this.#client.request<{ gitVersion?: unknown; platform?: unknown }>({
      method: 'GET',
      path: '/version',
      ...calls(options),
    });
    return { version: String(version.gitVersion ?? ''), platform: String(version.platform ?? '') };
  }

  async ping(): Promise<void> {
    await this.#client.text({ method: 'GET', path: '/readyz', timeoutMs: pingTimeoutMs });
  }

  close(): void {
    this.#client.close();
  }
}

const calls = ({ signal, timeoutMs }: CallOptions): CallOptions => ({ signal, timeoutMs });

/** Whether something is left of what was deleted. The answer is a Status, or the object as it is while it goes, or as it last was. */
function awaited({ kind, metadata }: ClusterObject): boolean {
  if (kind === 'Status' || !metadata?.deletionTimestamp) return false;
  return metadata.deletionGracePeriodSeconds !== 0 || (metadata.finalizers?.length ?? 0) > 0;
}

/** That what was expected does not hold comes as a field that must not change. */
function expectation(error: unknown, type: ResourceType, object: JsonObject): unknown {
  if (!(error instanceof ClusterError) || error.kind !== 'invalid') return error;
  const { namespace, name } = refOf(type, object);
  const what = `${type.kind} ${namespace ? `${namespace}/` : ''}${name}`;
  const about = (field: string) => error.causes.some((cause) => cause.field === field);
  const options = { cause: error, status: 409, reason: 'Conflict' };
  if (about('metadata.deletionGracePeriodSeconds')) {
    return new ClusterError('already-exists', `${what} already exists`, { ...options, reason: 'AlreadyExists' });
  }
  if (about('metadata.uid'))
    return new ClusterError('conflict', `${what} is another one by now`, { ...options, retryable: true });
  return error;
}
