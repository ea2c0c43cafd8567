import type { ObjectReport } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { NodeStatus } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { Clock } from '../clock.ts';
import { type Driver, DriverError, type EngineContainer, type EngineEvent } from '../drivers/driver.ts';
import type { HealthThresholds } from '../health.ts';
import type { Log } from '../log.ts';
import { forbiddenReason, type PolicySource, restricts } from '../policy.ts';
import type { Desired, Reports, Workloads } from '../ports.ts';
import { type Aside, KeyedQueue } from '../queue.ts';
import { Endings } from './endings.ts';
import { checkAllowed, judgeObject } from './enforcement.ts';
import { EngineHealth } from './engine_health.ts';
import { label, type Owner, ownedUid, ownerLabels } from './engine_labels.ts';
import { openExecute, openLogs } from './engine_streams.ts';
import { EngineWatch } from './engine_watch.ts';
import { execute, whoseName } from './execute.ts';
import { FileMemory, VolatileMemory } from './memory.ts';
import { mainOf, observe } from './observe.ts';
import { Outcomes } from './outcomes.ts';
import { planObject } from './plan.ts';
import { Roster } from './roster.ts';
import { containerOf } from './stream_target.ts';
import type { Tracked } from './tracked.ts';
import { type Wanted, wantedOf } from './wanted.ts';

export interface WorkloadsOptions {
  readonly driver: Driver;
  readonly desired: Desired;
  readonly reports: Reports;
  readonly bayUid: string;
  readonly nodeUid: string;
  readonly nodeName: string;
  readonly clock: Clock;
  readonly log: Log;
  /** A file of its own, in a folder that exists. */
  readonly memoryFile: string;
  /** What the node's owner allows. */
  readonly policy: PolicySource;
  /** How many objects are worked on at a time; those that pull or stop do not count. Default 8. */
  readonly concurrency?: number;
  /** How often everything is looked at, in case an event was missed. Default 60 s. */
  readonly resyncMs?: number;
  readonly thresholds?: HealthThresholds;
  /** In [0, 1). Default `Math.random`. */
  readonly random?: () => number;
}

/** The engine half of the agent. */
export interface RunningWorkloads extends Workloads {
  /** Begins to make things so. Resolves once the engine was tried; one that is away is a condition, and no error. */
  start(): Promise<void>;
  /** Ends the work; what runs on the engine goes on. */
  stop(): Promise<void>;
}

/** Plan and steps, before it is said that they lead nowhere. */
const maxRounds = 6;
const removalPollMs = 250;
/** How long a step under way may hold up the end. */
const stopPatienceMs = 5_000;
const startPatienceMs = 2_000;

export function createWorkloads(options: WorkloadsOptions): RunningWorkloads {
  return new Loop(options);
}

/** Makes what the engine has be what is desired, object by object, and says what became of each. */
class Loop implements RunningWorkloads {
  readonly #options: WorkloadsOptions;
  readonly #owner: Owner;
  readonly #roster: Roster;
  readonly #queue: KeyedQueue;
  readonly #watch: EngineWatch;
  readonly #health: EngineHealth;
  readonly #outcomes: Outcomes;
  #memory = new VolatileMemory();
  #endings = new Endings(this.#memory);
  #stopped = false;
  #unsubscribe: () => void = () => undefined;
  #cancelResync: () => void = () => undefined;
  #firstLook: () => void = () => undefined;

  constructor(options: WorkloadsOptions) {
    const { driver, desired, clock, log, random, bayUid, nodeUid } = options;
    this.#options = options;
    this.#owner = { bayUid, nodeUid };
    this.#roster = new Roster({
      ...options,
      away: () => this.#watch.problem,
      memoryOf: (uid) => this.#memory.get(uid),
    });
    this.#health = new EngineHealth(options);
    this.#outcomes = new Outcomes({
      ...options,
      roster: this.#roster,
      memory: () => this.#memory,
      isUp: () => this.#watch.isUp,
      again: (uid) => this.#queue.add(uid),
    });
    this.#queue = new KeyedQueue({
      concurrency: options.concurrency ?? 8,
      work: (uid, aside) => this.#work(uid, aside),
      onError: (uid, error) => log.error({ uid, error: text(error) }, 'an object could not be worked on'),
    });
    this.#watch = new EngineWatch({
      driver,
      clock,
      log,
      random,
      sinceMs: () => this.#memory.lastEventMs,
      onUp: () => {
        this.#health.news();
        void this.#relist();
      },
      onDown: () => {
        this.#health.news();
        // Of what there is a word on already that word is kept.
        for (const uid of desired.current.objects.keys()) if (!this.#roster.get(uid)?.report) this.#queue.add(uid);
        this.#firstLook();
      },
      onEvent: (event) => this.#onEvent(event),
    });
  }

  async start(): Promise<void> {
    const { clock, desired, log, memoryFile, policy, resyncMs = 60_000 } = this.#options;
    try {
      this.#memory = await FileMemory.open({ path: memoryFile, clock, log });
    } catch (error) {
      log.error({ memoryFile, error: text(error) }, 'the memory file cannot be read: going on without');
    }
    this.#endings = new Endings(this.#memory);
    if (this.#memory.lastEventMs === 0) this.#memory.lastEventMs = clock.now();
    const unsubscribe = [desired.subscribe((uids) => this.#onDesired(uids)), policy.subscribe(() => this.#onPolicy())];
    this.#unsubscribe = () => {
      for (const end of unsubscribe) end();
    };
    const looked = new Promise<void>((resolve) => {
      const cancel = clock.after(startPatienceMs, resolve);
      this.#firstLook = () => {
        cancel();
        resolve();
      };
    });
    this.#watch.start();
    const resync = () => {
      this.#cancelResync = clock.after(resyncMs, () => {
        void this.#relist(true);
        resync();
      });
    };
    resync();
    await looked;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#unsubscribe();
    this.#cancelResync();
    for (const one of this.#roster.all()) one.callOff();
    const late = new Promise<void>((resolve) => setTimeout(resolve, stopPatienceMs).unref());
    await Promise.race([Promise.all([this.#watch.stop(), this.#queue.stop()]), late]);
    await this.#memory.close();
  }

  snapshot(): readonly ObjectReport[] {
    return this.#roster.snapshot();
  }

  get unseen(): number {
    return this.#roster.unseen;
  }

  nodeStatus(): Promise<NodeStatus> {
    const containers = [...this.#roster.all()].flatMap(({ owned }) => owned);
    return this.#health.status(this.#watch, containers);
  }

  onNodeChange(listener: () => void): () => void {
    return this.#health.onNews(listener);
  }

  async openLogs(...[uid, request, sink]: Parameters<Workloads['openLogs']>): ReturnType<Workloads['openLogs']> {
    return await openLogs(this.#options.driver, await this.#containerOf(uid), request, sink);
  }

  async openExecute(...[uid, start, sink]: Parameters<Workloads['openExecute']>): ReturnType<Workloads['openExecute']> {
    const container = await this.#containerOf(uid);
    const { desired, driver, policy } = this.#options;
    await checkAllowed(policy.current, wantedOf(desired.current, uid), container);
    return await openExecute(driver, container, start, sink);
  }

  #containerOf(uid: string): Promise<EngineContainer> {
    const { desired, driver } = this.#options;
    const away = this.#watch.isUp ? undefined : (this.#watch.problem ?? '');
    return containerOf({ driver, desired, owner: this.#owner, away, problem: this.#roster.get(uid)?.problem }, uid);
  }

  #onDesired(uids: readonly string[]): void {
    for (const uid of uids) {
      const one = this.#roster.track(uid);
      const wanted = wantedOf(this.#options.desired.current, uid);
      // What it does now, and what it waits for, are of no interest when something else is wanted.
      if (one.want(wanted)) this.#roster.report(one, wanted);
      this.#queue.add(uid);
    }
  }

  #onPolicy(): void {
    this.#health.news();
    for (const one of this.#roster.all()) {
      // What was allowed when it was begun may not be any more.
      one.callOff();
      one.retryNow();
      if (one.problem?.reason === forbiddenReason) one.problem = undefined;
      this.#queue.add(one.uid);
    }
  }

  #onEvent(event: EngineEvent): void {
    this.#memory.lastEventMs = Math.max(this.#memory.lastEventMs, event.timeMs);
    const uid = ownedUid(this.#owner, event);
    if (uid !== undefined) {
      this.#endings.observe(uid, event);
      this.#memory.touch();
      if (!quiet.has(event.action) && !this.#stopped) this.#queue.add(uid);
    }
    if (event.action !== 'destroy' && event.action !== 'rename') return;
    // A name has become free, perhaps one that is waited for.
    for (const one of this.#roster.all()) {
      if (one.waitsForName !== undefined && (one.waitsForName === event.name || one.waitsForName === event.oldName)) {
        one.retryNow();
        this.#queue.add(one.uid);
      }
    }
  }

  /** @param changedOnly Only what is not as it was last seen. */
  async #relist(changedOnly = false): Promise<void> {
    const { driver, desired, log } = this.#options;
    if (!this.#watch.isUp || this.#stopped) return;
    try {
      const found = new Map<string, string[]>();
      for (const summary of await driver.list(ownerLabels(this.#owner))) {
        const uid = summary.labels[label.uid];
        if (uid) found.set(uid, [...(found.get(uid) ?? []), `${summary.id} ${summary.name} ${summary.state}`]);
      }
      const { objects, graves } = desired.current;
      for (const uid of new Set([...objects.keys(), ...graves, ...found.keys()])) {
        const one = this.#roster.track(uid);
        const same = one.seen === (found.get(uid) ?? []).sort().join('\n');
        if (changedOnly && same && one.settled) continue;
        if (!changedOnly) one.retryNow();
        this.#queue.add(uid);
      }
      for (const uid of this.#memory.uids()) {
        if (!objects.has(uid) && !graves.has(uid) && !found.has(uid)) this.#memory.forget(uid);
      }
      this.#memory.touch();
    } catch (error) {
      log.warn({ error: text(error) }, 'the engine could not be asked for its containers');
    } finally {
      this.#firstLook();
    }
  }

  async #work(uid: string, aside: Aside): Promise<void> {
    const { desired, policy } = this.#options;
    // What happened while nobody looked is told before it is known whether the engine can be asked: then all is looked at.
    if (!this.#watch.isTried) return;
    const one = this.#roster.track(uid);
    for (let round = 0; !this.#stopped; round += 1) {
      const wanted = wantedOf(desired.current, uid);
      one.want(wanted);
      const isKnown = wanted.kind === 'present' || wanted.kind === 'absent';
      try {
        if (this.#watch.isUp && (isKnown || restricts(policy.current))) {
          if (!(await this.#step(one, wanted, aside, round))) continue;
          if (isKnown) return;
        }
        if (wanted.kind === 'untouched') this.#roster.untrack(one);
        else this.#roster.report(one, wanted);
        return;
      } catch (error) {
        if (error instanceof DriverError && error.kind === 'cancelled') continue;
        return this.#outcomes.fail(one, wanted, error);
      }
    }
  }

  /** One look, one plan, and its steps. True: there is nothing more to do now. */
  async #step(one: Tracked, wanted: Wanted, aside: Aside, round: number): Promise<boolean> {
    const { driver, clock, policy } = this.#options;
    const { current: rules } = policy;
    const view = await observe(driver, this.#owner, wanted);
    one.see(view.owned, mainOf(wanted, view), clock.now());
    const { verdict, violations } = await judgeObject(rules, wanted, view);
    const { steps, blocked } = planObject(this.#owner, wanted, view, this.#memory.get(one.uid), verdict);
    if (blocked?.by === 'policy') {
      this.#outcomes.refuse(one, wanted, violations);
      return true;
    }
    if (blocked?.by === 'name') {
      one.waitsForName = blocked.occupant.name;
      if (one.isWaiting(clock.now())) {
        this.#roster.report(one, wanted);
        return true;
      }
      throw new DriverError('name-taken', whoseName(this.#owner, blocked.occupant));
    }
    if (blocked) {
      one.retryAfter(removalPollMs, () => this.#queue.add(one.uid));
      this.#roster.report(one, wanted);
      return true;
    }
    if (steps.length === 0) {
      if (wanted.kind === 'present' || wanted.kind === 'absent') await this.#outcomes.settle(one, wanted);
      return true;
    }
    if (one.isWaiting(clock.now())) {
      this.#roster.report(one, wanted);
      return true;
    }
    if (round >= maxRounds) {
      const kinds = steps.map((step) => step.kind).join(', ');
      throw new DriverError(
        'other',
        `the engine does not become what was asked for, however often it is told: ${kinds}`,
      );
    }
    const signal = one.begin();
    const goOn = () => !this.#stopped && !signal.aborted && this.#watch.isUp && policy.current === rules;
    try {
      await execute(
        steps,
        {
          driver,
          memory: this.#memory,
          owner: this.#owner,
          signal,
          aside,
          doing: (what) => {
            one.doing = what;
            this.#roster.report(one, wanted);
          },
        },
        goOn,
      );
    } finally {
      one.doing = undefined;
    }
    return !this.#watch.isUp;
  }
}

/** Actions that change nothing to act on. */
const quiet: ReadonlySet<EngineEvent['action']> = new Set(['create', 'kill']);

const text = (error: unknown): string => (error instanceof Error ? error.message : String(error));
