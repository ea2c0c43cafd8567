import type { AssignedKind } from './kinds.ts';
import type { AssignedStatus } from './object.ts';
import { phasesOf } from './present.ts';

/** What an agent has done about a generation of an object, as far as its status says. */
export type Effect = 'waiting' | 'applied' | 'failed';

/** A status that is about another generation says nothing of this one. */
export function effectOn(kind: AssignedKind, status: AssignedStatus | undefined, generation: bigint): Effect {
  const { delivery, reason = '', phase = 0 } = status ?? {};
  if ((delivery?.appliedGeneration ?? 0n) >= generation) return 'applied';
  const isSeen = (delivery?.observedGeneration ?? 0n) >= generation;
  return isSeen && (reason !== '' || phase === phasesOf(kind).failed) ? 'failed' : 'waiting';
}
