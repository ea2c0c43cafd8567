import { create } from '@bufbuild/protobuf';
import type { BayModel } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import { type Bay, BaySpecSchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerEngine, Provisioner } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { InvalidError, PreconditionError, UnimplementedError } from '../domain/errors.ts';
import type { KindName } from '../domain/kinds.ts';
import type { ObjectMessage } from '../domain/object.ts';
import type { Principal } from '../domain/principal.ts';
import { decode, type StoredRecord } from '../domain/record.ts';
import type { ObjectKey } from '../store/port.ts';

type NameKey = Exclude<ObjectKey, { readonly uid: string }>;

/** The BayModel that a new bay is made from. */
export function modelKey(kind: KindName, principal: Principal, object: ObjectMessage): NameKey | undefined {
  const name = kind === 'Bay' ? (object as Bay).spec?.bayModel : '';
  return name ? { kind: 'BayModel', project: principal.project, bayUid: '', namespace: '', name } : undefined;
}

/** Gives a new bay what its BayModel says. */
export function completeBay(kind: KindName, object: ObjectMessage, stored: StoredRecord | undefined): void {
  if (kind !== 'Bay') return;
  const bay = object as Bay;
  bay.spec ??= create(BaySpecSchema);
  const { spec } = bay;
  if (spec.bayModel && !stored) {
    throw new InvalidError('bay.spec.bay_model', `there is no baymodel "${spec.bayModel}"`);
  }
  if (stored?.deleting) throw new PreconditionError(`baymodel "${spec.bayModel}" is being deleted`);
  const model: BayModel['spec'] = stored && decode('BayModel', stored).spec;
  const engine = model?.containerEngine ?? (spec.containerEngine || ContainerEngine.DOCKER);
  const provisioner = model?.provisioner ?? Provisioner.ENROLL;
  const source = 'is taken from the BayModel: leave it out, or name a BayModel that says so';
  if (spec.containerEngine && spec.containerEngine !== engine)
    throw new InvalidError('bay.spec.container_engine', source);
  if (spec.provisioner && spec.provisioner !== provisioner) throw new InvalidError('bay.spec.provisioner', source);
  if (provisioner === Provisioner.HEAT) {
    throw new UnimplementedError(
      `baymodel "${spec.bayModel}" has its nodes made by OpenStack Heat, which is not built yet: use ENROLL`,
    );
  }
  spec.containerEngine = engine;
  spec.provisioner = provisioner;
}
