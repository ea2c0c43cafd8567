import { create, type JsonObject } from '@bufbuild/protobuf';
import { createClient } from '@connectrpc/connect';
import { Role } from '../../proto/gen/baykeeper/v1/access_token_pb.js';
import { AccessTokenService } from '../../proto/gen/baykeeper/v1/access_token_service_pb.js';
import { BayModelService } from '../../proto/gen/baykeeper/v1/bay_model_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import {
  ContainerService,
  ExecuteResponseSchema,
  LogsResponseSchema,
} from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import {
  ExecutePodResponseSchema,
  PodLogsResponseSchema,
  PodService,
} from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import { ReplicationControllerService } from '../../proto/gen/baykeeper/v1/replication_controller_service_pb.js';
import { ServiceService } from '../../proto/gen/baykeeper/v1/service_service_pb.js';
import { createUser } from '../../proto/nkeys.ts';
import { type ApiFixture, startApi } from './api_fixture.ts';

/** How a request names an object: by name, or by uid. */
export interface Ref {
  readonly bay: string;
  readonly name?: string;
  readonly uid?: string;
}

/** A request to a method, as JSON. `of`: what there has to be for it; the request then names that. */
export type Row =
  | { readonly of: 'nothing'; readonly request: JsonObject | (() => JsonObject) }
  | { readonly of: 'inside'; readonly bay: 'docker' | 'cluster'; readonly request: (bay: string) => JsonObject }
  | {
      readonly of: Thing;
      /** The call takes it away: the next needs another one. */
      readonly ends?: true;
      readonly request: (ref: Ref) => JsonObject;
    };

/** What can be asked for by name and uid. */
export type Thing = keyof Tenant['make'];

/** Words that are in everything that the tenant has, and in nothing of anybody else's. */
export const canary = 'canary-of-red';

const manifest = { containers: [{ name: 'main', image: 'busybox' }] };
const replicas = { replicas: 1, selector: { a: 'b' }, template: { metadata: { labels: { a: 'b' } }, spec: manifest } };
const ports = { ports: [{ port: 80 }] };

let made = 0;
const fresh = (prefix: string): string => {
  made += 1;
  return `${prefix}-${made}`;
};

/** A tenant with one object of each kind, more of them on demand, and agents that speak. */
export class Tenant {
  readonly docker: string;
  readonly cluster: string;
  readonly #api: MatrixApi;
  readonly #token: string;
  readonly #ones = new Map<Thing, Promise<Required<Ref>>>();
  #uids = { docker: '', cluster: '' };

  private constructor(api: MatrixApi, token: string, docker: string, cluster: string) {
    this.#api = api;
    this.#token = token;
    this.docker = docker;
    this.cluster = cluster;
  }

  static async create(api: MatrixApi, token: string, docker: string, cluster: string): Promise<Tenant> {
    const tenant = new Tenant(api, token, docker, cluster);
    await tenant.#fill();
    return tenant;
  }

  async #fill(): Promise<void> {
    const bays = this.#client(BayService);
    const bay = async (name: string, containerEngine: ContainerEngine): Promise<string> => {
      const made = await bays.createBay({ bay: { metadata: this.#metadata('', name), spec: { containerEngine } } });
      return made.bay?.metadata?.uid ?? '';
    };
    this.#uids = {
      docker: await bay(this.docker, ContainerEngine.DOCKER),
      cluster: await bay(this.cluster, ContainerEngine.KUBERNETES),
    };
    // What the inventory does: objects of a Kubernetes bay are given to the bay.
    const { node } = await this.#api.addNode(this.#uids.docker, fresh('host'));
    this.#api.places.set(this.#uids.docker, node).set(this.#uids.cluster, { uid: this.#uids.cluster, name: '' });
    for (const { uid } of this.#api.places.values()) this.#api.liveness.set(uid, true);
    await Promise.all((Object.keys(this.make) as Thing[]).map((thing) => this.one(thing)));
  }

  #client = <S extends Parameters<typeof createClient>[0]>(service: S) =>
    createClient(service, this.#api.transport({ token: this.#token }));

  #metadata(bay: string, name: string) {
    return { bay, name, annotations: { note: this.#token === 'red-token' ? canary : 'of somebody else' } };
  }

  /** The one that stays. */
  one(thing: Thing): Promise<Required<Ref>> {
    const known = this.#ones.get(thing) ?? this.make[thing]();
    this.#ones.set(thing, known);
    return known;
  }

  /** Makes one more. */
  readonly make = {
    bayModel: async (): Promise<Required<Ref>> => {
      const name = fresh('model');
      const { bayModel } = await this.#client(BayModelService).createBayModel({
        bayModel: { metadata: this.#metadata('', name) },
      });
      return { bay: '', name, uid: bayModel?.metadata?.uid ?? '' };
    },
    bay: async (): Promise<Required<Ref>> => {
      const name = fresh('bay');
      const { bay } = await this.#client(BayService).createBay({ bay: { metadata: this.#metadata('', name) } });
      return { bay: '', name, uid: bay?.metadata?.uid ?? '' };
    },
    node: async (): Promise<Required<Ref>> => {
      const name = fresh('node');
      const { node } = await this.#api.addNode(this.#uids.docker, name);
      this.#api.liveness.set(node.uid, true);
      return { bay: this.docker, name, uid: node.uid };
    },
    pod: async (): Promise<Required<Ref>> => {
      const name = fresh('pod');
      const { pod } = await this.#client(PodService).createPod({
        pod: { metadata: this.#metadata(this.cluster, name), spec: { manifest } },
      });
      return { bay: this.cluster, name, uid: pod?.metadata?.uid ?? '' };
    },
    service: async (): Promise<Required<Ref>> => {
      const name = fresh('service');
      const { service } = await this.#client(ServiceService).createService({
        service: { metadata: this.#metadata(this.cluster, name), spec: { manifest: ports } },
      });
      return { bay: this.cluster, name, uid: service?.metadata?.uid ?? '' };
    },
    controller: async (): Promise<Required<Ref>> => {
      const name = fresh('controller');
      const { replicationController } = await this.#client(ReplicationControllerService).createReplicationController({
        replicationController: { metadata: this.#metadata(this.cluster, name), spec: { manifest: replicas } },
      });
      return { bay: this.cluster, name, uid: replicationController?.metadata?.uid ?? '' };
    },
    container: async (): Promise<Required<Ref>> => {
      const name = fresh('container');
      const { container } = await this.#client(ContainerService).createContainer({
        container: { metadata: this.#metadata(this.docker, name), spec: { image: 'busybox' } },
      });
      return { bay: this.docker, name, uid: container?.metadata?.uid ?? '' };
    },
    joinToken: async (): Promise<Required<Ref>> => {
      const { joinToken } = await this.#client(JoinTokenService).createJoinToken({
        bay: this.docker,
        description: this.#token === 'red-token' ? canary : '',
      });
      return { bay: '', name: '', uid: joinToken?.id ?? '' };
    },
    accessToken: async (): Promise<Required<Ref>> => {
      // Admins make them, for any project.
      const project = this.#token.replace('-token', '');
      const client = createClient(AccessTokenService, this.#api.transport({ token: 'admin-token', project }));
      const { accessToken } = await client.createAccessToken({ role: Role.READER, description: canary });
      return { bay: '', name: '', uid: accessToken?.id ?? '' };
    },
  };
}

/** The API, and where the objects of each bay go. */
export interface MatrixApi extends ApiFixture {
  readonly places: Map<string, { readonly uid: string; readonly name: string }>;
}

/** A control plane whose logs and commands answer one word. */
export async function startMatrixApi(): Promise<MatrixApi> {
  const places: MatrixApi['places'] = new Map();
  const value = Buffer.from(canary);
  const says = async function* () {
    yield create(LogsResponseSchema, { output: { case: 'stdout', value } });
  };
  const executes = async function* () {
    yield create(ExecuteResponseSchema, { output: { case: 'stdout', value } });
  };
  const podSays = async function* () {
    yield create(PodLogsResponseSchema, { output: value });
  };
  const podExecutes = async function* () {
    yield create(ExecutePodResponseSchema, { output: { case: 'stdout', value } });
  };
  const api = await startApi({
    api: { placement: { choose: (bayUid) => places.get(bayUid) } },
    streams: { logs: says, execute: executes, podLogs: podSays, executePod: podExecutes },
  });
  return Object.assign(api, { places });
}

const json = (value: object): JsonObject => value as JsonObject;
const object = (field: string, spec: object) => (ref: Ref) => json({ [field]: { metadata: ref, spec } });
const named = (ref: Ref): JsonObject => json({ ...ref });
/** Bays and BayModels are in no bay. */
const unplaced = ({ name, uid }: Ref): JsonObject => json(name ? { name } : { uid });
const started = (ref: Ref): JsonObject => json({ start: { ...ref, command: ['true'] } });
const listed = (bay: string): JsonObject => ({ bay });
const publicKey = createUser().getPublicKey();
const challenged = { publicKey, challenge: 'AAAA', signature: Buffer.alloc(64).toString('base64') };

/** One request to each method of the contract. */
export const rows: Readonly<Record<string, Row>> = {
  'BayModelService/CreateBayModel': {
    of: 'nothing',
    request: () => ({ bayModel: { metadata: { name: fresh('model') } } }),
  },
  'BayModelService/GetBayModel': { of: 'bayModel', request: unplaced },
  'BayModelService/ListBayModels': { of: 'nothing', request: {} },
  'BayModelService/UpdateBayModel': {
    of: 'bayModel',
    request: (ref) => json({ bayModel: { metadata: unplaced(ref), spec: { image: 'other' } } }),
  },
  'BayModelService/DeleteBayModel': { of: 'bayModel', ends: true, request: unplaced },
  'BayModelService/WatchBayModels': { of: 'nothing', request: {} },
  'BayService/CreateBay': { of: 'nothing', request: () => ({ bay: { metadata: { name: fresh('bay') } } }) },
  'BayService/GetBay': { of: 'bay', request: unplaced },
  'BayService/ListBays': { of: 'nothing', request: {} },
  'BayService/UpdateBay': { of: 'bay', request: (ref) => json({ bay: { metadata: unplaced(ref) } }) },
  'BayService/DeleteBay': { of: 'bay', ends: true, request: unplaced },
  'BayService/WatchBays': { of: 'nothing', request: {} },
  'NodeService/CreateNode': {
    of: 'inside',
    bay: 'docker',
    request: (bay) => json({ node: { metadata: { bay, name: 'n' }, spec: { publicKey } } }),
  },
  'NodeService/GetNode': { of: 'node', request: named },
  'NodeService/ListNodes': { of: 'inside', bay: 'docker', request: listed },
  'NodeService/UpdateNode': {
    of: 'node',
    request: (ref) => json({ node: { metadata: ref }, updateMask: 'metadata.labels' }),
  },
  'NodeService/DeleteNode': { of: 'node', ends: true, request: named },
  'NodeService/WatchNodes': { of: 'inside', bay: 'docker', request: listed },
  'NodeService/RevokeNode': { of: 'node', ends: true, request: named },
  'PodService/CreatePod': {
    of: 'inside',
    bay: 'cluster',
    request: (bay) => json({ pod: { metadata: { bay, name: fresh('pod') }, spec: { manifest } } }),
  },
  'PodService/GetPod': { of: 'pod', request: named },
  'PodService/ListPods': { of: 'inside', bay: 'cluster', request: listed },
  'PodService/UpdatePod': { of: 'pod', request: object('pod', { manifest }) },
  'PodService/DeletePod': { of: 'pod', ends: true, request: named },
  'PodService/WatchPods': { of: 'inside', bay: 'cluster', request: listed },
  'PodService/PodLogs': { of: 'pod', request: named },
  'PodService/ExecutePod': { of: 'pod', request: started },
  'ServiceService/CreateService': {
    of: 'inside',
    bay: 'cluster',
    request: (bay) => json({ service: { metadata: { bay, name: fresh('service') }, spec: { manifest: ports } } }),
  },
  'ServiceService/GetService': { of: 'service', request: named },
  'ServiceService/ListServices': { of: 'inside', bay: 'cluster', request: listed },
  'ServiceService/UpdateService': { of: 'service', request: object('service', { manifest: ports }) },
  'ServiceService/DeleteService': { of: 'service', ends: true, request: named },
  'ServiceService/WatchServices': { of: 'inside', bay: 'cluster', request: listed },
  'ReplicationControllerService/CreateReplicationController': {
    of: 'inside',
    bay: 'cluster',
    request: (bay) =>
      json({ replicationController: { metadata: { bay, name: fresh('controller') }, spec: { manifest: replicas } } }),
  },
  'ReplicationControllerService/GetReplicationController': { of: 'controller', request: named },
  'ReplicationControllerService/ListReplicationControllers': { of: 'inside', bay: 'cluster', request: listed },
  'ReplicationControllerService/UpdateReplicationController': {
    of: 'controller',
    request: object('replicationController', { manifest: replicas }),
  },
  'ReplicationControllerService/DeleteReplicationController': { of: 'controller', ends: true, request: named },
  'ReplicationControllerService/WatchReplicationControllers': { of: 'inside', bay: 'cluster', request: listed },
  'ContainerService/CreateContainer': {
    of: 'inside',
    bay: 'docker',
    request: (bay) => json({ container: { metadata: { bay, name: fresh('container') }, spec: { image: 'busybox' } } }),
  },
  'ContainerService/GetContainer': { of: 'container', request: named },
  'ContainerService/ListContainers': { of: 'inside', bay: 'docker', request: listed },
  'ContainerService/UpdateContainer': { of: 'container', request: object('container', { image: 'busybox:2' }) },
  'ContainerService/DeleteContainer': { of: 'container', ends: true, request: named },
  'ContainerService/WatchContainers': { of: 'inside', bay: 'docker', request: listed },
  'ContainerService/StartContainer': { of: 'container', request: named },
  'ContainerService/StopContainer': { of: 'container', ends: true, request: named },
  'ContainerService/PauseContainer': { of: 'container', ends: true, request: named },
  'ContainerService/UnpauseContainer': { of: 'container', request: named },
  'ContainerService/RebootContainer': { of: 'container', request: named },
  'ContainerService/Logs': { of: 'container', request: named },
  'ContainerService/Execute': { of: 'container', request: started },
  'ManifestService/Apply': {
    of: 'inside',
    bay: 'docker',
    request: (bay) =>
      json({ manifests: [{ container: { metadata: { bay, name: 'c' }, spec: { image: 'busybox' } } }] }),
  },
  'AccessTokenService/CreateAccessToken': { of: 'nothing', request: { role: 'ROLE_READER' } },
  'AccessTokenService/ListAccessTokens': { of: 'nothing', request: {} },
  'AccessTokenService/RevokeAccessToken': { of: 'accessToken', ends: true, request: ({ uid = '' }) => ({ id: uid }) },
  'QuotaService/GetQuota': { of: 'nothing', request: {} },
  'QuotaService/ListQuotas': { of: 'nothing', request: {} },
  'QuotaService/SetQuota': { of: 'nothing', request: { set: { bays: '1000' } } },
  'JoinTokenService/CreateJoinToken': { of: 'inside', bay: 'docker', request: listed },
  'JoinTokenService/ListJoinTokens': { of: 'nothing', request: {} },
  'JoinTokenService/RevokeJoinToken': { of: 'joinToken', ends: true, request: ({ uid = '' }) => ({ id: uid }) },
  'EnrollmentService/CreateChallenge': { of: 'nothing', request: { publicKey } },
  'EnrollmentService/Enroll': {
    of: 'nothing',
    request: () => ({ token: 'a.b', proof: challenged, nodeName: 'n', time: new Date().toISOString() }),
  },
  'EnrollmentService/RenewCredentials': { of: 'nothing', request: { proof: challenged } },
  'ExplainService/Why': { of: 'container', request: (ref) => json({ kind: 'KIND_CONTAINER', ...ref }) },
  'AuditService/ListAuditRecords': { of: 'nothing', request: {} },
  'AuditService/FollowAuditRecords': { of: 'nothing', request: { afterSequence: '1' } },
  'AuditService/VerifyAudit': { of: 'nothing', request: {} },
  'SystemService/GetVersion': { of: 'nothing', request: {} },
  'SystemService/WhoAmI': { of: 'nothing', request: {} },
  'Health/Check': { of: 'nothing', request: {} },
  'Health/List': { of: 'nothing', request: {} },
  'Health/Watch': { of: 'nothing', request: {} },
  'ServerReflection/ServerReflectionInfo': { of: 'nothing', request: { listServices: '*' } },
};
