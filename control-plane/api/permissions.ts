import type { DescMethod, DescService } from '@bufbuild/protobuf';
import { AccessTokenService } from '../../proto/gen/baykeeper/v1/access_token_service_pb.js';
import { AuditService } from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import { BayModelService } from '../../proto/gen/baykeeper/v1/bay_model_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { EnrollmentService } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { ExplainService } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { PodService } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import { QuotaService } from '../../proto/gen/baykeeper/v1/quota_service_pb.js';
import { ReplicationControllerService } from '../../proto/gen/baykeeper/v1/replication_controller_service_pb.js';
import { ServiceService } from '../../proto/gen/baykeeper/v1/service_service_pb.js';
import { SystemService } from '../../proto/gen/baykeeper/v1/system_service_pb.js';
import { ServerReflection } from '../../proto/gen/grpc/reflection/v1/reflection_pb.js';
import { Health } from '../../proto/gen/health/v1/health_pb.js';
import type { Role } from '../domain/principal.ts';

/** The least that a caller must be to call a method. `open`: nobody in particular; the method itself looks at what it is given. */
export type Permission = 'open' | Role;

/** One service of the table. */
export interface ServicePermissions {
  readonly service: DescService;
  /** By the method's name in the contract. */
  readonly methods: ReadonlyMap<string, Permission>;
}

/** The compiler demands an entry for each method; `permissions.test.ts` demands one for each service. */
function entry<S extends DescService>(
  service: S,
  methods: { readonly [M in keyof S['method']]: Permission },
): ServicePermissions {
  const given: Readonly<Record<string, Permission>> = methods;
  const named = service.methods.flatMap(({ name, localName }) => {
    const permission = given[localName];
    return permission ? [[name, permission] as const] : [];
  });
  return { service, methods: new Map(named) };
}

/**
 * Who may call what. This is the only place that says so: what is not here is denied. A reader and a member are so in their own project; an admin
 * is one in every project. `deploy/permissions.md` is made from it.
 */
export const permissions: readonly ServicePermissions[] = [
  entry(BayModelService, {
    createBayModel: 'member',
    getBayModel: 'reader',
    listBayModels: 'reader',
    updateBayModel: 'member',
    deleteBayModel: 'member',
    watchBayModels: 'reader',
  }),
  entry(BayService, {
    createBay: 'member',
    getBay: 'reader',
    listBays: 'reader',
    updateBay: 'member',
    deleteBay: 'member',
    watchBays: 'reader',
  }),
  entry(NodeService, {
    createNode: 'member',
    getNode: 'reader',
    listNodes: 'reader',
    updateNode: 'member',
    deleteNode: 'member',
    watchNodes: 'reader',
    revokeNode: 'member',
  }),
  entry(PodService, {
    createPod: 'member',
    getPod: 'reader',
    listPods: 'reader',
    updatePod: 'member',
    deletePod: 'member',
    watchPods: 'reader',
    podLogs: 'reader',
    executePod: 'member',
  }),
  entry(ServiceService, {
    createService: 'member',
    getService: 'reader',
    listServices: 'reader',
    updateService: 'member',
    deleteService: 'member',
    watchServices: 'reader',
  }),
  entry(ReplicationControllerService, {
    createReplicationController: 'member',
    getReplicationController: 'reader',
    listReplicationControllers: 'reader',
    updateReplicationController: 'member',
    deleteReplicationController: 'member',
    watchReplicationControllers: 'reader',
  }),
  entry(ContainerService, {
    createContainer: 'member',
    getContainer: 'reader',
    listContainers: 'reader',
    updateContainer: 'member',
    deleteContainer: 'member',
    watchContainers: 'reader',
    startContainer: 'member',
    stopContainer: 'member',
    pauseContainer: 'member',
    unpauseContainer: 'member',
    rebootContainer: 'member',
    logs: 'reader',
    execute: 'member',
  }),
  entry(ManifestService, { apply: 'member' }),
  entry(AccessTokenService, { createAccessToken: 'admin', listAccessTokens: 'admin', revokeAccessToken: 'admin' }),
  entry(QuotaService, { getQuota: 'reader', listQuotas: 'admin', setQuota: 'admin' }),
  entry(JoinTokenService, { createJoinToken: 'member', listJoinTokens: 'reader', revokeJoinToken: 'member' }),
  // A node has no identity yet: it shows a join token, or proves that it has its key.
  entry(EnrollmentService, { createChallenge: 'open', enroll: 'open', renewCredentials: 'open' }),
  entry(ExplainService, { why: 'reader' }),
  // What is in it is of all projects.
  entry(AuditService, { listAuditRecords: 'admin', followAuditRecords: 'admin', verifyAudit: 'admin' }),
  entry(SystemService, { getVersion: 'reader', whoAmI: 'reader' }),
  entry(Health, { check: 'open', list: 'open', watch: 'open' }),
  entry(ServerReflection, { serverReflectionInfo: 'open' }),
];

/** The same services under older names. */
const aliases: Readonly<Record<string, string>> = {
  'grpc.reflection.v1alpha.ServerReflection': ServerReflection.typeName,
};

const byService = new Map(permissions.map(({ service, methods }) => [service.typeName, methods]));
for (const [alias, typeName] of Object.entries(aliases)) {
  const methods = byService.get(typeName);
  if (methods) byService.set(alias, methods);
}

/** What it takes to call a method. Undefined: it is not in the table, and nobody may. */
export function permissionOf({ parent, name }: Pick<DescMethod, 'parent' | 'name'>): Permission | undefined {
  return byService.get(parent.typeName)?.get(name);
}

const ranks: Readonly<Record<Role, number>> = { reader: 1, member: 2, admin: 3 };

/** Whether one role can do all that another can. */
export const includesRole = (role: Role, needed: Role): boolean => ranks[role] >= ranks[needed];
