import { EventEmitter, on } from 'node:events';
import { createServer } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { clone, create, type MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, type ConnectRouter, type HandlerContext } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import { type Bay, BayPhase, BaySchema } from '../proto/gen/baykeeper/v1/bay_pb.js';
import { BayService } from '../proto/gen/baykeeper/v1/bay_service_pb.js';
import type { ClusterEventSchema } from '../proto/gen/baykeeper/v1/cluster_pb.js';
import { type Container, ContainerPhase, ContainerSchema } from '../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../proto/gen/baykeeper/v1/container_service_pb.js';
import { ExplainService, WhyOutcome, WhyStage } from '../proto/gen/baykeeper/v1/explain_service_pb.js';
import { ApplyOutcome, ManifestService } from '../proto/gen/baykeeper/v1/manifest_service_pb.js';
import type { Node } from '../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../proto/gen/baykeeper/v1/node_service_pb.js';
import { SystemService } from '../proto/gen/baykeeper/v1/system_service_pb.js';
import { WatchEventType } from '../proto/gen/baykeeper/v1/watch_pb.js';
import { Cluster, type ClusterFixture } from './cluster_fixture.ts';
import { type ExecOutput, type ExecRequest, echo } from './exec_fixture.ts';
import { joinTokens } from './join_token_fixture.ts';

/** The token that the fixture takes. */
export const fixtureToken = 'test-token';

interface Event {
  readonly type: WatchEventType;
  readonly container: Container;
  readonly revision: bigint;
}

/** What every test of a command may look at and change. */
export interface ControlPlaneFixture extends AsyncDisposable {
  readonly url: string;
  readonly containers: Map<string, Container>;
  readonly bays: Map<string, Bay>;
  readonly nodes: Map<string, Node>;
  /** The requests of each method, as they came. */
  readonly calls: { readonly method: string; readonly input: unknown }[];
  /** Thrown by the next call of a method, once. */
  readonly failures: Map<string, ConnectError>;
  /** Watches from a revision before this are OUT_OF_RANGE. */
  oldestRevision: bigint;
  revision(): bigint;
  /** Puts a container and tells the watches. */
  put(name: string, change?: (container: Container) => void, namespace?: string): Container;
  remove(name: string): void;
  /** Cuts every connection, as a proxy that restarts does. */
  dropConnections(): void;
  /** What `Execute` does; the default echoes. */
  execute: (requests: AsyncIterable<ExecRequest>, context: HandlerContext) => AsyncIterable<ExecOutput>;
  /** Bay `edge`, which is a Kubernetes cluster; the others are of Docker. */
  readonly cluster: ClusterFixture;
  /** Chunks that `Logs` sends; after them it ends, or with `follow` waits. */
  logs: (readonly ['stdout' | 'stderr', string])[];
  /** Whether a deletion waits until `remove` is called. */
  slowDelete: boolean;
  /** What `Why` says that the cluster said. */
  whyEvents: MessageInitShape<typeof ClusterEventSchema>[];
}

/** A control plane in memory on a free port of loopback, with enough of the API to try the commands on: plaintext HTTP/2. */
export async function startFixture(): Promise<ControlPlaneFixture> {
  const feed = new EventEmitter();
  feed.setMaxListeners(0);
  const history: Event[] = [];
  let revision = 1n;
  let made = 0;
  const sessions = new Set<import('node:http2').Http2Session>();

  const publish = (type: WatchEventType, container: Container): void => {
    const event: Event = { type, container: clone(ContainerSchema, container), revision };
    history.push(event);
    feed.emit('event', event);
  };
  const called = (method: string, input: unknown): void => {
    fixture.calls.push({ method, input });
    const failure = fixture.failures.get(method);
    fixture.failures.delete(method);
    if (failure) throw failure;
  };
  const cluster = new Cluster(called, echo);
  const key = (namespace: string, name: string): string => `${namespace || 'default'}/${name}`;

  const fixture: ControlPlaneFixture = {
    url: '',
    containers: new Map(),
    bays: new Map(),
    nodes: new Map(),
    calls: [],
    failures: new Map(),
    oldestRevision: 0n,
    revision: () => revision,
    put(name, change, namespace = 'default') {
      const before = fixture.containers.get(key(namespace, name));
      const now = timestampFromMs(Date.now());
      const container =
        before ??
        create(ContainerSchema, {
          metadata: {
            uid: uid(++made),
            project: 'default',
            bay: 'local',
            namespace,
            name,
            generation: 1n,
            createTime: now,
            updateTime: now,
          },
          spec: { image: 'busybox' },
          status: { phase: ContainerPhase.RUNNING, node: 'node-1' },
        });
      change?.(container);
      revision++;
      if (container.metadata) Object.assign(container.metadata, { revision, etag: `e${revision}` });
      fixture.containers.set(key(namespace, name), container);
      publish(before ? WatchEventType.MODIFIED : WatchEventType.ADDED, container);
      return container;
    },
    remove(name) {
      const container = fixture.containers.get(key('', name));
      if (!container) return;
      fixture.containers.delete(key('', name));
      revision++;
      publish(WatchEventType.DELETED, container);
    },
    dropConnections() {
      for (const session of sessions) session.destroy();
    },
    execute: echo,
    cluster,
    logs: [],
    slowDelete: false,
    whyEvents: [],
    async [Symbol.asyncDispose]() {
      fixture.dropConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };

  const find = (request: { namespace: string; name: string; uid: string }): Container => {
    const found = request.uid
      ? [...fixture.containers.values()].find((container) => container.metadata?.uid === request.uid)
      : fixture.containers.get(key(request.namespace, request.name));
    if (!found) throw new ConnectError(`there is no container "${request.name || request.uid}"`, Code.NotFound);
    return found;
  };
  const nameOf = (container: Container): string => container.metadata?.name ?? '';

  const routes = (router: ConnectRouter): void => {
    router.service(ContainerService, {
      createContainer({ container, validateOnly }) {
        called('createContainer', container);
        const name = container?.metadata?.name ?? '';
        const namespace = container?.metadata?.namespace || 'default';
        if (fixture.containers.has(key(namespace, name)))
          throw new ConnectError(`there is a container "${name}" already`, Code.AlreadyExists);
        if (validateOnly) return { container };
        return { container: fixture.put(name, (fresh) => Object.assign(fresh, { spec: container?.spec }), namespace) };
      },
      getContainer(request) {
        called('getContainer', request);
        return { container: find(request) };
      },
      listContainers(request) {
        called('listContainers', request);
        const all = [...fixture.containers.values()]
          .filter((container) => !request.namespace || container.metadata?.namespace === request.namespace)
          .sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
        const start = Number(request.pageToken || '0');
        // Small pages, so that every list with more has several.
        const size = Math.min(request.pageSize || 100, 3);
        const next = start + size;
        return { containers: all.slice(start, next), nextPageToken: next < all.length ? String(next) : '', revision };
      },
      updateContainer({ container, updateMask }) {
        called('updateContainer', { container, paths: updateMask?.paths });
        const metadata = container?.metadata;
        const found = find({
          namespace: metadata?.namespace ?? '',
          name: metadata?.name ?? '',
          uid: metadata?.uid ?? '',
        });
        if (metadata?.etag && metadata.etag !== found.metadata?.etag)
          throw new ConnectError('it was changed by somebody else', Code.Aborted);
        return {
          container: fixture.put(nameOf(found), (changed) => {
            if (changed.metadata && metadata) {
              const paths = updateMask?.paths ?? [];
              if (paths.includes('metadata.labels')) changed.metadata.labels = metadata.labels;
              if (paths.includes('metadata.annotations')) changed.metadata.annotations = metadata.annotations;
              if (paths.includes('spec')) changed.spec = container.spec;
            }
          }),
        };
      },
      deleteContainer(request) {
        called('deleteContainer', request);
        if (request.allowMissing && !fixture.containers.has(key(request.namespace, request.name))) return {};
        const found = find(request);
        if (request.validateOnly) return { container: found };
        if (!fixture.slowDelete) {
          fixture.remove(nameOf(found));
          return {};
        }
        return {
          container: fixture.put(nameOf(found), (deleting) => {
            if (deleting.metadata) deleting.metadata.deleteTime = timestampFromMs(Date.now());
          }),
        };
      },
      async *watchContainers(request, context) {
        called('watchContainers', request);
        const mine = (container: Container): boolean =>
          (!request.name || nameOf(container) === request.name) &&
          (!request.namespace || container.metadata?.namespace === request.namespace);
        const queue = on(feed, 'event', { signal: context.signal });
        let last = request.sinceRevision;
        if (last > 0n && last < fixture.oldestRevision)
          throw new ConnectError('that revision is no longer kept', Code.OutOfRange);
        if (last === 0n) {
          last = revision;
          for (const container of [...fixture.containers.values()].filter(mine)) {
            yield { type: WatchEventType.ADDED, container, revision: container.metadata?.revision ?? 0n };
          }
          yield { type: WatchEventType.SYNCED, revision: last };
        } else {
          const missed = history.filter((event) => event.revision > last && mine(event.container));
          last = revision;
          for (const event of missed) yield event;
        }
        try {
          for await (const [event] of queue as AsyncIterable<[Event]>) {
            if (event.revision > last && mine(event.container)) yield event;
          }
        } catch (cause) {
          if (!context.signal.aborted) throw cause;
        }
      },
      startContainer: (request) => ({ container: power('startContainer', request) }),
      stopContainer: (request) => ({ container: power('stopContainer', request) }),
      pauseContainer: (request) => ({ container: power('pauseContainer', request) }),
      unpauseContainer: (request) => ({ container: power('unpauseContainer', request) }),
      rebootContainer: (request) => ({ container: power('rebootContainer', request) }),
      async *logs(request, context) {
        called('logs', request);
        find(request);
        const encoder = new TextEncoder();
        for (const [stream, text] of fixture.logs) yield { output: { case: stream, value: encoder.encode(text) } };
        if (request.follow) await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
      },
      execute: (requests, context) => fixture.execute(requests, context),
    });
    const power = (method: string, request: { namespace: string; name: string; uid: string }): Container => {
      called(method, request);
      return find(request);
    };
    router.service(BayService, {
      createBay({ bay, validateOnly }) {
        called('createBay', bay);
        const name = bay?.metadata?.name ?? '';
        const made = create(BaySchema, {
          metadata: { name, uid: uid(900), generation: 1n },
          spec: bay?.spec,
          status: { phase: BayPhase.PENDING },
        });
        if (!validateOnly) fixture.bays.set(name, made);
        return { bay: made };
      },
      getBay({ name }) {
        const bay = fixture.bays.get(name);
        if (!bay) throw new ConnectError(`there is no bay "${name}"`, Code.NotFound);
        return { bay };
      },
      listBays: () => ({ bays: [...fixture.bays.values()], revision }),
    });
    router.service(NodeService, {
      getNode({ name }) {
        const node = fixture.nodes.get(name);
        if (!node) throw new ConnectError(`there is no node "${name}"`, Code.NotFound);
        return { node };
      },
      listNodes: () => ({ nodes: [...fixture.nodes.values()], revision }),
      updateNode({ node, updateMask }) {
        called('updateNode', { node, paths: updateMask?.paths });
        return { node };
      },
      revokeNode(request) {
        called('revokeNode', request);
        return {};
      },
    });
    cluster.routes(router, () => {
      throw new ConnectError('this is not built yet on Docker bays', Code.Unimplemented);
    });
    joinTokens(router, called);
    router.service(ManifestService, {
      apply(request) {
        called('apply', request);
        return {
          results: request.manifests.map((manifest) => {
            const { object } = manifest;
            const inCluster = cluster.apply(manifest, request.validateOnly);
            if (inCluster) return inCluster;
            if (object.case !== 'container') return { outcome: ApplyOutcome.CREATED };
            const image = object.value.spec?.image ?? '';
            if (image === 'refused')
              return {
                outcome: ApplyOutcome.REFUSED,
                error: { code: 3, field: 'spec.image', message: 'this image may not be used' },
              };
            const name = nameOf(object.value);
            const before = fixture.containers.get(key('', name));
            if (before?.spec?.image === image) return { outcome: ApplyOutcome.UNCHANGED, manifest };
            if (!request.validateOnly) fixture.put(name, (fresh) => Object.assign(fresh, { spec: object.value.spec }));
            return { outcome: before ? ApplyOutcome.CONFIGURED : ApplyOutcome.CREATED, manifest };
          }),
        };
      },
    });
    router.service(ExplainService, {
      why(request) {
        called('why', request);
        const time = timestampFromMs(Date.now() - 90_000);
        return {
          generation: 2n,
          events: fixture.whyEvents,
          summary: 'The image "nope" is not there: correct its name.',
          steps: [
            { stage: WhyStage.ACCEPTED, outcome: WhyOutcome.DONE, time, actor: 'control-plane', generation: 2n },
            {
              stage: WhyStage.APPLIED,
              outcome: WhyOutcome.REFUSED,
              time,
              actor: 'docker/node-1',
              reason: 'ImageNotFound',
              message: 'no such image',
              generation: 2n,
            },
            { stage: WhyStage.OBSERVED, outcome: WhyOutcome.WAITING, actor: 'agent/node-1' },
          ],
        };
      },
    });
    router.service(SystemService, {
      getVersion(request) {
        called('getVersion', request);
        return { version: '9.9.9', revision, store: 'sqlite', brokerConnected: true };
      },
      whoAmI: () => ({ subject: 'admin', project: 'default', role: 'admin' }),
    });
  };

  const adapter = connectNodeAdapter({
    routes,
    interceptors: [
      (next) => async (request) => {
        if (request.header.get('authorization') !== `Bearer ${fixtureToken}`) {
          throw new ConnectError('who you are is not known', Code.Unauthenticated, { 'x-request-id': 'r-401' });
        }
        const response = await next(request);
        response.header.set('x-request-id', 'r-1');
        return response;
      },
    ],
  });
  const server = createServer((request, response) => adapter(request, response));
  server.on('session', (session) => {
    sessions.add(session);
    session.on('close', () => sessions.delete(session));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return Object.assign(fixture, { url: `http://127.0.0.1:${port}` });
}

function uid(number: number): string {
  return `01900000-0000-7000-8000-${String(number).padStart(12, '0')}`;
}
