import type { FieldMask } from '@bufbuild/protobuf/wkt';
import { defaultNamespace } from '../domain/defaults.ts';
import { AlreadyExistsError, ConflictError, InvalidError, NotFoundError } from '../domain/errors.ts';
import { type KindName, type Kinds, kinds } from '../domain/kinds.ts';
import { type Changed, changeSpec, deleteObject, namespaceOf, newObject, updateObject } from '../domain/lifecycle.ts';
import { describe, fieldName, fieldOf, metadataOf, type ObjectMessage } from '../domain/object.ts';
import { checkSize, sizeOf } from '../domain/object_size.ts';
import { presentMessage, type Surroundings } from '../domain/present.ts';
import { type Principal, projectOf } from '../domain/principal.ts';
import { decode, encode } from '../domain/record.ts';
import type { Checks, Liveness, Placement, Verdict } from '../reconcile/port.ts';
import type { ObjectKey, Store, StoredObject, WriteView } from '../store/port.ts';
import { findInAnyProject } from './any_project.ts';
import { type BayDirectory, type BayRef, checkTaking } from './bay_directory.ts';
import { completeBay, modelReads, modelRef, readModel } from './bay_from_model.ts';
import { askCluster } from './cluster_check.ts';
import type { DryRun } from './dry_run.ts';
import { checkSupported } from './kind_support.ts';
import type { CheckMessage } from './message_rules.ts';
import { exists, keyOf, type Located, notFound, type ObjectRef } from './object_location.ts';
import { type Outcome, putChanged } from './object_writes.ts';
import { Placing } from './placing.ts';
import { checkPublic, isPublic, type PublicModels } from './public_models.ts';
import type { Quotas } from './quotas.ts';
import { noRequestId, type RequestId } from './request_id.ts';

/** What the objects' operations need. */
export interface ObjectsOptions {
  readonly store: Store;
  readonly bays: BayDirectory;
  readonly placement: Placement;
  readonly checks: Checks;
  readonly liveness: Liveness;
  readonly quotas: Quotas;
  readonly publicModels: PublicModels;
  readonly around: Surroundings;
  readonly clock: { now(): number };
  readonly checkMessage: CheckMessage;
  /** A new UUIDv7. */
  readonly newUid: () => string;
}

type Written<T> =
  | { readonly replayed: string }
  | { readonly object: T; readonly stored: StoredObject; readonly outcome: Outcome };

/** Create, get, update and delete, for every kind. Lists and watches are in files of their own. */
export class Objects {
  readonly #options: ObjectsOptions;
  readonly #placing: Placing;

  constructor(options: ObjectsOptions) {
    this.#options = options;
    this.#placing = new Placing(options);
  }

  /** Makes a new object. `input` is the caller's to give away. */
  async create<K extends KindName>(
    principal: Principal,
    kind: K,
    input: Kinds[K],
    request: RequestId,
    validateOnly: boolean,
  ): Promise<Kinds[K]> {
    const { object, bay } = await this.#prepare(principal, kind, input);
    const model = modelRef(kind, principal, object, this.#options.publicModels);
    if (validateOnly) {
      const { store } = this.#options;
      completeBay(kind, object, model && (await readModel(store, model)));
      if (await store.get(keyOf(kind, principal, bay, object))) throw exists(kind, object);
      if (bay) checkTaking(bay);
      this.#placing.place(kind, object, bay);
      checkSize(kind, object);
      this.#options.quotas.checkRoom(principal.project, store.usage(principal.project), {
        kind,
        bytes: sizeOf(kind, object),
      });
      await this.#askCluster(kind, object, bay);
      return presentMessage(kind, object, unstored(object), this.#options.around);
    }
    const node = this.#placing.place(kind, object, bay);
    const reads: ObjectKey[] = [keyOf(kind, principal, bay, object)];
    if (bay) reads.push({ uid: bay.uid });
    if (node) reads.push({ uid: node.uid });
    if (model) reads.push(...modelReads(model));
    const written = await this.#write(
      kind,
      principal,
      request,
      reads,
      (view) => ({
        object,
        stored: this.#placing.insert(view, kind, object, bay, node, model),
        outcome: 'created',
      }),
      object,
    );
    return this.#answer(kind, principal, written);
  }

  /** Rejects with NotFoundError. */
  async get<K extends KindName>(principal: Principal, kind: K, ref: ObjectRef): Promise<Kinds[K]> {
    const stored = await this.find(principal, kind, ref);
    return presentMessage(kind, decode(kind, stored), stored, this.#options.around);
  }

  /** As it lies in the store. Rejects with NotFoundError; where every project is asked, with PreconditionError when several have the name. */
  async find(principal: Principal, kind: KindName, ref: ObjectRef): Promise<StoredObject> {
    const isAnywhere = principal.everyProject && ref.name && !ref.uid && !ref.bay;
    if (isAnywhere) return findInAnyProject(this.#options.store, kind, ref);
    const at = await this.locate(principal, kind, ref);
    const stored = await this.#options.store.get(at.key);
    if (stored) return stored;
    const shared = kind === 'BayModel' ? this.#options.publicModels.find(ref) : undefined;
    if (!shared) throw notFound(kind, ref);
    return shared;
  }

  /** Changes an object, or makes it where there is none and `allowMissing` is set. `input` is the caller's to give away. */
  async update<K extends KindName>(
    principal: Principal,
    kind: K,
    input: Kinds[K],
    how: {
      readonly mask?: FieldMask;
      readonly allowMissing: boolean;
      readonly validateOnly: boolean;
      readonly request: RequestId;
      /** With `validateOnly`: what is to be taken as there. */
      readonly dryRun?: DryRun;
    },
  ): Promise<{
    readonly object: Kinds[K];
    readonly outcome: Outcome;
    /** With `validateOnly`, on a Kubernetes bay. */
    readonly verdict?: Verdict;
  }> {
    const { store } = this.#options;
    const given = metadataOf(kind, input as ObjectMessage);
    const ref = {
      bay: given.bay,
      namespace: namespaceOf(kind, given),
      name: given.uid ? '' : given.name,
      uid: given.uid,
    };
    const at = await this.locate(principal, kind, ref, how.dryRun);
    // With a uid, one object and no other is meant: none is made in its place.
    const mayCreate = how.allowMissing && !given.uid;
    const model = mayCreate ? modelRef(kind, principal, input, this.#options.publicModels) : undefined;

    // Made once, though a write may run twice: the uid stays the same.
    let fresh: Kinds[K] | undefined;
    const makeFresh = (): Kinds[K] => {
      if (given.etag) throw new ConflictError(`${describe(kind, given)} is gone since it was read`);
      if (how.mask?.paths.length) this.#options.checkMessage(kinds[kind].schema, input, fieldName[kind]);
      fresh ??= this.#make(principal, kind, input, at.bay);
      return fresh;
    };
    const change = (stored: StoredObject): Changed<Kinds[K]> => {
      if (given.uid && given.name && stored.name !== given.name) {
        throw new InvalidError(fieldOf(kind, 'metadata.name'), `cannot change: it is "${stored.name}"`);
      }
      const current = decode(kind, stored);
      const changed = updateObject<Kinds[K] & ObjectMessage>(kind, current, input, how.mask, this.#options.clock.now());
      checkPublic(principal, kind, isPublic(stored), changed.object);
      // What was sent was only a part; the whole has to follow the rules.
      if (how.mask?.paths.length) this.#options.checkMessage(kinds[kind].schema, changed.object, fieldName[kind]);
      return changed;
    };

    if (how.validateOnly) {
      const stored = await store.get(at.key);
      const { project } = principal;
      // With what the manifests before would have made.
      const usage = () => how.dryRun?.usage(store.usage(project)) ?? store.usage(project);
      if (!stored) {
        if (!mayCreate) throw notFound(kind, ref);
        const object = makeFresh();
        if (at.bay) checkTaking(at.bay);
        this.#placing.place(kind, object, at.bay);
        completeBay(kind, object, model && (how.dryRun?.bayModel(model.name) ?? (await readModel(store, model))));
        checkSize(kind, object);
        const bytes = sizeOf(kind, object);
        this.#options.quotas.checkRoom(project, usage(), { kind, bytes });
        how.dryRun?.made(kind, object, true, bytes);
        const verdict = await this.#askCluster(kind, object, at.bay);
        const shown = presentMessage(kind, object, unstored(object), this.#options.around);
        return { object: shown, outcome: 'created', verdict };
      }
      const { object, changed } = change(stored);
      const bytes = changed ? sizeOf(kind, object) - stored.body.byteLength : 0;
      if (changed) checkSize(kind, object);
      this.#options.quotas.checkRoom(project, usage(), { bytes });
      how.dryRun?.made(kind, object, false, bytes);
      const verdict = await this.#askCluster(kind, object, at.bay);
      return {
        object: presentMessage(kind, object, stored, this.#options.around),
        outcome: changed ? 'configured' : 'unchanged',
        verdict,
      };
    }

    // The node is chosen before the write, for it has to be among its reads; what is there already has one.
    const chosen = mayCreate ? this.#placing.choose(kind, input, at.bay) : undefined;
    const reads: ObjectKey[] = [at.key];
    if (mayCreate && at.bay) reads.push({ uid: at.bay.uid });
    if (chosen) reads.push({ uid: chosen.uid });
    if (model) reads.push(...modelReads(model));
    const written = await this.#write<Kinds[K]>(kind, principal, how.request, reads, (view) => {
      const stored = view.get(at.key);
      if (!stored) {
        if (!mayCreate) throw notFound(kind, ref);
        const object = makeFresh();
        return { object, stored: this.#placing.insert(view, kind, object, at.bay, chosen, model), outcome: 'created' };
      }
      const written = putChanged(view, kind, stored, change(stored));
      this.#options.quotas.checkChanged(view, stored, written.stored);
      return written;
    });
    const outcome = 'replayed' in written ? 'unchanged' : written.outcome;
    return { object: await this.#answer(kind, principal, written), outcome };
  }

  /** Changes the spec of one object by a function. Rejects with NotFoundError and with what `change` throws. */
  async change<K extends KindName>(
    principal: Principal,
    kind: K,
    ref: ObjectRef,
    etag: string,
    change: (spec: NonNullable<Kinds[K]['spec']>, object: Kinds[K]) => void,
  ): Promise<Kinds[K]> {
    const at = await this.locate(principal, kind, ref);
    const written = await this.#write<Kinds[K]>(kind, principal, noRequestId, [at.key], (view) => {
      const stored = view.get(at.key);
      if (!stored) throw notFound(kind, ref);
      const current = decode(kind, stored);
      const changed = changeSpec<Kinds[K] & ObjectMessage>(kind, current, etag, this.#options.clock.now(), (spec) => {
        change(spec as NonNullable<Kinds[K]['spec']>, current);
      });
      return putChanged(view, kind, stored, changed);
    });
    return this.#answer(kind, principal, written);
  }

  /** Asks for an object's end. Undefined when there was none and `allowMissing` is set. */
  async delete<K extends KindName>(
    principal: Principal,
    kind: K,
    ref: ObjectRef,
    how: {
      readonly etag: string;
      readonly allowMissing: boolean;
      readonly force: boolean;
      readonly validateOnly: boolean;
    },
  ): Promise<Kinds[K] | undefined> {
    const { store, clock, around } = this.#options;
    const at = await this.locate(principal, kind, ref);
    const end = (stored: StoredObject) => {
      const assigned = kinds[kind].assigned && stored.assigneeUid !== '';
      const request = { etag: how.etag, force: how.force, assigned, nowMs: clock.now() };
      return deleteObject<Kinds[K] & ObjectMessage>(kind, decode(kind, stored), request);
    };
    if (how.validateOnly) {
      const stored = await store.get(at.key);
      if (stored) {
        return presentMessage(kind, end(stored).object, { ...stored, deleting: true }, around);
      }
      if (how.allowMissing) return undefined;
      throw notFound(kind, ref);
    }
    const done = await store.write({
      reads: [at.key],
      apply: (view) => {
        const stored = view.get(at.key);
        if (!stored) {
          if (how.allowMissing) return undefined;
          throw notFound(kind, ref);
        }
        const { object, changed, remove } = end(stored);
        if (remove) view.remove(stored.uid, stored.assigneeUid);
        else if (changed) view.put(encode(kind, object, stored), stored.assigneeUid);
        return { object, stored };
      },
    });
    return done && presentMessage(kind, done.object, { ...done.stored, deleting: true }, around);
  }

  /** Finds out where an object would be. Rejects with NotFoundError for the bay, UnimplementedError for its engine, InvalidError. */
  async locate(principal: Principal, kind: KindName, ref: ObjectRef, dryRun?: DryRun): Promise<Located> {
    const bay = await this.bayOf(principal, kind, ref.bay, dryRun);
    if (ref.uid && ref.name) throw new InvalidError('uid', 'and name cannot both be given');
    if (ref.uid) {
      const bayUid = principal.everyProject ? undefined : (bay?.uid ?? '');
      return { bay, key: { uid: ref.uid, within: { kind, project: projectOf(principal), bayUid } } };
    }
    if (principal.everyProject) throw new InvalidError('uid', 'or name is required');
    if (!ref.name) throw new InvalidError('name', 'or uid is required');
    const namespace = kinds[kind].scope === 'namespace' ? ref.namespace || defaultNamespace : '';
    return { bay, key: { kind, project: principal.project, bayUid: bay?.uid ?? '', namespace, name: ref.name } };
  }

  /** The bay that a request names; undefined for kinds that are not in one, and where every project is asked. */
  async bayOf(principal: Principal, kind: KindName, name: string, dryRun?: DryRun): Promise<BayRef | undefined> {
    if (kinds[kind].scope === 'project') {
      if (name) throw new InvalidError(fieldOf(kind, 'metadata.bay'), `a ${kinds[kind].singular} is in no bay`);
      return undefined;
    }
    if (principal.everyProject) {
      if (name) throw new InvalidError('bay', 'cannot be given: several projects may have a bay of this name');
      return undefined;
    }
    if (!name) throw new InvalidError('bay', 'is required: the name of the bay');
    const bay = dryRun?.bay(name) ?? (await this.#options.bays.find(principal.project, name));
    checkSupported(bay, kind);
    return bay;
  }

  /** As it is shown. */
  present<K extends KindName>(kind: K, stored: StoredObject): Kinds[K] {
    return presentMessage(kind, decode(kind, stored), stored, this.#options.around);
  }

  async #prepare<K extends KindName>(
    principal: Principal,
    kind: K,
    input: Kinds[K],
  ): Promise<{ readonly object: Kinds[K]; readonly bay: BayRef | undefined }> {
    const { bay: name } = metadataOf(kind, input as ObjectMessage);
    const bay = await this.bayOf(principal, kind, name);
    return { object: this.#make(principal, kind, input, bay), bay };
  }

  #make<K extends KindName>(principal: Principal, kind: K, input: Kinds[K], bay: BayRef | undefined): Kinds[K] {
    const { newUid, clock } = this.#options;
    const made = { uid: newUid(), project: principal.project, bay: bay?.name ?? '', nowMs: clock.now() };
    const object = newObject<Kinds[K] & ObjectMessage>(kind, input, made);
    checkPublic(principal, kind, false, object);
    return object;
  }

  /** What the cluster of a Kubernetes bay says to an object. Rejects when it refuses it, and when it cannot be asked. */
  #askCluster(kind: KindName, object: ObjectMessage, bay: BayRef | undefined): Promise<Verdict | undefined> {
    return askCluster(this.#options, kind, object, bay);
  }

  /** One write, or the answer of the one before with the same request id. */
  async #write<T extends ObjectMessage>(
    kind: KindName,
    principal: Principal,
    request: RequestId,
    reads: readonly ObjectKey[],
    apply: (view: WriteView) => Exclude<Written<T>, { readonly replayed: string }>,
    creating?: ObjectMessage,
  ): Promise<Written<T>> {
    const fingerprint = request.id ? request.fingerprint() : '';
    try {
      return await this.#options.store.write<Written<T>>({
        reads,
        request: request.id ? { project: principal.project, requestId: request.id } : undefined,
        apply(view) {
          if (request.id && view.remembered) {
            if (view.remembered.fingerprint === fingerprint) return { replayed: view.remembered.uid };
            throw new InvalidError('request_id', 'was used before, for another request');
          }
          const written = apply(view);
          if (request.id) view.remember(written.stored.uid, fingerprint);
          return written;
        },
      });
    } catch (error) {
      if (creating && error instanceof AlreadyExistsError) throw exists(kind, creating, error);
      throw error;
    }
  }

  async #answer<K extends KindName>(kind: K, principal: Principal, written: Written<Kinds[K]>): Promise<Kinds[K]> {
    if (!('replayed' in written)) {
      return presentMessage(kind, written.object, written.stored, this.#options.around);
    }
    const within = { kind, project: principal.project };
    const stored = await this.#options.store.get({ uid: written.replayed, within });
    if (!stored) {
      throw new NotFoundError(`the ${kinds[kind].singular} that this request made has been deleted since`);
    }
    return this.present(kind, stored);
  }
}

const unstored = (object: ObjectMessage) => ({
  uid: object.metadata?.uid ?? '',
  bayUid: '',
  assigneeUid: '',
  epoch: 0,
  deleting: false,
});
