import type { Clock } from '../clock.ts';
import type { ClusterDriver, ClusterObject } from '../drivers/cluster_driver.ts';
import type { Outcome, Step } from './execute.ts';
import { type Live, liveOf } from './live.ts';
import { type ClusterKind, clusterKinds, type Manifest } from './manifest.ts';
import type { Observed } from './observed.ts';
import { type Foreign, objectUidOf } from './ownership.ts';
import { type Place, placeOf, strayedKey, type View, type Wanted } from './plan.ts';
import type { Tracked } from './tracked.ts';

export interface AnswersOptions {
  readonly driver: Pick<ClusterDriver, 'fieldManager'>;
  readonly observed: Observed;
  readonly bayUid: string;
  /** What should be there of an object. */
  readonly manifestOf: (objectUid: string) => Manifest | undefined;
  readonly clock: Clock;
}

/** What is known in one go at an object, and not kept after it. */
export interface Attempt {
  refused: View['refused'];
  foreign: Foreign | undefined;
}

/** Takes in what the cluster answers to our own steps, which is newer than what a watch tells for a moment. */
export class Answers {
  readonly #options: AnswersOptions;

  constructor(options: AnswersOptions) {
    this.#options = options;
  }

  /** What came of a step. */
  take(one: Tracked, wanted: Wanted, plan: Step, attempt: Attempt, outcome: Outcome): void {
    switch (outcome.kind) {
      case 'foreign':
        attempt.foreign = outcome.foreign;
        return;
      case 'refused':
        if (wanted.kind === 'present') {
          attempt.refused = { hash: wanted.manifest.hash, clusterUid: outcome.clusterUid };
        }
        return;
      case 'ended':
        for (const clusterUid of outcome.gone) this.#options.observed.ended(clusterUid);
        for (const object of outcome.ending) this.#wrote(object, placeOf(wanted)?.kind);
        if (outcome.gone.length > 0) attempt.foreign = undefined;
        return;
      case 'seen':
        this.#seen(one, wanted, plan, outcome);
    }
  }

  /** What was read just now; undefined: there is none of ours. */
  looked(place: Place, object: ClusterObject | undefined): void {
    this.#options.observed.looked(place, object && this.#liveOf(object, place.kind));
  }

  #seen(one: Tracked, wanted: Wanted, plan: Step, { object, written }: Extract<Outcome, { kind: 'seen' }>): void {
    const { clock } = this.#options;
    if (wanted.kind !== 'present') return;
    const { manifest, generation } = wanted;
    if (!object || !written) {
      this.looked(manifest, object);
      return;
    }
    const live = this.#wrote(object, manifest.kind);
    const nowMs = clock.now();
    one.applied = { generation, timeMs: nowMs };
    if (plan.kind === 'apply' && plan.strayed.length > 0) one.contention.mended(plan.strayed, nowMs);
    if (live && live.strayed.length > 0) one.accepted = { hash: manifest.hash, strayed: strayedKey(live.strayed) };
  }

  #wrote(object: ClusterObject, kind: ClusterKind | undefined): Live | undefined {
    const known = kind ?? clusterKinds.find((one) => one === object.kind);
    if (!known) return undefined;
    const live = this.#liveOf(object, known, true);
    this.#options.observed.wrote(live);
    return live;
  }

  #liveOf(object: ClusterObject, kind: ClusterKind, written = false): Live {
    const { bayUid, driver, manifestOf } = this.#options;
    const uid = objectUidOf(object.metadata, bayUid);
    const manifest = uid === undefined ? undefined : manifestOf(uid);
    const { namespace = '', name } = object.metadata;
    const before = this.#options.observed.at({ kind, namespace, name });
    // A watch may be faster than the answer to the write that it tells of.
    const isSame =
      before?.clusterUid === object.metadata.uid && before.resourceVersion === object.metadata.resourceVersion;
    if (before && isSame && before.checked === manifest?.hash) return before;
    return liveOf(object, { kind, bayUid, fieldManager: driver.fieldManager, manifest, before, written });
  }
}
