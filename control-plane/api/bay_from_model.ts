import { create } from '@bufbuild/protobuf';
import type { BayModel } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import { type Bay, BaySpecSchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerEngine, Provisioner } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { InvalidError, PreconditionError, UnimplementedError } from '../domain/errors.ts';
import type { KindName } from '../domain/kinds.ts';
import type { ObjectMessage } from '../domain/object.ts';
import type { Principal } from '../domain/principal.ts';
import { decode, type StoredRecord } from '../domain/record.ts';
import type { ObjectKey, Store } from '../store/port.ts';
import { isPublic, type PublicModels } from './public_models.ts';

type NameKey = Exclude<ObjectKey, { readonly uid: string }>;

/** The BayModel that a new bay is made from: the project's own of that name, or else one that is public. */
export interface ModelRef {
  readonly name: string;
  readonly own: NameKey;
  readonly shared: { readonly uid: string } | undefined;
}

/** Where the BayModel is looked for that a new bay is made from. */
export function modelRef(
  kind: KindName,
  principal: Principal,
  object: ObjectMessage,
  models: PublicModels,
): ModelRef | undefined {
  const name = kind === 'Bay' ? (object as Bay).spec?.bayModel : '';
  if (!name) return undefined;
  const shared = models.find({ name });
  return {
    name,
    own: { kind: 'BayModel', project: principal.project, bayUid: '', namespace: '', name },
    shared: shared && { uid: shared.uid },
  };
}

/** What has to be read to find it. */
export const modelReads = ({ own, shared }: ModelRef): readonly ObjectKey[] => (shared ? [own, shared] : [own]);

/** The one that is meant, of what was read. */
export function modelOf(
  { own, shared }: ModelRef,
  get: (key: ObjectKey) => StoredRecord | undefined,
): StoredRecord | undefined {
  const mine = get(own);
  if (mine || !shared) return mine;
  const theirs = get(shared);
  return theirs && isPublic(theirs) ? theirs : undefined;
}

/** The same, outside of a write. */
export async function readModel(store: Pick<Store, 'get'>, ref: ModelRef): Promise<StoredRecord | undefined> {
  const [own, shared] = await Promise.all(modelReads(ref).map((key) => store.get(key)));
  return modelOf(ref, (key) => (key === ref.own ? own : shared));
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
