import type { JsonObject } from '@bufbuild/protobuf';
import type { ClusterError } from './cluster_error.ts';
import type { EngineExec, EngineOutput } from './driver.ts';

/**
 * What the agent needs of a Kubernetes cluster, and nothing else. Objects are JSON as the cluster has it: nothing is added, dropped or
 * converted. Every call rejects with a `ClusterError` and nothing else, and never hangs for ever.
 *
 * A driver knows nothing of bays, ownership or drift: it carries out one request, and says what the cluster said. The one thing that it
 * repeats by itself is a request that came back with 401: once, with credentials read anew. Back-off is the caller's.
 */
export interface ClusterDriver {
  /** `host:port` of the API server, and who the agent is by its kubeconfig; for logs and messages. Holds no secret. */
  readonly target: string;
  /** Name under which the fields that this driver writes are owned, also where it creates without apply. */
  readonly fieldManager: string;

  /** Undefined: there is none (nor, perhaps, its namespace). */
  get<T extends ClusterObject = ClusterObject>(ref: ObjectRef, options?: CallOptions): Promise<T | undefined>;
  /** All that match, in one consistent state, read in chunks. */
  list<T extends ClusterObject = ClusterObject>(type: ResourceType, options?: ListOptions): Promise<ObjectList<T>>;
  /**
   * Server-side apply under `fieldManager`. `object` holds apiVersion, kind, metadata.name and, where the kind has one,
   * metadata.namespace, and everything that we want to own: what we owned before and is not in it is taken out. Creates it where there is none.
   * Stricter than other writes: an unknown field is `invalid`, and so is, for Kubernetes 1.20, a port without its `protocol`.
   *
   * Rejects with `conflict` when fields belong to others and `force` is not set (`causes` name each field, and who has it), and when
   * `expect` does not hold.
   */
  apply(type: ResourceType, object: JsonObject, options?: ApplyOptions): Promise<ClusterObject>;
  /** Rejects with `already-exists` when there is one. Prefer `apply`: what was created so is owned by an "Update", not by an "Apply". */
  create(type: ResourceType, object: JsonObject, options?: WriteOptions): Promise<ClusterObject>;
  /**
   * A JSON merge patch (RFC 7386), for metadata that is not part of the applied manifest. Put `metadata.resourceVersion` or `metadata.uid` in
   * it for a precondition. Rejects with `not-found`.
   */
  mergePatch(ref: ObjectRef, patch: JsonObject, options?: WriteOptions): Promise<ClusterObject>;
  /**
   * Resolves when the cluster has accepted: with the object as it is while its end is awaited (finalizers, grace period), or undefined when
   * nothing is left of it, or there was nothing. Rejects with `conflict` when a precondition does not hold.
   */
  delete(ref: ObjectRef, options?: DeleteOptions): Promise<ClusterObject | undefined>;

  /**
   * Everything that matches, and from then on every change of it, until `signal` aborts; then it ends. It never rejects: an API server that
   * is away, restarts, throttles or refuses is a `down` event with its error, and it goes on trying with full-jitter back-off. A watch
   * that expired (410) begins again with a new snapshot. A connection that went silent is found out and replaced.
   *
   * The next event is read when the consumer asks for it; nothing is kept but one chunk of a list, or one piece of the stream.
   */
  watch<T = ClusterObject>(type: ResourceType, options: WatchOptions<T>): AsyncIterable<WatchEvent<T>>;

  /** Stands for election at once, and again whenever it has lost, until `stop`. */
  elect(options: ElectionOptions): Election;

  /**
   * The log of a container, as bytes on `stdout`. Rejects with `not-found` when there is no such pod, `not-running` when the container has not
   * started (or, with `previous`, had no run before), `invalid` when there is no such container or several and none was chosen.
   */
  logs(pod: PodRef, options: PodLogOptions): Promise<EngineOutput>;
  /**
   * Executes a command in a container. The exit code is the command's; `exitCode()` rejects when the cluster says of no command how it ended
   * (no such program in the container, the connection broke).
   *
   * Rejects as `logs` does. `close` ends what runs in a terminal as a user would, with Ctrl-C and Ctrl-D; other commands see the end of their
   * input, and Kubernetes leaves it to the node's container runtime whether they are ended.
   */
  exec(pod: PodRef, options: PodExecOptions): Promise<EngineExec>;

  /**
   * Every kind of object that can be in a namespace and be listed, each in its group's preferred version, those of extensions included. Rejects
   * when a part of the API does not say what it has.
   */
  namespacedTypes(options?: CallOptions): Promise<readonly ResourceType[]>;
  /** What the API server says of itself. */
  info(options?: CallOptions): Promise<ClusterInfo>;
  /** Whether it answers and is ready to serve. Cheap, and never waits longer than 5 s. */
  ping(): Promise<void>;
  /** Closes every connection, ends watches and streams. Elections are to be stopped before. */
  close(): void;
}

/** A kind of object, and where the API serves it. */
export interface ResourceType {
  /** `v1`, or `GROUP/VERSION`. */
  readonly apiVersion: string;
  readonly kind: string;
  /** As in paths: `pods`. */
  readonly plural: string;
  readonly namespaced: boolean;
}

/** The kinds that the agent has to do with. */
export const resourceTypes = {
  Pod: { apiVersion: 'v1', kind: 'Pod', plural: 'pods', namespaced: true },
  Service: { apiVersion: 'v1', kind: 'Service', plural: 'services', namespaced: true },
  ReplicationController: {
    apiVersion: 'v1',
    kind: 'ReplicationController',
    plural: 'replicationcontrollers',
    namespaced: true,
  },
  Endpoints: { apiVersion: 'v1', kind: 'Endpoints', plural: 'endpoints', namespaced: true },
  Event: { apiVersion: 'v1', kind: 'Event', plural: 'events', namespaced: true },
  ConfigMap: { apiVersion: 'v1', kind: 'ConfigMap', plural: 'configmaps', namespaced: true },
  Secret: { apiVersion: 'v1', kind: 'Secret', plural: 'secrets', namespaced: true },
  ServiceAccount: { apiVersion: 'v1', kind: 'ServiceAccount', plural: 'serviceaccounts', namespaced: true },
  Namespace: { apiVersion: 'v1', kind: 'Namespace', plural: 'namespaces', namespaced: false },
  Node: { apiVersion: 'v1', kind: 'Node', plural: 'nodes', namespaced: false },
  Lease: { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', plural: 'leases', namespaced: true },
  /** Served by a metrics server, where there is one: without it calls reject with `not-found`, or `unavailable`. */
  NodeMetrics: { apiVersion: 'metrics.k8s.io/v1beta1', kind: 'NodeMetrics', plural: 'nodes', namespaced: false },
} as const satisfies Record<string, ResourceType>;

/** One object. */
export interface ObjectRef {
  readonly type: ResourceType;
  /** Unset for what has no namespace. */
  readonly namespace?: string;
  readonly name: string;
}

/** Any object of a cluster. Items of a list, and of a snapshot, come without apiVersion and kind: the cluster leaves them out. */
export interface ClusterObject {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: ObjectMeta;
  readonly [field: string]: unknown;
}

/** As in Kubernetes. Times are RFC 3339. */
export interface ObjectMeta {
  readonly name: string;
  readonly namespace?: string;
  readonly uid: string;
  readonly resourceVersion: string;
  readonly generation?: number;
  readonly creationTimestamp?: string;
  readonly deletionTimestamp?: string;
  readonly deletionGracePeriodSeconds?: number;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly finalizers?: readonly string[];
  readonly ownerReferences?: readonly {
    readonly apiVersion: string;
    readonly kind: string;
    readonly name: string;
    readonly uid: string;
    readonly controller?: boolean;
  }[];
  readonly managedFields?: readonly ManagedFields[];
  readonly [field: string]: unknown;
}

/** The fields that one manager owns. */
export interface ManagedFields {
  readonly manager?: string;
  readonly operation?: 'Apply' | 'Update';
  readonly apiVersion?: string;
  readonly time?: string;
  /** `status`, for one; newer clusters keep it apart. */
  readonly subresource?: string;
  /** Keys `f:NAME`, `k:{…}` and `v:…`; an empty object ends a path. */
  readonly fieldsV1?: JsonObject;
}

export interface CallOptions {
  /** Calls it off; then it rejects with `cancelled`. What was under way may have been done. */
  readonly signal?: AbortSignal;
  /** How long it may take in all. Default 30 s. */
  readonly timeoutMs?: number;
}

/** Which objects of a kind. */
export interface Selection {
  /** Unset: every namespace. */
  readonly namespace?: string;
  /** In Kubernetes' syntax: `a=b,c in (d,e)`. */
  readonly labelSelector?: string;
  readonly fieldSelector?: string;
}

/** `timeoutMs` is for each chunk. */
export interface ListOptions extends Selection, CallOptions {
  /** No more than so many. Default: all. */
  readonly atMost?: number;
  /** Objects in an answer of the API server. Default 250. */
  readonly chunkSize?: number;
}

export interface ObjectList<T extends ClusterObject = ClusterObject> {
  readonly items: readonly T[];
  /** Of the state that was read. */
  readonly resourceVersion: string;
  /** Whether `atMost` left some out. */
  readonly more: boolean;
}

export interface WriteOptions extends CallOptions {
  /** All checks of the cluster's, admission included, and the answer as if it were done; nothing is stored. */
  readonly dryRun?: boolean;
}

export interface ApplyOptions extends WriteOptions {
  /** Take fields that belong to others. Default false. */
  readonly force?: boolean;
  /**
   * What must hold in the instant of writing, else nothing happens and it rejects with `conflict` (`already-exists` for `absent`):
   * `absent`: there is no object of this name. Otherwise: it has this uid and, where set, this resourceVersion. Default: anything.
   */
  readonly expect?: 'absent' | { readonly uid: string; readonly resourceVersion?: string };
}

export interface DeleteOptions extends WriteOptions {
  /** Preconditions. */
  readonly uid?: string;
  readonly resourceVersion?: string;
  /** What becomes of what it owns. Default: the cluster's, which is `Background` for the kinds here, `Orphan` for a ReplicationController. */
  readonly propagationPolicy?: 'Background' | 'Foreground' | 'Orphan';
  /** Default: the object's own. */
  readonly gracePeriodSeconds?: number;
}

export interface WatchOptions<T> extends Selection {
  readonly signal: AbortSignal;
  /** What to keep of an object: called once for each as it comes, and the object itself is let go. Must not throw. Default: all of it. */
  readonly transform?: (object: ClusterObject) => T;
  /**
   * Asked of what was put with this `resourceVersion`. True: the consumer has taken in just that from the answer to its own write, and is told of it by
   * this call alone. Must not throw. Default: nothing is known.
   */
  readonly isKnown?: (resourceVersion: string) => boolean;
}

/**
 * `snapshot` comes first, and again whenever changes may have been missed: it is complete, what is not in it is gone. After it, `put` and
 * `delete` in the cluster's order. `delete` brings the object as it last was, seen through `transform`. An object that no longer
 * matches the selectors comes as `delete`.
 *
 * `down`: nothing is known of changes from now on; once for each new error. `up`: it goes on where it was, without a snapshot.
 */
export type WatchEvent<T> =
  | { readonly type: 'snapshot'; readonly items: readonly T[]; readonly resourceVersion: string }
  | { readonly type: 'put'; readonly item: T }
  | { readonly type: 'delete'; readonly item: T }
  | { readonly type: 'up' }
  | { readonly type: 'down'; readonly error: ClusterError };

/** A Lease by which several agents agree who leads. */
export interface ElectionOptions {
  readonly namespace: string;
  /** Of the Lease, which is made where there is none. Its namespace must be there. */
  readonly name: string;
  /** Who we are: another one for each run of an agent. */
  readonly identity: string;
  /** How long a leader that says nothing is taken for alive, by the clock of who watches. Default 10 s. */
  readonly leaseDurationMs?: number;
  /** A leader that could not renew for so long steps down: less than `leaseDurationMs`. Default 7 s. */
  readonly renewDeadlineMs?: number;
  /** Between two tries. Default 1.5 s. */
  readonly retryPeriodMs?: number;
  /** Whenever `leads` has changed. */
  readonly onChange: (leads: boolean) => void;
  /**
   * Whenever it is otherwise known than before that another leads: it was seen to renew the lease that it holds, within a lease's duration. That we
   * do not lead, or that nothing is heard of the lease, is no such knowledge.
   */
  readonly onFollowing?: (follows: boolean) => void;
  /** Whenever a try has failed, or worked again (undefined). Once for each new error. */
  readonly onProblem?: (error: ClusterError | undefined) => void;
}

export interface Election {
  /** True only while no other one can lead: it turns false by itself when the lease could not be renewed in time. */
  readonly leads: boolean;
  /** Aborts when this term ends: give it to every request that only a leader may make. Undefined: we do not lead. */
  readonly term: AbortSignal | undefined;
  /** Identity of who leads as far as is known; empty: nobody, or not known yet. */
  readonly holder: string;
  /** Steps down, and lets go of the lease so that another need not wait. Resolves when that is done, or cannot be. Never rejects. */
  stop(): Promise<void>;
}

export interface PodRef {
  readonly namespace: string;
  readonly name: string;
  /** Empty: its only one, or the one that its annotation `kubectl.kubernetes.io/default-container` names, else the first. */
  readonly container: string;
}

export interface PodLogOptions {
  readonly follow: boolean;
  /** Of the run before this one. */
  readonly previous: boolean;
  /** Undefined: all. */
  readonly tailLines: number | undefined;
  /** To the second: Kubernetes knows no less. */
  readonly sinceMs: number | undefined;
  /** Each line begins with its time, RFC 3339. */
  readonly timestamps: boolean;
}

export interface PodExecOptions {
  readonly command: readonly string[];
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly size: { readonly columns: number; readonly rows: number } | undefined;
}

export interface ClusterInfo {
  /** As `v1.20.2`. */
  readonly version: string;
  /** As `linux/amd64`. */
  readonly platform: string;
}
