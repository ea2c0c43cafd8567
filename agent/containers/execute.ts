import { type Driver, DriverError, type EngineContainer } from '../drivers/driver.ts';
import { label, type Owner, ownedUid } from './engine_labels.ts';
import type { Memory } from './memory.ts';
import { created, type Step, type StepKind, type Target } from './step.ts';

/** What steps are done with. */
export interface ExecuteContext {
  readonly driver: Driver;
  readonly memory: Memory;
  readonly owner: Owner;
  /** Aborted when what a step does has no point any more: calls off a pull. */
  readonly signal: AbortSignal;
  /** Runs what only waits (a pull, a stop) without taking up one of the few places for work. */
  readonly aside: <T>(wait: () => Promise<T>) => Promise<T>;
  /** Says what is going on, before it goes on. */
  readonly doing: (what: 'pulling' | 'creating') => void;
}

/** Passed from one step of an object to the next. */
interface Progress {
  createdId: string | undefined;
}

type Executors = {
  readonly [K in StepKind]: (
    step: Extract<Step, { kind: K }>,
    context: ExecuteContext,
    progress: Progress,
  ) => Promise<void>;
};

const executors: Executors = {
  async pull({ image, policy }, { driver, signal, aside, doing }) {
    if (policy !== 'always') {
      if (await driver.hasImage(image)) return;
      if (policy === 'never') {
        throw new DriverError(
          'image-not-found',
          `the image ${image} is not on the node, and pull_policy is NEVER: put it there, or set another pull_policy`,
        );
      }
    }
    doing('pulling');
    await aside(() => driver.pull(image, signal));
  },
  async create({ uid, name, spec, labels }, { driver, memory, doing, owner }, progress) {
    doing('creating');
    try {
      progress.createdId = await driver.create({ name, spec, labels });
    } catch (error) {
      if (error instanceof DriverError && error.kind === 'name-taken')
        throw await nameTaken(driver, owner, name, error);
      throw error;
    }
    // A fresh container counts as having done them; its label says so too, should this not reach the disk.
    memory.set(uid, { reboots: spec.reboots, rebooting: undefined, ended: undefined, restarts: undefined });
  },
  update: ({ id, change }, { driver }) => driver.update(id, change),
  async rename({ id, name }, { driver, owner }, progress) {
    try {
      await driver.rename(resolve(id, progress), name);
    } catch (error) {
      if (error instanceof DriverError && error.kind === 'name-taken')
        throw await nameTaken(driver, owner, name, error);
      throw error;
    }
  },
  async start({ uid, id }, { driver, memory }, progress) {
    const target = resolve(id, progress);
    // The engine counts restarts anew from here: what it counted so far is kept.
    const before = id === created ? undefined : await driver.inspect(target);
    await driver.start(target);
    if (before?.startedMs === undefined) return;
    const { restarts, ended } = memory.get(uid);
    const earlier = restarts?.containerId === target ? restarts.count : 0;
    memory.set(uid, {
      restarts: { containerId: target, count: earlier + before.restartCount + 1 },
      // Its exit code is still of use; that it had finished is not so any more.
      ended: ended && { ...ended, by: 'somebody' },
    });
  },
  stop: ({ id, timeoutSeconds }, { driver, aside }) => aside(() => driver.stop(id, timeoutSeconds)),
  pause: ({ id }, { driver }, progress) => driver.pause(resolve(id, progress)),
  unpause: ({ id }, { driver }) => driver.unpause(id),
  remove: ({ id }, { driver, aside }) => aside(() => driver.remove(id)),
  async 'begin-reboot'({ uid, reboots, startedMs }, { memory }) {
    memory.set(uid, { rebooting: { reboots, startedMs } });
    // Were this lost in a crash, the container might be rebooted twice.
    await memory.flush();
  },
  async 'end-reboot'({ uid, reboots }, { memory }) {
    memory.set(uid, { reboots, rebooting: undefined });
    await memory.flush();
  },
  async 'forget-end'({ uid }, { memory }) {
    const { ended } = memory.get(uid);
    if (ended) memory.set(uid, { ended: { ...ended, by: 'somebody' } });
  },
};

function resolve(target: Target, { createdId }: Progress): string {
  if (target !== created) return target;
  if (createdId === undefined) throw new TypeError('a step refers to a container that no step before it made');
  return createdId;
}

/**
 * Runs the steps of one object in their order. Rejects with the DriverError of the first that fails; those after it are not run.
 *
 * @param goOn Asked before each step. False: what is wanted has changed, plan anew.
 */
export async function execute(steps: readonly Step[], context: ExecuteContext, goOn: () => boolean): Promise<void> {
  const progress: Progress = { createdId: undefined };
  for (const step of steps) {
    if (!goOn()) return;
    await executeStep(step, context, progress);
  }
}

function executeStep<K extends StepKind>(
  step: Extract<Step, { kind: K }>,
  context: ExecuteContext,
  progress: Progress,
): Promise<void> {
  const run: Executors[K] = executors[step.kind as K];
  return run(step, context, progress);
}

async function nameTaken(driver: Driver, owner: Owner, name: string, cause: DriverError): Promise<DriverError> {
  const occupant = await driver.inspect(name);
  return new DriverError('name-taken', occupant ? whoseName(owner, occupant) : cause.message, { cause });
}

/** For people: whose container has the name, and what to do about it. */
export function whoseName(owner: Owner, occupant: EngineContainer): string {
  const { labels, name, id } = occupant;
  const container = `the container ${name} (${id.slice(0, 12)})`;
  const remedy = 'it is left alone: rename or remove it, or give this object another name';
  if (ownedUid(owner, occupant) !== undefined) {
    return `the name is held by ${container} of the object with uid ${labels[label.uid]}, until that is removed`;
  }
  if (labels[label.uid]) {
    const whose = `node ${labels[label.node] || '(none)'} of bay ${labels[label.bay] || '(none)'}`;
    return `the name is held by ${container}, which belongs to another agent on this engine (${whose}); ${remedy}`;
  }
  return `the name is held by ${container}, which was not made by Baykeeper; ${remedy}`;
}
