import { create, type Message } from '@bufbuild/protobuf';
import { DurationSchema } from '@bufbuild/protobuf/wkt';
import { type BayModelSpec, BayModelSpecSchema } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import { BaySpecSchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerEngine, Provisioner } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import {
  type ContainerSpec,
  PortProtocol,
  PowerState,
  PullPolicy,
  RestartPolicy,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { NodeSpecSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { PodSpecSchema } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { ReplicationControllerSpecSchema } from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import { ServiceSpecSchema } from '../../proto/gen/baykeeper/v1/service_pb.js';
import type { KindName } from './kinds.ts';
import type { ObjectMessage } from './object.ts';

/** The namespace of objects whose author named none. */
export const defaultNamespace = 'default';

/**
 * Defaults are stored, not implied: what a user reads is what the agent gets, and a later change of a default changes nothing that is
 * there already. Fills in what the author of the spec left out. An absent spec becomes an empty one, but for kinds that cannot do with an
 * empty one: there it stays absent, for the rules to refuse.
 */
export function applyDefaults(kind: KindName, object: ObjectMessage): void {
  specDefaults[kind](object);
}

const specDefaults: Readonly<Record<KindName, (object: ObjectMessage) => void>> = {
  BayModel(object) {
    object.spec ??= create(BayModelSpecSchema);
    const spec = object.spec as BayModelSpec;
    spec.containerEngine ||= ContainerEngine.DOCKER;
    spec.provisioner ||= Provisioner.ENROLL;
  },
  // Engine and provisioner come from the BayModel, which is not at hand here.
  Bay: orEmpty(() => create(BaySpecSchema)),
  Node: orEmpty(() => create(NodeSpecSchema)),
  Pod: orEmpty(() => create(PodSpecSchema)),
  Service: orEmpty(() => create(ServiceSpecSchema)),
  ReplicationController: orEmpty(() => create(ReplicationControllerSpecSchema)),
  Container(object) {
    if (object.spec) containerDefaults(object.spec as ContainerSpec);
  },
};

function orEmpty(make: () => Message): (object: ObjectMessage) => void {
  return (object) => {
    object.spec ??= make();
  };
}

function containerDefaults(spec: ContainerSpec): void {
  spec.pullPolicy ||= PullPolicy.IF_NOT_PRESENT;
  spec.restartPolicy ||= RestartPolicy.ALWAYS;
  spec.powerState ||= PowerState.RUNNING;
  spec.stopTimeout ??= create(DurationSchema, { seconds: 10n });
  for (const port of spec.ports) port.protocol ||= PortProtocol.TCP;
  if (spec.healthCheck) {
    spec.healthCheck.interval ??= create(DurationSchema, { seconds: 30n });
    spec.healthCheck.timeout ??= create(DurationSchema, { seconds: 30n });
    spec.healthCheck.retries ||= 3;
  }
}
