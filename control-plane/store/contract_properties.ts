import type { TestFn } from 'ava';
import fc from 'fast-check';
import { AlreadyExistsError, CompactedError, NotFoundError, PreconditionError } from '../domain/errors.ts';
import type { StoreBed } from './contract_bed.ts';
import { lateStore } from './contract_late_store.ts';
import { makeObject, nameKey } from './contract_objects.ts';
import type { Change, Store, StoredObject, Write, WriteView } from './port.ts';
import { openWatch } from './watch.ts';

/** One step inside a write. Twelve objects share six names in two bays, so that writes meet. */
interface Step {
  readonly op: 'put' | 'remove';
  readonly object: number;
  readonly node: number;
  readonly chained: boolean;
}
interface RandomWrite {
  readonly steps: readonly Step[];
  readonly fails: boolean;
}
/** What happens at a time: writes that are asked for together, then perhaps a compaction or a restart. */
interface Round {
  readonly writes: readonly RandomWrite[];
  readonly compactShare: number | undefined;
  readonly restart: boolean;
}

const step: fc.Arbitrary<Step> = fc.record({
  op: fc.constantFrom('put', 'put', 'put', 'remove'),
  object: fc.nat(11),
  node: fc.nat(2),
  chained: fc.boolean(),
});
const randomWrite: fc.Arbitrary<RandomWrite> = fc.record({
  steps: fc.array(step, { minLength: 1, maxLength: 3 }),
  fails: fc.nat(4).map((n) => n === 0),
});
const round: fc.Arbitrary<Round> = fc.record({
  writes: fc.array(randomWrite, { maxLength: 12 }),
  compactShare: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: undefined, freq: 4 }),
  restart: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
});

const uidOf = (s: Step): string => `uid-${s.object}`;
const chainOf = (s: Step): string => (s.chained && s.node > 0 ? `node-${s.node}` : '');
const objectOf = (s: Step): StoredObject =>
  makeObject({
    uid: uidOf(s),
    name: `name-${s.object % 3}`,
    bayUid: `bay-${Math.floor(s.object / 3) % 2}`,
    assigneeUid: s.node > 0 ? `node-${s.node}` : '',
    createTimeMs: 1000 + s.object,
  });
const refused = new PreconditionError('refused');

const toWrite = ({ steps, fails }: RandomWrite): Write<void> => ({
  reads: steps.flatMap((s) => [{ uid: uidOf(s) }, nameKey(objectOf(s).name, objectOf(s))]),
  apply: (view: WriteView) => {
    for (const s of steps) {
      if (s.op === 'put') view.put((revision) => ({ ...objectOf(s), revision }), chainOf(s));
      else view.remove(uidOf(s), chainOf(s));
    }
    if (fails) throw refused;
  },
});

/** What a store should hold, the simple way. */
class Model {
  objects = new Map<string, StoredObject>();
  changes: Change[] = [];
  oldest = 1;

  get revision(): number {
    return this.changes.length;
  }

  /** Applies a write, and says how it should end. */
  apply({
    steps,
    fails,
  }: RandomWrite): 'done' | typeof AlreadyExistsError | typeof NotFoundError | typeof PreconditionError {
    const objects = new Map(this.objects);
    const changes = [...this.changes];
    for (const s of steps) {
      const revision = changes.length + 1;
      const chain = chainOf(s);
      const chainPrevious = chain === '' ? 0 : (changes.findLast((c) => c.chain === chain)?.revision ?? 0);
      const before = objects.get(uidOf(s));
      const rest = { revision, chain, chainPrevious, timeMs: 0, previousRevision: before?.revision ?? 0 };
      if (s.op === 'put') {
        const object = { ...objectOf(s), revision };
        const sameName = (o: StoredObject): boolean => o.name === object.name && o.bayUid === object.bayUid;
        if ([...objects.values()].some((o) => o.uid !== object.uid && sameName(o))) return AlreadyExistsError;
        objects.set(object.uid, object);
        changes.push({ ...rest, op: 'put', object });
      } else {
        if (!before) return NotFoundError;
        objects.delete(before.uid);
        changes.push({ ...rest, op: 'remove', object: before });
      }
    }
    if (fails) return PreconditionError;
    this.objects = objects;
    this.changes = changes;
    return 'done';
  }

  /** The objects as they were at a revision. */
  at(revision: number): Map<string, StoredObject> {
    const objects = new Map<string, StoredObject>();
    for (const { op, object } of this.changes.slice(0, revision)) {
      if (op === 'put') objects.set(object.uid, object);
      else objects.delete(object.uid);
    }
    return objects;
  }
}

const essence = (o: StoredObject): string => `${o.uid} ${o.bayUid} ${o.name} ${o.assigneeUid} @${o.revision}`;
const state = (objects: Iterable<StoredObject>): string[] => [...objects].map(essence).sort();
const line = (c: Change): string =>
  `${c.revision} ${c.op} ${essence(c.object)} ${c.chain} ${c.chainPrevious} ${c.previousRevision}`;

const equal = (actual: unknown, expected: unknown, what: string): void => {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what}: ${a} in place of ${b}`);
};

/** Compares everything that can be read with the model. */
const compare = async (store: Store, model: Model): Promise<void> => {
  equal(store.revision, model.revision, 'revision');
  const { objects, revision } = await store.list({
    kind: 'Container',
    orderBy: 'name',
    descending: false,
    limit: 1000,
  });
  equal([revision, state(objects)], [model.revision, state(model.objects.values())], 'list');
  for (const bayUid of ['bay-0', 'bay-1']) {
    const inBay = [...model.objects.values()].filter((o) => o.bayUid === bayUid);
    equal(await store.countInBay(bayUid), inBay.length, 'count');
    for (const o of inBay) equal(essence((await store.get(nameKey(o.name, o))) ?? o), essence(o), 'get by name');
  }
  const since = model.oldest - 1;
  const changes = await store.changesSince(since, 1000);
  equal(changes.map(line), model.changes.slice(since).map(line), 'changes');
  if (since > 0) {
    const error = await store.changesSince(since - 1, 1).catch((e: unknown) => e);
    equal(error instanceof CompactedError && error.oldestRevision, since, 'compacted');
  }
  for (const node of ['node-1', 'node-2']) {
    const links = model.changes.filter((c) => c.chain === node);
    const head = links.at(-1)?.revision ?? 0;
    const assigned = await store.assigned(node);
    const expected = [...model.objects.values()].filter((o) => o.assigneeUid === node);
    equal([assigned.head, state(assigned.objects)], [head, state(expected)], 'assigned');
    for (const revision of [0, since, Math.floor((since + model.revision) / 2), model.revision]) {
      const after = links.filter((c) => c.revision > revision);
      const delta = await store.chainSince(node, revision, 1000);
      const newest = after.filter((c) => !after.some((d) => d.object.uid === c.object.uid && d.revision > c.revision));
      const kept = after.every((c) => c.revision >= model.oldest);
      equal(delta && [delta.head, delta.changes.map(line)], kept ? [head, newest.map(line)] : undefined, 'chain');
    }
  }
};

const runRound = async (store: Store, model: Model, { writes }: Round): Promise<void> => {
  const results = await Promise.allSettled(writes.map((write) => store.write(toWrite(write))));
  for (const [i, result] of results.entries()) {
    const write = writes[i];
    const expected = write && model.apply(write);
    const actual = result.status === 'fulfilled' ? 'done' : (result.reason as Error).constructor;
    if (actual !== expected) throw new Error(`write ${i} ended with ${String(actual)} in place of ${String(expected)}`);
  }
};

interface RandomWatch {
  readonly startRound: number;
  readonly bay: number | undefined;
  readonly pageSize: number;
  readonly resume: boolean;
}

/** Follows a watch until it has reached a revision, to hold all that it said against what it should be. */
class Follower {
  readonly #watch: RandomWatch;
  readonly #since: number | undefined;
  readonly #changes: Change[] = [];
  readonly #objects = new Map<string, StoredObject>();
  #synced = -1;
  #stateWhenSynced: string[] = [];
  #reached = -1;
  readonly #finished: Promise<void>;
  readonly #controller = new AbortController();

  constructor(store: Store, watch: RandomWatch) {
    this.#watch = watch;
    this.#since = watch.resume ? Math.floor(store.revision / 2) : undefined;
    this.#finished = this.#follow(store);
  }

  get #bayUid(): string | undefined {
    return this.#watch.bay === undefined ? undefined : `bay-${this.#watch.bay}`;
  }

  async #follow(store: Store): Promise<void> {
    const items = openWatch({
      store,
      kind: 'Container',
      bayUid: this.#bayUid,
      pageSize: this.#watch.pageSize,
      sinceRevision: this.#since,
      signal: this.#controller.signal,
      bookmarkMs: 1,
    });
    for await (const item of items) {
      if (item.type === 'snapshot') {
        if (this.#objects.has(item.object.uid)) throw new Error(`${item.object.uid} came twice`);
        this.#objects.set(item.object.uid, item.object);
      } else if (item.type === 'change') {
        const { op, object, revision } = item.change;
        const last = this.#changes.at(-1)?.revision ?? 0;
        if (revision <= last) throw new Error(`change ${revision} came after ${last}`);
        const held = this.#objects.get(object.uid);
        if (held && held.revision >= revision) throw new Error(`change ${revision} is older than ${essence(held)}`);
        if (op === 'remove' && !held && this.#since === undefined) throw new Error(`${object.uid} was not there`);
        this.#changes.push(item.change);
        if (op === 'put') this.#objects.set(object.uid, object);
        else this.#objects.delete(object.uid);
        if (this.#synced >= 0) this.#reached = revision;
      } else {
        this.#reached = item.revision;
        if (item.type === 'synced') {
          this.#synced = item.revision;
          this.#stateWhenSynced = state(this.#objects.values());
        }
      }
    }
  }

  async verify(model: Model): Promise<void> {
    while (this.#reached < model.revision) {
      await Promise.race([this.#finished, new Promise((resolve) => setTimeout(resolve, 1))]);
    }
    this.#controller.abort();
    await this.#finished;
    const ours = (o: StoredObject): boolean => this.#bayUid === undefined || o.bayUid === this.#bayUid;
    const from = this.#since ?? this.#synced;
    const expected = model.changes.filter((c) => ours(c.object) && c.revision > from);
    equal(this.#changes.filter((c) => c.revision > from).map(line), expected.map(line), 'watched changes');
    if (this.#since === undefined) {
      equal(this.#stateWhenSynced, state([...model.at(this.#synced).values()].filter(ours)), 'state when in step');
    }
  }
}

/** Random writes against a model. */
export const propertyContract = (test: TestFn, open: () => Promise<StoreBed>): void => {
  test('after any writes, failures, compactions and restarts the store holds what a simple model holds', async (t) => {
    await fc.assert(
      fc.asyncProperty(fc.array(round, { minLength: 1, maxLength: 8 }), async (rounds) => {
        const bed = await open();
        try {
          let { store } = bed;
          const model = new Model();
          for (const r of rounds) {
            await runRound(store, model, r);
            if (r.compactShare !== undefined) {
              const revision = Math.ceil(r.compactShare * model.revision);
              await store.compact(revision, 0);
              model.oldest = Math.max(model.oldest, revision);
            }
            if (r.restart) store = await bed.reopen();
            await compare(store, model);
          }
        } finally {
          await bed.dispose();
        }
      }),
      { numRuns: 40 },
    );
    t.pass();
  });

  test('whatever is written meanwhile, a watch is a snapshot and exactly the changes after it', async (t) => {
    const watch = fc.record({
      startRound: fc.nat(5),
      bay: fc.option(fc.nat(1), { nil: undefined }),
      pageSize: fc.integer({ min: 1, max: 4 }),
      resume: fc.boolean(),
    });
    const rounds = fc.array(round, { minLength: 3, maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(
        rounds,
        fc.array(watch, { minLength: 1, maxLength: 4 }),
        fc.boolean(),
        async (all, watches, late) => {
          const bed = await open();
          try {
            const model = new Model();
            const followers: Follower[] = [];
            const watched = late ? lateStore(bed.store, 3) : bed.store;
            for (const [i, r] of all.entries()) {
              for (const w of watches) if (w.startRound === i) followers.push(new Follower(watched, w));
              await runRound(bed.store, model, r);
            }
            await Promise.all(followers.map((follower) => follower.verify(model)));
          } finally {
            await bed.dispose();
          }
        },
      ),
      { numRuns: 60 },
    );
    t.pass();
  });
};
