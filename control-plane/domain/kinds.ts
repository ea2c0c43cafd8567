import type { DescMessage, Message } from '@bufbuild/protobuf';
import { type BayModel, BayModelSchema } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import { type Bay, BaySchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { type Container, ContainerSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { type Node, NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { type Pod, PodSchema } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import {
  type ReplicationController,
  ReplicationControllerSchema,
} from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { type Service, ServiceSchema } from '../../proto/gen/baykeeper/v1/service_pb.js';

/** The seven kinds, by name. */
export interface Kinds {
  BayModel: BayModel;
  Bay: Bay;
  Node: Node;
  Pod: Pod;
  Service: Service;
  ReplicationController: ReplicationController;
  Container: Container;
}
export type KindName = keyof Kinds;
/** The kinds that are given to an agent. */
export type AssignedKind = Exclude<KindName, 'BayModel' | 'Bay' | 'Node'>;

/** What the shared rules need to know of a kind. */
export interface KindRow {
  readonly schema: DescMessage;
  /** Where its names are unique: in the project, in the bay, or in a namespace of the bay. */
  readonly scope: 'project' | 'bay' | 'namespace';
  /** Whether objects of it are given to an agent. */
  readonly assigned: boolean;
  /** Of its names. */
  readonly maxNameLength: number;
  /** As in messages and tables: `container`, `containers`. */
  readonly singular: string;
  readonly plural: string;
}

export const kinds: { readonly [K in KindName]: KindRow } = {
  BayModel: {
    schema: BayModelSchema,
    scope: 'project',
    assigned: false,
    maxNameLength: 63,
    singular: 'baymodel',
    plural: 'baymodels',
  },
  Bay: { schema: BaySchema, scope: 'project', assigned: false, maxNameLength: 63, singular: 'bay', plural: 'bays' },
  Node: { schema: NodeSchema, scope: 'bay', assigned: false, maxNameLength: 253, singular: 'node', plural: 'nodes' },
  Pod: { schema: PodSchema, scope: 'namespace', assigned: true, maxNameLength: 253, singular: 'pod', plural: 'pods' },
  Service: {
    schema: ServiceSchema,
    scope: 'namespace',
    assigned: true,
    maxNameLength: 63,
    singular: 'service',
    plural: 'services',
  },
  ReplicationController: {
    schema: ReplicationControllerSchema,
    scope: 'namespace',
    assigned: true,
    maxNameLength: 253,
    singular: 'replicationcontroller',
    plural: 'replicationcontrollers',
  },
  Container: {
    schema: ContainerSchema,
    scope: 'namespace',
    assigned: true,
    maxNameLength: 63,
    singular: 'container',
    plural: 'containers',
  },
};

export const assignedKinds = (Object.keys(kinds) as KindName[]).filter(
  (kind): kind is AssignedKind => kinds[kind].assigned,
);

/** Any object of any kind, as the shared rules see it. */
export type AnyObject = Kinds[KindName] & Message;
