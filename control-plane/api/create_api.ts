import { randomUUID } from 'node:crypto';
import type { DescService } from '@bufbuild/protobuf';
import type { ConnectRouter, Interceptor } from '@connectrpc/connect';
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import { AccessTokenService } from '../../proto/gen/baykeeper/v1/access_token_service_pb.js';
import { AuditService } from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import { EnrollmentService } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { ExplainService } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { QuotaService } from '../../proto/gen/baykeeper/v1/quota_service_pb.js';
import { SystemService } from '../../proto/gen/baykeeper/v1/system_service_pb.js';
import { Health } from '../../proto/gen/health/v1/health_pb.js';
import { type AuditLog, streamsEnded } from '../audit/port.ts';
import type { Authenticator, NodeProofs } from '../auth/port.ts';
import type { Access, Bus, MessageSigner } from '../broker/port.ts';
import type { Surroundings } from '../domain/present.ts';
import type { Amounts } from '../domain/quota.ts';
import type { RateLimit } from '../domain/token_bucket.ts';
import { createUidSource } from '../domain/uid.ts';
import type { Checks, Liveness, Placement, Publications, Streams } from '../reconcile/port.ts';
import type { Store } from '../store/port.ts';
import { accessTokenMethods } from './access_tokens.ts';
import { auditMethods } from './audit.ts';
import { BayDirectory } from './bay_directory.ts';
import { containerMethods } from './containers.ts';
import { enrollmentMethods } from './enrollment.ts';
import { explainMethods } from './explain.ts';
import { type Dependencies, healthMethods } from './health.ts';
import type { Identify } from './intake.ts';
import { auditInterceptor, unreadRefusals } from './interceptors/audit.ts';
import { deadlinesInterceptor } from './interceptors/deadlines.ts';
import { createIdentity } from './interceptors/identity.ts';
import { pagesInterceptor } from './interceptors/pages.ts';
import { requestsInterceptor } from './interceptors/requests.ts';
import { validationInterceptor } from './interceptors/validation.ts';
import { joinTokenMethods } from './join_tokens.ts';
import { type KindServiceOptions, kindMethods, kindServices, serveKind } from './kind_services.ts';
import { manifestMethods } from './manifests.ts';
import { type CheckMessage, createMessageRules } from './message_rules.ts';
import { createApiMetrics } from './metrics.ts';
import { NodeDirectory } from './node_directory.ts';
import { nodeMethods, refuseCreateNode } from './nodes.ts';
import { Objects } from './objects.ts';
import { permissionOf } from './permissions.ts';
import { podMethods } from './pods.ts';
import { PublicModels } from './public_models.ts';
import { Quotas, quotaMethods } from './quotas.ts';
import { serveReflection } from './reflection.ts';
import { Refusals } from './refusals.ts';
import { Removal } from './removal.ts';
import { SessionGuard, type SessionGuardOptions } from './session_guard.ts';
import { systemMethods } from './system.ts';
import type { Trust } from './trust.ts';
import type { Unread } from './unreadable.ts';
import type { OpenWatch } from './watch_objects.ts';

/** Options of {@link createApi}. */
export interface ApiOptions {
  readonly store: Store;
  /** Of store/watch.ts. */
  readonly openWatch: OpenWatch;
  readonly access: Access;
  /** What agents are told to believe. */
  readonly signer: Pick<MessageSigner, 'keys'>;
  readonly bus: Pick<Bus, 'connected'>;
  readonly liveness: Liveness;
  readonly placement: Placement;
  readonly publications: Publications;
  readonly streams: Streams;
  readonly checks: Checks;
  readonly authenticator: Authenticator;
  readonly audit: AuditLog;
  readonly proofs: NodeProofs;
  readonly clock: { now(): number };
  readonly log: Logger;
  readonly registry: Registry;
  readonly version: string;
  /** Name of the store, for callers. Default `sqlite`. */
  readonly storeName?: string;
  /** What a node runs to join, up to its options: `node /opt/baykeeper/agent/main.ts join`. */
  readonly joinCommandPrefix: string;
  /** Where nodes find this server, and whom they are to trust. Asked at each call. */
  readonly trust: () => Trust;
  /** Default: `store` (always there while it is open) and `broker`. */
  readonly dependencies?: Dependencies;
  /** Default 20,000 a second for one subject: a guard against loops, not a quota. */
  readonly callerLimit?: RateLimit;
  /** Of calls without identity, from one address. Default 50 a second, 200 at once: a site's nodes may share one. */
  readonly peerLimit?: RateLimit;
  /** Of projects for which nothing else was set. Default: no limits. */
  readonly defaultQuota?: Amounts;
  /** How callers of open streams are watched over. */
  readonly guard?: Pick<SessionGuardOptions, 'intervalMs' | 'maxAgeMs' | 'graceMs' | 'maxStreams'>;
  /** What holds messages against the contract: planned anew for each API by default. */
  readonly checkMessage?: CheckMessage;
  /** Default 30 s. */
  readonly unaryTimeoutMs?: number;
  /** A new UUIDv7. */
  readonly newUid?: () => string;
}

/** The API, ready to be served. */
export interface Api {
  readonly routes: (router: ConnectRouter) => void;
  readonly interceptors: Interceptor[];
  readonly dependencies: Dependencies;
  /** To be told of calls whose messages are read by somebody else, and cannot be. */
  readonly unread: Unread;
  /** Who sends what is too large to be read for a stranger. */
  readonly identify: Identify;
  /** Stops following the change feed. */
  close(): void;
}

/** Puts the services together. Rejects when the store cannot be read. */
export async function createApi(options: ApiOptions): Promise<Api> {
  const { store, access, bus, liveness, placement, clock, log, authenticator } = options;
  const newUid = options.newUid ?? createUidSource();
  const { audit } = options;
  const guard = new SessionGuard({
    authenticator,
    clock,
    log,
    onEnd: (streams, reason) => {
      for (const entry of streamsEnded(streams, reason)) audit.note(entry);
    },
    ...options.guard,
  });
  const bays = new BayDirectory(store);
  const nodes = await NodeDirectory.open(store);
  const publicModels = await PublicModels.open(store);
  const quotas = await Quotas.open({ store, defaults: options.defaultQuota ?? {} });
  const around: Surroundings = {
    liveness: (uid) => liveness.node(uid),
    leaderOf: (bayUid) => liveness.agentOf(bayUid),
    nodesOf: (bayUid) => nodes.nodesOf(bayUid),
  };
  const metrics = createApiMetrics(options.registry);
  const checkMessage = options.checkMessage ?? createMessageRules();
  const { checks } = options;
  const objects = new Objects({
    store,
    bays,
    placement,
    around,
    clock,
    newUid,
    checkMessage,
    checks,
    liveness,
    quotas,
    publicModels,
  });
  const removal = new Removal({ store, objects, nodes, access, liveness, around, clock });
  const dependencies = options.dependencies ?? { store: () => true, broker: () => bus.connected };
  const onUnexpected = (error: unknown): void => log.error({ err: error }, 'manifest failed unexpectedly');
  const shared: KindServiceOptions = {
    store,
    openWatch: options.openWatch,
    liveness,
    nodes,
    around,
    objects,
    publicModels,
    watching: metrics.watching,
  };
  const services: readonly DescService[] = [
    ...Object.values(kindServices),
    ManifestService,
    JoinTokenService,
    AccessTokenService,
    QuotaService,
    EnrollmentService,
    ExplainService,
    AuditService,
    SystemService,
    Health,
  ];
  const refusals = new Refusals({ audit, clock });
  const identity = createIdentity({
    authenticator,
    permissionOf,
    callerLimit: options.callerLimit ?? { perSecond: 20_000, burst: 40_000 },
    peerLimit: options.peerLimit ?? { perSecond: 50, burst: 200 },
    clock,
    guard,
  });

  return {
    dependencies,
    unread: unreadRefusals({ refusals, permissionOf }),
    identify: identity.identify,
    routes(router) {
      serveKind(router, 'BayModel', kindMethods('BayModel', shared));
      serveKind(
        router,
        'Bay',
        kindMethods('Bay', shared, { delete: (principal, ref, how) => removal.deleteBay(principal, ref, how) }),
      );
      serveKind(router, 'Node', {
        ...kindMethods('Node', shared, {
          create: refuseCreateNode,
          delete: (principal, ref, how) => removal.deleteNode(principal, ref, how),
        }),
        ...nodeMethods({ objects, access }),
      });
      serveKind(router, 'Pod', {
        ...kindMethods('Pod', shared),
        ...podMethods({ objects, liveness, around, streams: options.streams }),
      });
      serveKind(router, 'Service', kindMethods('Service', shared));
      serveKind(router, 'ReplicationController', kindMethods('ReplicationController', shared));
      serveKind(router, 'Container', {
        ...kindMethods('Container', shared),
        ...containerMethods({ objects, liveness, around, streams: options.streams }),
      });
      router.service(ManifestService, manifestMethods({ objects, checkMessage, onUnexpected }));
      router.service(AccessTokenService, accessTokenMethods({ store, clock }));
      router.service(QuotaService, quotaMethods({ store, quotas, clock }));
      router.service(JoinTokenService, joinTokenMethods({ ...options, bays, quotas }));
      router.service(
        EnrollmentService,
        enrollmentMethods({
          store,
          nodes,
          access,
          signer: options.signer,
          proofs: options.proofs,
          trust: options.trust,
          clock,
          newUid,
          quotas,
        }),
      );
      router.service(
        ExplainService,
        explainMethods({ objects, liveness, around, publications: options.publications, bus }),
      );
      router.service(AuditService, auditMethods({ audit, store }));
      const { version, storeName = 'sqlite' } = options;
      router.service(SystemService, systemMethods({ store, bus, version, storeName }));
      router.service(Health, healthMethods({ dependencies, services: services.map((service) => service.typeName) }));
      serveReflection(router, services);
    },
    // The first is the outermost: whatever goes wrong in the others is turned into an answer, counted and logged.
    interceptors: [
      requestsInterceptor({ log, metrics, newRequestId: randomUUID }),
      deadlinesInterceptor({
        unaryTimeoutMs: options.unaryTimeoutMs ?? 30_000,
        long: [AuditService.method.verifyAudit],
      }),
      // Within the deadline: a caller that does not wait is not told what becomes of its call, and it is recorded nevertheless.
      auditInterceptor({ audit, refusals, permissionOf }),
      identity.interceptor,
      validationInterceptor(checkMessage),
      pagesInterceptor({ patienceMs: options.unaryTimeoutMs ?? 30_000 }),
    ],
    close() {
      guard.close();
      refusals.flush();
      bays.close();
      nodes.close();
      quotas.close();
      publicModels.close();
    },
  };
}
