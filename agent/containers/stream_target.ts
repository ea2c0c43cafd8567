import type { Problem } from '../delivery.ts';
import type { Driver, EngineContainer } from '../drivers/driver.ts';
import { type Desired, StreamError } from '../ports.ts';
import type { Owner } from './engine_labels.ts';
import { notRunning } from './engine_streams.ts';
import { mainOf, observe } from './observe.ts';
import { wantedOf } from './wanted.ts';

/** What is known of an object into which a stream is to be opened. */
export interface StreamContext {
  readonly driver: Driver;
  readonly desired: Pick<Desired, 'current'>;
  readonly owner: Owner;
  /** Why the engine cannot be used; undefined: it can. */
  readonly away: string | undefined;
  /** Why the object is not as asked. */
  readonly problem: Problem | undefined;
}

/** The container of an object as it is now. Rejects with StreamError. */
export async function containerOf(context: StreamContext, uid: string): Promise<EngineContainer> {
  const { driver, desired, owner, away, problem } = context;
  const wanted = wantedOf(desired.current, uid);
  if (!desired.current.objects.has(uid)) throw new StreamError('not-found', 'this node has no such object');
  if (away !== undefined) throw new StreamError('engine-unavailable', away);
  try {
    const container = mainOf(wanted, await observe(driver, owner, wanted));
    if (container) return container;
  } catch (cause) {
    throw new StreamError('engine-unavailable', cause instanceof Error ? cause.message : String(cause), { cause });
  }
  throw new StreamError(
    'not-running',
    problem ? `it has no container: ${problem.message}` : notRunning({ name: uid, state: 'created' }),
  );
}
