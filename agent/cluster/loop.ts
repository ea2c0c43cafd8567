import type { Assignment, ObjectReport } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { Clock } from '../clock.ts';
import type { ClusterDriver } from '../drivers/cluster_driver.ts';
import type { ClusterError } from '../drivers/cluster_error.ts';
import type { Log } from '../log.ts';
import { forbiddenReason, type PolicySource } from '../policy.ts';
import type { Desired, Reports } from '../ports.ts';
import { type Aside, KeyedQueue } from '../queue.ts';
import { Unseen } from '../unseen.ts';
import { Answers, type Attempt } from './answers.ts';
import { EarlierPods } from './earlier_pods.ts';
import { adoptionRefusal, judgeObject } from './enforcement.ts';
import type { EventNote } from './events.ts';
import { execute, type Outcome, type Step } from './execute.ts';
import { ForeignWatches } from './foreign_watches.ts';
import type { KeptAddresses } from './kept_addresses.ts';
import { countLeftovers, leftoversOf } from './leftovers.ts';
import type { Live } from './live.ts';
import { type ClusterKind, clusterKinds, type Manifest } from './manifest.ts';
import type { Namespaces } from './namespaces.ts';
import { Observed } from './observed.ts';
import { Outcomes } from './outcomes.ts';
import { claimOf } from './ownership.ts';
import { isAt, type Place, placeOf, planObject, type Wanted, wantedOf } from './plan.ts';
import { ObjectError } from './reasons.ts';
import { Reporting } from './reporting.ts';
import { Roster } from './roster.ts';
import { type EndpointAddresses, endingMessage } from './status.ts';
import type { Tracked } from './tracked.ts';
import { Watches } from './watches.ts';

export interface LoopOptions {
  readonly driver: ClusterDriver;
  readonly desired: Desired;
  readonly reports: Reports;
  readonly namespaces: Namespaces;
  readonly addresses: KeptAddresses;
  readonly bayUid: string;
  readonly nodeName: string;
  /** What is to be applied for an assignment. */
  readonly manifestOf: (assignment: Assignment) => Manifest | undefined;
  /** What the node's owner allows. */
  readonly policy: PolicySource;
  /** Aborts when this agent leads no more: from then on nothing is written. */
  readonly term: AbortSignal;
  /** Whether the cluster can be watched is otherwise than before. */
  readonly onState: () => void;
  readonly clock: Clock;
  readonly log: Log;
  /** How many objects are worked on at a time; those of which the cluster takes its time do not count. Default 32. */
  readonly concurrency?: number;
  /** In [0, 1). Default `Math.random`. */
  readonly random?: () => number;
}

/** Steps, before it is said that they lead nowhere. */
const maxRounds = 8;
/** A request that takes longer gives up its place. */
const slowMs = 2_000;
const leftoversPollMs = 1_000;

/** Makes what the cluster has of a bay be what is desired, object by object, and says what became of each; for as long as this agent leads. */
export class ClusterLoop {
  readonly #options: LoopOptions;
  readonly #observed = new Observed();
  readonly #answers: Answers;
  readonly #unseen: Unseen;
  readonly #roster: Roster;
  readonly #reporting: Reporting;
  readonly #queue: KeyedQueue;
  readonly #watches: Watches;
  readonly #foreign: ForeignWatches;
  readonly #earlierPods: EarlierPods;
  readonly #outcomes: Outcomes;
  readonly #unsubscribe: () => void;

  constructor(options: LoopOptions) {
    const { driver, desired, bayUid, log, term } = options;
    this.#options = options;
    this.#roster = new Roster(options);
    this.#unseen = new Unseen(desired);
    this.#answers = new Answers({ ...options, observed: this.#observed, manifestOf: (uid) => this.#manifestOf(uid) });
    this.#reporting = new Reporting({ ...options, observed: this.#observed, unseen: this.#unseen });
    this.#queue = new KeyedQueue({
      concurrency: options.concurrency ?? 32,
      work: (uid, aside) => this.#work(uid, aside),
      onError: (uid, error) => log.error({ uid, error: (error as Error).stack }, 'an object could not be worked on'),
    });
    this.#watches = new Watches({
      driver,
      bayUid,
      log,
      signal: term,
      manifestOf: (uid) => this.#manifestOf(uid),
      known: (place) => this.#observed.at(place),
      confirm: (kind, resourceVersion) => this.#observed.confirm(kind, resourceVersion),
      isOurs: (place) => this.#roster.at(place) !== undefined,
      onSnapshot: (kind, all) => this.#onSnapshot(kind, all),
      onPut: (live) => this.#changed(this.#observed.put(live)),
      onDelete: (live) => this.#changed(this.#observed.remove(live)),
      onEndpoints: (uid, endpoints) => this.#onEndpoints(uid, endpoints),
      onEvent: (place, note) => this.#onEvent(place, note),
      onState: (kind) => this.#onState(kind),
    });
    this.#earlierPods = new EarlierPods(options);
    this.#foreign = new ForeignWatches({ driver, log, signal: term, onFree: (uid) => this.#onFree(uid) });
    this.#outcomes = new Outcomes({
      ...options,
      reporting: this.#reporting,
      foreign: this.#foreign,
      again: (uid) => this.#queue.add(uid),
    });
    for (const uid of desired.current.objects.keys()) this.#track(uid);
    const unsubscribe = [
      desired.subscribe((uids) => this.#onDesired(uids)),
      options.policy.subscribe(() => this.#onPolicy()),
    ];
    this.#unsubscribe = () => {
      for (const end of unsubscribe) end();
    };
    this.#watches.start();
  }

  /** What the cluster cannot be asked about, as in paths, and why. */
  get problems(): ReadonlyMap<string, ClusterError> {
    return this.#watches.problems;
  }

  /** How many objects were not looked at yet. */
  get unseen(): number {
    return this.#unseen.count;
  }

  /** Every object as it is now. */
  snapshot(): ObjectReport[] {
    return [...this.#roster.all()].flatMap((one) => this.#reporting.current(one, this.#wantedOf(one.uid)) ?? []);
  }

  /** Ends its work, when `term` has aborted. What it made stays. */
  async stop(): Promise<void> {
    this.#unsubscribe();
    for (const one of this.#roster.all()) one.retryNow();
    await this.#queue.stop();
  }

  #manifestOf(uid: string): Manifest | undefined {
    const object = this.#options.desired.current.objects.get(uid);
    return object && this.#options.manifestOf(object.assignment);
  }

  #wantedOf(uid: string): Wanted {
    const { desired, manifestOf } = this.#options;
    return wantedOf(desired.current, uid, manifestOf);
  }

  #liveOf(wanted: Wanted): Live | undefined {
    const place = placeOf(wanted);
    return place && this.#observed.of(wanted.uid).find((live) => isAt(live, place));
  }

  /** Mostly it is our own write that comes back: what is being worked on looks again by itself once it has the answer. */
  #changed(uid: string | undefined): void {
    if (!uid) return;
    const one = this.#queue.isRunning(uid) ? this.#roster.get(uid) : undefined;
    if (one) one.changed = true;
    else this.#queue.add(uid);
  }

  #onDesired(uids: readonly string[]): void {
    for (const uid of uids) {
      const one = this.#track(uid);
      const wanted = this.#wantedOf(uid);
      // What it waits for is of no interest when something else is wanted.
      one.want(wanted);
      this.#queue.add(uid);
    }
  }

  #onPolicy(): void {
    for (const one of this.#roster.all()) {
      if (one.problem?.reason === forbiddenReason) one.problem = undefined;
      one.retryNow();
      this.#queue.add(one.uid);
    }
  }

  #onSnapshot(kind: ClusterKind, all: readonly Live[]): void {
    // What is not as asked, and what is in a grave, is looked at with the news of the watch itself.
    for (const uid of this.#observed.snapshot(kind, all)) this.#queue.add(uid);
  }

  #onState(kind: ClusterKind | undefined): void {
    this.#options.onState();
    if (!kind) return;
    if (!this.#watches.isReady(kind)) {
      for (const uid of this.#unseen.uids()) this.#queue.add(uid);
      return;
    }
    for (const one of this.#roster.all()) {
      if (one.settled) continue;
      if (one.away) one.retryNow();
      this.#queue.add(one.uid);
    }
    for (const uid of this.#options.desired.current.graves) this.#queue.add(uid);
  }

  #onEndpoints(uid: string, endpoints: EndpointAddresses | undefined): void {
    const one = this.#roster.get(uid);
    if (!one) return;
    one.endpoints = endpoints;
    this.#queue.add(uid);
  }

  #onEvent(place: Place, note: EventNote): void {
    const one = this.#roster.at(place);
    if (one?.events.add(note)) this.#queue.add(one.uid);
  }

  #onFree(uid: string): void {
    this.#roster.get(uid)?.retryNow();
    this.#queue.add(uid);
  }

  async #work(uid: string, aside: Aside): Promise<void> {
    const one = this.#track(uid);
    await this.#workOn(one, aside);
    if (one.changed && !this.#options.term.aborted) this.#queue.add(uid);
  }

  async #workOn(one: Tracked, aside: Aside): Promise<void> {
    const { term } = this.#options;
    const { uid } = one;
    const attempt: Attempt = { refused: undefined, foreign: undefined };
    for (let round = 0; !term.aborted; round += 1) {
      one.changed = false;
      const wanted = this.#wantedOf(uid);
      one.want(wanted);
      if (wanted.kind === 'untouched' || !this.#isReady(wanted)) {
        if (wanted.kind === 'untouched') {
          this.#untrack(one);
          this.#unseen.seen(uid);
        } else {
          // It is looked at again once the cluster can be asked.
          one.unsettle();
          this.#reporting.reportAway(one, wanted, this.#problemOf(wanted));
        }
        return;
      }
      try {
        if (await this.#step(one, wanted, attempt, round, aside)) return;
      } catch (error) {
        if (term.aborted) return;
        one.note = undefined;
        this.#outcomes.fail(one, wanted, error);
        return;
      }
    }
  }

  /** Whether enough is known of the cluster to do something about an object: a list comes before the first act. */
  #isReady(wanted: Wanted): boolean {
    const place = placeOf(wanted);
    return place ? this.#watches.isReady(place.kind) : clusterKinds.every((kind) => this.#watches.isReady(kind));
  }

  /** Why the cluster cannot be asked about an object. */
  #problemOf(wanted: Wanted): ClusterError | undefined {
    const place = placeOf(wanted);
    return (place ? [place.kind] : clusterKinds).map((kind) => this.#watches.problemOf(kind)).find(Boolean);
  }

  /** One look, one plan, and its step. True: there is nothing more to do now. */
  async #step(one: Tracked, wanted: Wanted, attempt: Attempt, round: number, aside: Aside): Promise<boolean> {
    const { verdict, violations } = judgeObject(this.#options.policy.current, wanted, one.problem !== undefined);
    if (violations.length > 0) this.#outcomes.forbid(one, wanted, violations);
    const plan = planObject(wanted, {
      live: this.#observed.of(one.uid),
      unsure: this.#observed.isUnsure(one.uid),
      accepted: one.accepted,
      verdict,
      ...attempt,
    });
    switch (plan.kind) {
      case 'none':
        return true;
      case 'settled':
        await this.#earlierPods.look(one, this.#liveOf(wanted), aside);
        this.#outcomes.settle(one, wanted);
        return true;
      case 'gone':
        return await this.#gone(one, wanted, aside);
      case 'forbidden':
        await this.#earlierPods.look(one, this.#liveOf(wanted), aside);
        this.#reporting.report(one, wanted);
        return true;
      case 'conflict':
        throw new ObjectError('Conflict', plan.foreign.whose);
      case 'await-end':
        this.#outcomes.awaitEnd(one, wanted, plan.live);
        return true;
    }
    const refusal =
      plan.kind === 'adopt' ? adoptionRefusal(this.#options.policy.current, plan.foreign.asks) : undefined;
    if (refusal !== undefined) throw new ObjectError(forbiddenReason, refusal);
    one.unsettle();
    const isMending = plan.kind === 'apply' && plan.strayed.length > 0;
    if (one.isWaiting || (isMending && one.isHeld(() => this.#queue.add(one.uid)))) {
      this.#reporting.report(one, wanted);
      return true;
    }
    if (round >= maxRounds) {
      throw new ObjectError(
        'NotAsApplied',
        `the cluster does not become what was asked for, however often it is told (${plan.kind})`,
      );
    }
    this.#prepare(one, plan);
    this.#answers.take(one, wanted, plan, attempt, await this.#execute(plan, one, aside));
    return false;
  }

  #prepare(one: Tracked, plan: Step): void {
    const { log } = this.#options;
    const { uid } = one;
    if (plan.kind === 'replace') {
      log.info({ uid, clusterUid: plan.clusterUid }, 'the cluster will not change an object in place: replacing it');
    }
    if (plan.kind === 'delete') one.leftovers = leftoversOf(plan.targets) ?? one.leftovers;
    if (plan.kind === 'apply' && plan.strayed.length > 0) {
      log.info(
        { uid, fields: plan.strayed.map(({ path }) => path) },
        'somebody else has changed an object: mending it',
      );
    }
  }

  async #execute(plan: Step, one: Tracked, aside: Aside): Promise<Outcome> {
    const { driver, term, namespaces, addresses, clock } = this.#options;
    const running = execute(plan, {
      driver,
      signal: term,
      ensureNamespace: (name) => namespaces.ensure(name),
      keep: (kept) => addresses.keep(one.uid, kept),
      recall: () => addresses.recall(one.uid),
      whose: (kind, object) => claimOf(this.#options.bayUid, one.uid, kind, object),
    });
    return await new Promise((resolve, reject) => {
      const cancel = clock.after(slowMs, () => resolve(aside(() => running)));
      running.then(resolve, reject).finally(cancel);
    });
  }

  /** Nothing of it was seen. True: it is over, or has to wait. */
  async #gone(one: Tracked, wanted: Wanted, aside: Aside): Promise<boolean> {
    const { desired, namespaces, driver, term } = this.#options;
    const place = placeOf(wanted);
    if (place) {
      // What a watch tells may be a moment old; that it is gone is said for good.
      const outcome = await this.#execute({ kind: 'look', place }, one, aside);
      if (outcome.kind === 'seen' && outcome.object) {
        this.#answers.looked(place, outcome.object);
        return false;
      }
    }
    const pods = one.leftovers ? await countLeftovers(driver, one.leftovers, term) : 0;
    if (pods > 0) {
      one.note = { reason: 'Ending', message: endingMessage({ ending: undefined, finalizers: [] }, pods) };
      one.retryAfter(leftoversPollMs, () => this.#queue.add(one.uid));
      this.#reporting.report(one, wanted);
      return true;
    }
    this.#outcomes.waitNoMore(one);
    one.settle();
    one.leftovers = undefined;
    one.removed = true;
    const { objects, graves } = desired.current;
    if (objects.has(one.uid)) this.#reporting.report(one, wanted);
    else this.#untrack(one);
    if (graves.has(one.uid)) await desired.buried(one.uid);
    if (place) namespaces.tidy(place.namespace);
    return true;
  }

  #untrack(one: Tracked): void {
    this.#outcomes.waitNoMore(one);
    this.#roster.untrack(one);
  }

  #track(uid: string): Tracked {
    return this.#roster.track(uid, placeOf(this.#wantedOf(uid)));
  }
}
