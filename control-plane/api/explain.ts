import type { ServiceImpl } from '@connectrpc/connect';
import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { type ExplainService, Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import type { Bus } from '../broker/port.ts';
import { InvalidError } from '../domain/errors.ts';
import type { KindName } from '../domain/kinds.ts';
import type { AssignedStatus } from '../domain/object.ts';
import type { Surroundings } from '../domain/present.ts';
import type { Principal } from '../domain/principal.ts';
import { decode } from '../domain/record.ts';
import { silenceOf } from '../domain/silence.ts';
import { explainAssigned, explainBay, explainBayModel, explainNode } from '../domain/why.ts';
import type { Liveness, Publications } from '../reconcile/port.ts';
import { principalOf } from './call.ts';
import { refOf } from './kind_services.ts';
import type { Objects } from './objects.ts';

/** What explaining needs. */
export interface ExplainOptions {
  readonly objects: Objects;
  readonly liveness: Liveness;
  readonly around: Surroundings;
  readonly publications: Publications;
  readonly bus: Pick<Bus, 'connected'>;
}

const kindOf: Readonly<Partial<Record<Kind, KindName>>> = {
  [Kind.BAY_MODEL]: 'BayModel',
  [Kind.BAY]: 'Bay',
  [Kind.NODE]: 'Node',
  [Kind.POD]: 'Pod',
  [Kind.SERVICE]: 'Service',
  [Kind.REPLICATION_CONTROLLER]: 'ReplicationController',
  [Kind.CONTAINER]: 'Container',
};

/** What runs the object, as the chain names it. */
async function engineOf(
  { objects }: ExplainOptions,
  { subject, role }: Principal,
  kind: KindName,
  project: string,
  bayName: string,
): Promise<string> {
  const bay = await objects.bayOf({ subject, role, project }, kind, bayName);
  return bay?.engine === ContainerEngine.KUBERNETES && kind !== 'Container' ? 'kubernetes' : 'docker';
}

/** Why an object is as it is. */
export function explainMethods(options: ExplainOptions): ServiceImpl<typeof ExplainService> {
  const { objects, liveness, around, publications, bus } = options;
  return {
    async why(request, context) {
      const principal = principalOf(context);
      const kind = kindOf[request.kind];
      if (!kind) throw new InvalidError('kind', 'is required');
      const stored = await objects.find(principal, kind, refOf(request));
      switch (kind) {
        case 'BayModel':
          return explainBayModel(objects.present(kind, stored));
        case 'Bay':
          return explainBay(objects.present(kind, stored));
        case 'Node':
          return explainNode(objects.present(kind, stored));
        default: {
          const object = decode(kind, stored);
          const { node = '' } = (object.status ?? {}) as Partial<AssignedStatus>;
          return explainAssigned({
            kind,
            object,
            assigneeUid: stored.assigneeUid,
            live: stored.assigneeUid ? liveness.node(stored.assigneeUid) : undefined,
            silence: silenceOf(stored, node, around),
            publishTimeMs: publications.publishTimeMs(stored.uid, stored.generation),
            brokerConnected: bus.connected,
            engine: await engineOf(options, principal, kind, stored.project, object.metadata?.bay ?? ''),
          });
        }
      }
    },
  };
}
