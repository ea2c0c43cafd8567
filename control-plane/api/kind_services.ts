import type { DescMessage, DescService, Message } from '@bufbuild/protobuf';
import type { FieldMask } from '@bufbuild/protobuf/wkt';
import type { ConnectRouter, HandlerContext, ServiceImpl } from '@connectrpc/connect';
import { BayModelService } from '../../proto/gen/baykeeper/v1/bay_model_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { PodService } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import { ReplicationControllerService } from '../../proto/gen/baykeeper/v1/replication_controller_service_pb.js';
import { ServiceService } from '../../proto/gen/baykeeper/v1/service_service_pb.js';
import { InvalidError } from '../domain/errors.ts';
import { type KindName, type Kinds, kinds } from '../domain/kinds.ts';
import { fieldName } from '../domain/object.ts';
import type { Principal } from '../domain/principal.ts';
import { principalOf } from './call.ts';
import { listObjects } from './list_objects.ts';
import type { ObjectRef } from './object_location.ts';
import type { Objects } from './objects.ts';
import type { PublicModels } from './public_models.ts';
import { requestIdOf } from './request_id.ts';
import { type WatchOptions, watchObjects } from './watch_objects.ts';

/** The service of each kind. */
export const kindServices = {
  BayModel: BayModelService,
  Bay: BayService,
  Node: NodeService,
  Pod: PodService,
  Service: ServiceService,
  ReplicationController: ReplicationControllerService,
  Container: ContainerService,
} as const satisfies Record<KindName, DescService>;

/** How a kind is deleted. */
export interface DeleteHow {
  readonly etag: string;
  readonly allowMissing: boolean;
  readonly force: boolean;
  readonly validateOnly: boolean;
}

/** Where a kind differs from the others. */
export interface KindExceptions<K extends KindName> {
  create?(principal: Principal): never;
  delete?(principal: Principal, ref: ObjectRef, how: DeleteHow): Promise<Kinds[K] | undefined>;
}

/** What the methods of every kind are made of. */
export interface KindServiceOptions extends WatchOptions {
  readonly objects: Objects;
  readonly publicModels: PublicModels;
  /** Calls back when a watch begins and when it ends. */
  readonly watching: (delta: 1 | -1) => void;
}

/*
 * The messages of the seven services have the same fields but for the name of the one that holds the object. These are those fields; that each
 * message has them is what `kind_services.test.ts` holds against the descriptors.
 */
interface RefRequest extends Message {
  readonly bay?: string;
  readonly namespace?: string;
  readonly name: string;
  readonly uid: string;
}
interface CreateRequest extends Message {
  readonly requestId: string;
  readonly validateOnly: boolean;
}
interface UpdateRequest extends CreateRequest {
  readonly updateMask?: FieldMask;
  readonly allowMissing: boolean;
}
interface DeleteRequest extends RefRequest, DeleteHow {}
interface ListRequest extends Message {
  readonly bay?: string;
  readonly namespace?: string;
  readonly pageSize: number;
  readonly pageToken: string;
  readonly filter: string;
  readonly orderBy: string;
}
interface WatchRequest extends Message {
  readonly bay?: string;
  readonly namespace?: string;
  readonly filter: string;
  readonly sinceRevision: bigint;
  readonly name: string;
}

/** Create, Get, List, Update, Delete and Watch of one kind: the methods that its service has in common with the others'. */
export function kindMethods<K extends KindName>(
  kind: K,
  options: KindServiceOptions,
  exceptions: KindExceptions<K> = {},
): Partial<ServiceImpl<(typeof kindServices)[K]>> {
  const { objects } = options;
  const service: DescService = kindServices[kind];
  const [one, many] = [localName(kind), pluralName(kind)];
  const inputs = new Map(service.methods.map((method) => [method.localName, method.input]));
  const inputOf = (method: string): DescMessage => {
    const input = inputs.get(method);
    if (!input) throw new Error(`${service.typeName} has no method ${method}`);
    return input;
  };
  const createInput = inputOf(`create${kind}`);
  const updateInput = inputOf(`update${kind}`);
  // The validation interceptor has seen to it that it is there.
  const objectOf = (request: Message): Kinds[K] => {
    const object = (request as Message & Record<string, unknown>)[one];
    if (!object) throw new InvalidError(fieldName[kind], 'is required');
    return object as Kinds[K];
  };

  const methods = {
    [`create${kind}`]: async (request: CreateRequest, context: HandlerContext) => {
      const principal = principalOf(context);
      exceptions.create?.(principal);
      const requestId = requestIdOf(createInput, request);
      return { [one]: await objects.create(principal, kind, objectOf(request), requestId, request.validateOnly) };
    },
    [`get${kind}`]: async (request: RefRequest, context: HandlerContext) => ({
      [one]: await objects.get(principalOf(context), kind, refOf(request)),
    }),
    [`list${kind}s`]: async (request: ListRequest, context: HandlerContext) => {
      const principal = principalOf(context);
      const bay = await objects.bayOf(principal, kind, request.bay ?? '');
      const asked = { ...request, namespace: request.namespace ?? '' };
      const store = kind === 'BayModel' && !principal.everyProject ? options.publicModels : options.store;
      const answer = await listObjects({ store, around: options.around }, principal, kind, bay, asked);
      return { [many]: answer.objects, nextPageToken: answer.nextPageToken, revision: answer.revision };
    },
    [`update${kind}`]: async (request: UpdateRequest, context: HandlerContext) => {
      const { object } = await objects.update(principalOf(context), kind, objectOf(request), {
        mask: request.updateMask,
        allowMissing: request.allowMissing && !exceptions.create,
        validateOnly: request.validateOnly,
        request: requestIdOf(updateInput, request),
      });
      return { [one]: object };
    },
    [`delete${kind}`]: async (request: DeleteRequest, context: HandlerContext) => {
      const principal = principalOf(context);
      const ref = refOf(request);
      const end = exceptions.delete
        ? exceptions.delete(principal, ref, request)
        : objects.delete(principal, kind, ref, request);
      return { [one]: await end };
    },
    [`watch${kind}s`]: async function* (request: WatchRequest, context: HandlerContext) {
      const principal = principalOf(context);
      const bay = await objects.bayOf(principal, kind, request.bay ?? '');
      const asked = { ...request, namespace: request.namespace ?? '' };
      options.watching(1);
      try {
        for await (const { object, ...event } of watchObjects(options, principal, kind, bay, asked, context.signal)) {
          yield { ...event, [one]: object };
        }
      } finally {
        options.watching(-1);
      }
    },
  };
  return methods as unknown as Partial<ServiceImpl<(typeof kindServices)[K]>>;
}

/** Serves the methods that every kind has, and those that only this one has. */
export function serveKind<K extends KindName>(
  router: ConnectRouter,
  kind: K,
  methods: Partial<ServiceImpl<(typeof kindServices)[K]>>,
): void {
  router.service<DescService>(kindServices[kind], methods as Partial<ServiceImpl<DescService>>);
}

/** The object that a request names. */
export const refOf = (request: { bay?: string; namespace?: string; name: string; uid: string }): ObjectRef => ({
  bay: request.bay ?? '',
  namespace: request.namespace ?? '',
  name: request.name,
  uid: request.uid,
});

const localName = (kind: KindName): string => kind.charAt(0).toLowerCase() + kind.slice(1);
const pluralName = (kind: KindName): string => `${localName(kind)}s`;
/** Kinds in the order in which they are served. */
export const kindNames = Object.keys(kinds) as KindName[];
