import {
  create,
  type DescMessage,
  type DescMethodStreaming,
  type DescMethodUnary,
  type DescService,
  isMessage,
  type Message,
} from '@bufbuild/protobuf';
import { type BayModel, BayModelSchema } from '../proto/gen/baykeeper/v1/bay_model_pb.js';
import { BayModelService } from '../proto/gen/baykeeper/v1/bay_model_service_pb.js';
import { type Bay, BaySchema } from '../proto/gen/baykeeper/v1/bay_pb.js';
import { BayService } from '../proto/gen/baykeeper/v1/bay_service_pb.js';
import { type Container, ContainerSchema } from '../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../proto/gen/baykeeper/v1/container_service_pb.js';
import { type Metadata, MetadataSchema } from '../proto/gen/baykeeper/v1/metadata_pb.js';
import { type Node, NodeSchema } from '../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../proto/gen/baykeeper/v1/node_service_pb.js';
import { type Pod, PodSchema } from '../proto/gen/baykeeper/v1/pod_pb.js';
import { PodService } from '../proto/gen/baykeeper/v1/pod_service_pb.js';
import {
  type ReplicationController,
  ReplicationControllerSchema,
} from '../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ReplicationControllerService } from '../proto/gen/baykeeper/v1/replication_controller_service_pb.js';
import { type Service, ServiceSchema } from '../proto/gen/baykeeper/v1/service_pb.js';
import { ServiceService } from '../proto/gen/baykeeper/v1/service_service_pb.js';
import { WatchEventType } from '../proto/gen/baykeeper/v1/watch_pb.js';
import type { Api } from './client.ts';
import { everyProject, type Settings } from './context.ts';
import { CliError, UsageError } from './errors.ts';
import { type KindName, type KindRow, kindRows } from './kinds.ts';

/** An object of any kind. */
export type AnyObject = BayModel | Bay | Node | Pod | Service | ReplicationController | Container;

const schemas = {
  BayModel: BayModelSchema,
  Bay: BaySchema,
  Node: NodeSchema,
  Pod: PodSchema,
  Service: ServiceSchema,
  ReplicationController: ReplicationControllerSchema,
  Container: ContainerSchema,
} as const;

const services: Readonly<Record<KindName, DescService>> = {
  BayModel: BayModelService,
  Bay: BayService,
  Node: NodeService,
  Pod: PodService,
  Service: ServiceService,
  ReplicationController: ReplicationControllerService,
  Container: ContainerService,
};

/** Where to look: a bay and a namespace; what a kind does not have is left out. An empty namespace means `default`, or in lists all. */
export interface Place {
  readonly bay: string;
  readonly namespace: string;
}

/** What a watch says. `object` is unset for SYNCED and BOOKMARK. */
export interface WatchEvent {
  readonly type: WatchEventType;
  readonly object?: AnyObject;
  readonly revision: bigint;
}

/** The schema of a kind. */
export function schemaOf(kind: KindName): DescMessage {
  return schemas[kind];
}

/** The kind of an object. */
export function kindOf(object: AnyObject): KindRow {
  const found = kindRows.find((row) => object.$typeName === schemas[row.name].typeName);
  if (!found) throw new Error(`no kind has messages of type ${object.$typeName}`);
  return found;
}

/** Metadata that is always there. */
export function metadataOf(object: AnyObject): Metadata {
  return object.metadata ?? create(MetadataSchema);
}

/** As printed: `container/web`. */
export function label(object: AnyObject): string {
  return `${kindOf(object).singular}/${metadataOf(object).name}`;
}

/** Whether a name is a uid. */
function isUid(name: string): boolean {
  return /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(name);
}

/** Reads and writes objects of any kind. Throws ApiError, and UsageError when a kind needs a bay and there is none. */
export class Objects {
  readonly #api: Api;
  constructor(api: Api) {
    this.#api = api;
  }

  /** The object of that name or uid. */
  async get(kind: KindRow, place: Place, name: string): Promise<AnyObject> {
    const response = await this.#call(kind, `Get${kind.name}`, {
      ...within(kind, place, this.#api.settings),
      ...named(name),
    });
    return this.#one(kind, response);
  }

  /** All that match `filter` (CEL; empty: all), page by page, at most `limit`; and the revision from which a watch may go on. */
  async list(
    kind: KindRow,
    place: Place,
    options: { readonly filter?: string; readonly limit?: number } = {},
  ): Promise<{ readonly objects: AnyObject[]; readonly revision: bigint }> {
    const limit = options.limit ?? Number.POSITIVE_INFINITY;
    const objects: AnyObject[] = [];
    let revision = 0n;
    let pageToken = '';
    do {
      const response = await this.#call(kind, `List${kind.name}s`, {
        ...within(kind, place, this.#api.settings),
        pageSize: Math.min(500, limit - objects.length),
        pageToken,
        filter: options.filter ?? '',
      });
      const page = field(response, kind.listField);
      if (!Array.isArray(page)) throw unexpected(kind, 'List');
      for (const object of page) objects.push(asObject(kind, object));
      if (revision === 0n) revision = asBigint(field(response, 'revision'));
      const next = String(field(response, 'nextPageToken') ?? '');
      if (next !== '' && next === pageToken) throw unexpected(kind, 'List');
      pageToken = next;
    } while (pageToken !== '' && objects.length < limit);
    return { objects: objects.slice(0, limit), revision };
  }

  /** Makes a new one. The request's id makes a repeated call harmless. */
  async create(object: AnyObject, options: { readonly validateOnly?: boolean } = {}): Promise<AnyObject> {
    const kind = kindOf(object);
    const response = await this.#call(kind, `Create${kind.name}`, {
      [kind.field]: object,
      requestId: crypto.randomUUID(),
      validateOnly: options.validateOnly ?? false,
    });
    return this.#one(kind, response);
  }

  /** Changes what `paths` name (none: labels, annotations and spec). With a `metadata.etag` it fails when somebody was faster. */
  async update(object: AnyObject, paths: readonly string[]): Promise<AnyObject> {
    const kind = kindOf(object);
    const response = await this.#call(kind, `Update${kind.name}`, {
      [kind.field]: object,
      ...(paths.length > 0 ? { updateMask: { paths: [...paths] } } : {}),
    });
    return this.#one(kind, response);
  }

  /** Asks for its end. Undefined when it is gone at once. */
  async delete(
    kind: KindRow,
    place: Place,
    name: string,
    options: { readonly force?: boolean; readonly allowMissing?: boolean; readonly validateOnly?: boolean } = {},
  ): Promise<AnyObject | undefined> {
    const response = await this.#call(kind, `Delete${kind.name}`, {
      ...within(kind, place, this.#api.settings),
      ...named(name),
      force: options.force ?? false,
      allowMissing: options.allowMissing ?? false,
      validateOnly: options.validateOnly ?? false,
    });
    const object = field(response, kind.field);
    return object === undefined ? undefined : asObject(kind, object);
  }

  /** One watch, until it ends or breaks; `resumingWatch` goes on after that. */
  async *watch(
    kind: KindRow,
    place: Place,
    options: {
      readonly filter?: string;
      readonly name?: string;
      readonly sinceRevision?: bigint;
      readonly signal?: AbortSignal;
    },
  ): AsyncIterable<WatchEvent> {
    const method = methodOf(kind, `Watch${kind.name}s`) as DescMethodStreaming;
    const input = {
      ...within(kind, place, this.#api.settings),
      filter: options.filter ?? '',
      name: options.name ?? '',
      sinceRevision: options.sinceRevision ?? 0n,
    };
    for await (const response of this.#api.stream(method, input, options.signal)) {
      const object = field(response, kind.field);
      const type = field(response, 'type');
      yield {
        type: typeof type === 'number' ? type : WatchEventType.UNSPECIFIED,
        ...(object === undefined ? {} : { object: asObject(kind, object) }),
        revision: asBigint(field(response, 'revision')),
      };
    }
  }

  #call(kind: KindRow, method: string, input: Record<string, unknown>): Promise<Message> {
    return this.#api.unary(methodOf(kind, method) as DescMethodUnary, input);
  }

  #one(kind: KindRow, response: Message): AnyObject {
    return asObject(kind, field(response, kind.field));
  }
}

/** The fields of a request that say where. Throws UsageError without a bay where one is needed. */
export function within(
  kind: KindRow,
  place: Place,
  { project }: Pick<Settings, 'project'>,
): { bay?: string; namespace?: string } {
  if (kind.scope === 'project') return {};
  if (project === everyProject) return kind.scope === 'bay' ? {} : { namespace: place.namespace };
  if (!place.bay) {
    throw new UsageError(
      `${kind.plural} are in a bay: say which with -b BAY, BAYKEEPER_BAY or \`bayctl config set-context --bay BAY\``,
    );
  }
  return kind.scope === 'bay' ? { bay: place.bay } : { bay: place.bay, namespace: place.namespace };
}

/** The fields of a request that say which: by uid when it is one. */
export function named(name: string): { name?: string; uid?: string } {
  return isUid(name) ? { uid: name } : { name };
}

function methodOf(kind: KindRow, name: string): DescService['methods'][number] {
  const method = services[kind.name].methods.find((candidate) => candidate.name === name);
  if (!method) throw new Error(`${kind.name}Service has no method ${name}`);
  return method;
}

function field(message: Message, name: string): unknown {
  return Object.entries(message).find(([key]) => key === name)?.[1];
}

function asObject(kind: KindRow, value: unknown): AnyObject {
  for (const schema of Object.values(schemas)) {
    if (isMessage(value, schema) && schema.typeName === schemas[kind.name].typeName) return value;
  }
  throw unexpected(kind, 'the call');
}

function asBigint(value: unknown): bigint {
  return typeof value === 'bigint' ? value : 0n;
}

function unexpected(kind: KindRow, call: string): CliError {
  return new CliError(`the server's answer to ${call} of ${kind.plural} is not as the API promises`);
}
