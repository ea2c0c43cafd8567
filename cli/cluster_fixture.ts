import { EventEmitter, on } from 'node:events';
import { clone, create, type JsonObject, type MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, type ConnectRouter, type HandlerContext } from '@connectrpc/connect';
import { ApplyOutcome, type ApplyResultSchema, type Manifest } from '../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { MetadataSchema } from '../proto/gen/baykeeper/v1/metadata_pb.js';
import { type Pod, PodPhase, PodSchema } from '../proto/gen/baykeeper/v1/pod_pb.js';
import { PodService } from '../proto/gen/baykeeper/v1/pod_service_pb.js';
import {
  type ReplicationController,
  ReplicationControllerPhase,
  ReplicationControllerSchema,
} from '../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ReplicationControllerService } from '../proto/gen/baykeeper/v1/replication_controller_service_pb.js';
import { type Service, ServicePhase, ServiceSchema } from '../proto/gen/baykeeper/v1/service_pb.js';
import { ServiceService } from '../proto/gen/baykeeper/v1/service_service_pb.js';
import { WatchEventType } from '../proto/gen/baykeeper/v1/watch_pb.js';
import type { ExecOutput, ExecRequest } from './exec_fixture.ts';

/** The bay of the fixture that is a Kubernetes cluster. */
export const clusterBay = 'edge';

type ClusterObject = Pod | Service | ReplicationController;
const kinds = {
  Pod: { schema: PodSchema, field: 'pod' },
  Service: { schema: ServiceSchema, field: 'service' },
  ReplicationController: { schema: ReplicationControllerSchema, field: 'replicationController' },
} as const;
type ClusterKind = keyof typeof kinds;

/** What a test may look at and change of the Kubernetes bay. */
export interface ClusterFixture {
  /** By kind, namespace and name: `Pod/default/web`. */
  readonly objects: Map<string, ClusterObject>;
  /** Puts an object and tells the watches. It runs, unless `change` says otherwise. */
  put<K extends ClusterKind>(kind: K, name: string, change?: (object: ShapeOf[K]) => void): ShapeOf[K];
  remove(kind: ClusterKind, name: string): void;
  /** What a dry run of the cluster says of one manifest. */
  dryRun: (object: ClusterObject) => { live?: JsonObject; merged?: JsonObject; error?: ConnectError; field?: string };
  /** What `PodLogs` sends. */
  logs: string[];
  /** What `ExecutePod` does. */
  execute: (requests: AsyncIterable<ExecRequest>, context: HandlerContext) => AsyncIterable<ExecOutput>;
}

interface ShapeOf {
  Pod: Pod;
  Service: Service;
  ReplicationController: ReplicationController;
}

interface Event {
  readonly kind: ClusterKind;
  readonly type: WatchEventType;
  readonly object: ClusterObject;
  readonly revision: bigint;
}

interface Place {
  readonly namespace: string;
  readonly name: string;
  readonly uid?: string;
}

/** The services of a Kubernetes bay in memory, to try commands on. */
export class Cluster implements ClusterFixture {
  readonly objects = new Map<string, ClusterObject>();
  dryRun: ClusterFixture['dryRun'] = () => ({});
  logs: string[] = [];
  execute: ClusterFixture['execute'];
  readonly #called: (method: string, input: unknown) => void;
  readonly #feed = new EventEmitter().setMaxListeners(0);
  #revision = 1n;
  #made = 0;

  constructor(called: (method: string, input: unknown) => void, execute: ClusterFixture['execute']) {
    this.#called = called;
    this.execute = execute;
  }

  put<K extends ClusterKind>(kind: K, name: string, change?: (object: ShapeOf[K]) => void): ShapeOf[K] {
    const before = this.objects.get(`${kind}/default/${name}`);
    const made = before ?? this.#fresh(kind, name);
    change?.(made as ShapeOf[K]);
    return this.#store(kind, made, before !== undefined) as ShapeOf[K];
  }

  remove(kind: ClusterKind, name: string): void {
    const object = this.objects.get(`${kind}/default/${name}`);
    if (!object) return;
    this.objects.delete(`${kind}/default/${name}`);
    this.#revision++;
    this.#feed.emit('event', { kind, type: WatchEventType.DELETED, object, revision: this.#revision });
  }

  /** The result of applying one manifest; undefined when it is not of this bay. */
  apply({ object: given }: Manifest, validateOnly: boolean): MessageInitShape<typeof ApplyResultSchema> | undefined {
    const kind = (Object.keys(kinds) as ClusterKind[]).find((one) => kinds[one].field === given.case);
    const value = given.value as ClusterObject | undefined;
    if (!kind || value?.metadata?.bay !== clusterBay) return undefined;
    const { live, merged, error, field = '' } = validateOnly ? this.dryRun(value) : {};
    if (error)
      return {
        outcome: ApplyOutcome.REFUSED,
        error: { code: error.code, message: error.rawMessage, field },
      };
    const before = this.objects.get(`${kind}/${value.metadata.namespace || 'default'}/${value.metadata.name}`);
    const outcome = before ? ApplyOutcome.CONFIGURED : ApplyOutcome.CREATED;
    if (!validateOnly) {
      this.put(kind, value.metadata.name, (object) => {
        Object.assign(object, { spec: value.spec });
        Object.assign(object.metadata ?? {}, {
          labels: value.metadata?.labels,
          annotations: value.metadata?.annotations,
        });
      });
    }
    return { outcome, ...(live ? { live } : {}), ...(merged ? { merged } : {}) };
  }

  /** `listOnDocker` answers lists of other bays. */
  routes(router: ConnectRouter, listOnDocker: () => never): void {
    router.service(PodService, {
      ...this.#handlers('Pod', listOnDocker),
      podLogs: (request) => this.#podLogs(request),
      executePod: (requests, context) => this.execute(requests, context),
    });
    router.service(ServiceService, this.#handlers('Service', listOnDocker));
    router.service(ReplicationControllerService, this.#handlers('ReplicationController', listOnDocker));
  }

  async *#podLogs(request: Place & { container: string }) {
    this.#called('podLogs', request);
    this.#find('Pod', request);
    for (const text of this.logs) yield { output: Buffer.from(text) };
  }

  #handlers(kind: ClusterKind, listOnDocker: () => never) {
    const { field } = kinds[kind];
    const cluster = this;
    return {
      [`get${kind}`]: (request: Place) => {
        cluster.#called(`get${kind}`, request);
        return { [field]: cluster.#find(kind, request) };
      },
      [`list${kind}s`]: (request: { bay: string; namespace: string; filter: string }) => {
        cluster.#called(`list${kind}s`, request);
        if (request.bay !== clusterBay) listOnDocker();
        return { [`${field}s`]: cluster.#all(kind, request.namespace), revision: cluster.#revision };
      },
      [`update${kind}`]: (request: { [key: string]: unknown; updateMask?: { paths: string[] } }) => {
        const object = request[field] as ClusterObject;
        cluster.#called(`update${kind}`, { object, paths: request.updateMask?.paths });
        return { [field]: cluster.#update(kind, object, request.updateMask?.paths ?? []) };
      },
      [`create${kind}`]: (request: { [key: string]: unknown }) => {
        const object = request[field] as ClusterObject;
        cluster.#called(`create${kind}`, object);
        const { name = '' } = object.metadata ?? {};
        if (cluster.objects.has(`${kind}/default/${name}`))
          throw new ConnectError(`there is a ${kind} "${name}" already`, Code.AlreadyExists);
        return { [field]: cluster.put(kind, name, (fresh) => Object.assign(fresh, { spec: object.spec })) };
      },
      [`delete${kind}`]: (request: Place & { allowMissing: boolean }) => {
        cluster.#called(`delete${kind}`, request);
        if (request.allowMissing && !cluster.objects.has(`${kind}/${request.namespace || 'default'}/${request.name}`))
          return {};
        cluster.remove(kind, cluster.#find(kind, request).metadata?.name ?? '');
        return {};
      },
      async *[`watch${kind}s`](
        request: { namespace: string; name: string; sinceRevision: bigint },
        context: HandlerContext,
      ) {
        cluster.#called(`watch${kind}s`, request);
        const queue = on(cluster.#feed, 'event', { signal: context.signal });
        const isMine = (object: ClusterObject) => !request.name || object.metadata?.name === request.name;
        for (const object of cluster.#all(kind, request.namespace).filter(isMine))
          yield { type: WatchEventType.ADDED, [field]: object, revision: 1n };
        yield { type: WatchEventType.SYNCED, revision: cluster.#revision };
        try {
          for await (const [event] of queue as AsyncIterable<[Event]>)
            if (event.kind === kind && isMine(event.object))
              yield { type: event.type, [field]: event.object, revision: event.revision };
        } catch (cause) {
          if (!context.signal.aborted) throw cause;
        }
      },
    };
  }

  #all(kind: ClusterKind, namespace: string): ClusterObject[] {
    return [...this.objects]
      .filter(([key, object]) => key.startsWith(`${kind}/`) && (!namespace || object.metadata?.namespace === namespace))
      .map(([, object]) => object);
  }

  #find(kind: ClusterKind, { namespace, name, uid }: Place): ClusterObject {
    const found = uid
      ? this.#all(kind, '').find((object) => object.metadata?.uid === uid)
      : this.objects.get(`${kind}/${namespace || 'default'}/${name}`);
    if (!found) throw new ConnectError(`there is no ${kind} "${name || uid}"`, Code.NotFound);
    return found;
  }

  #update(kind: ClusterKind, given: ClusterObject, paths: readonly string[]): ClusterObject {
    const { metadata, spec } = given;
    const found = this.#find(kind, { namespace: metadata?.namespace ?? '', name: metadata?.name ?? '' });
    if (metadata?.etag && metadata.etag !== found.metadata?.etag)
      throw new ConnectError('it was changed by somebody else', Code.Aborted);
    return this.put(kind, metadata?.name ?? '', (object) => {
      if (paths.includes('metadata.labels')) Object.assign(object.metadata ?? {}, { labels: metadata?.labels });
      if (paths.includes('metadata.annotations'))
        Object.assign(object.metadata ?? {}, { annotations: metadata?.annotations });
      for (const path of paths) {
        if (path === 'spec') Object.assign(object, { spec });
        if (path === 'spec.manifest') Object.assign(object.spec ?? {}, { manifest: spec?.manifest });
        if (path === 'spec.metadata') Object.assign(object.spec ?? {}, { metadata: spec?.metadata });
      }
    });
  }

  #fresh(kind: ClusterKind, name: string): ClusterObject {
    const now = timestampFromMs(Date.now());
    const uid = `01900000-0000-7000-8000-${String(7000 + ++this.#made).padStart(12, '0')}`;
    const metadata = create(MetadataSchema, {
      uid,
      project: 'default',
      bay: clusterBay,
      namespace: 'default',
      name,
      generation: 1n,
      createTime: now,
      updateTime: now,
    });
    const delivery = { observedGeneration: 1n };
    switch (kind) {
      case 'Pod':
        return create(PodSchema, {
          metadata,
          spec: { manifest: { containers: [{ name: 'main', image: 'i' }] } },
          status: {
            phase: PodPhase.RUNNING,
            manifest: { phase: 'Running' },
            containers: 1,
            containersReady: 1,
            delivery,
          },
        });
      case 'Service':
        return create(ServiceSchema, {
          metadata,
          spec: { manifest: { ports: [{ port: 80 }], selector: { app: name } } },
          status: { phase: ServicePhase.RUNNING, clusterIp: '10.0.0.1', ports: ['80/TCP'], delivery },
        });
      case 'ReplicationController':
        return create(ReplicationControllerSchema, {
          metadata,
          spec: { manifest: { replicas: 1, selector: { app: name } } },
          status: { phase: ReplicationControllerPhase.RUNNING, clusterUid: 'u', replicasWanted: 1, delivery },
        });
    }
  }

  #store(kind: ClusterKind, object: ClusterObject, isOld: boolean): ClusterObject {
    this.#revision++;
    if (object.metadata) Object.assign(object.metadata, { revision: this.#revision, etag: `e${this.#revision}` });
    this.objects.set(`${kind}/${object.metadata?.namespace}/${object.metadata?.name}`, object);
    this.#feed.emit('event', {
      kind,
      type: isOld ? WatchEventType.MODIFIED : WatchEventType.ADDED,
      object: clone(kinds[kind].schema as typeof PodSchema, object as Pod),
      revision: this.#revision,
    });
    return object;
  }
}
