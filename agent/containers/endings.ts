import type { EngineEvent } from '../drivers/driver.ts';
import { engineName, label } from './engine_labels.ts';
import type { Ending, Memory } from './memory.ts';

/**
 * Tells from the engine's events whether a run ended by itself, or because somebody stopped, killed or removed the container. Engines do
 * not say so in the container's state; and with restart policies that let a container end, the one is final and the other is mended.
 */
export class Endings {
  readonly #memory: Memory;
  /** When each container was last sent a signal, by id. */
  readonly #signals = new Map<string, number>();
  /** When each container last ran out of memory, by id: that may have killed one process of it, and not the container. */
  readonly #oom = new Map<string, number>();

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** Takes in an event about a container of ours. The same one may come again. */
  observe(uid: string, event: EngineEvent): void {
    const { action, id, timeMs } = event;
    switch (action) {
      case 'kill':
        bounded(this.#signals);
        this.#signals.set(id, timeMs);
        break;
      case 'oom': {
        bounded(this.#oom);
        this.#oom.set(id, timeMs);
        // The engine hears of it by another way than of the end, and may hear of the end first.
        const { ended } = this.#memory.get(uid);
        if (ended?.containerId === id && !ended.oomKilled && ofMemory(ended, timeMs)) {
          this.#memory.set(uid, { ended: { ...ended, oomKilled: true } });
        }
        break;
      }
      case 'die': {
        const signalMs = this.#signals.get(id);
        const signalled = signalMs !== undefined && timeMs - signalMs < signalWindowMs;
        this.#died(uid, event, signalled ? 'somebody' : 'itself');
        this.#signals.delete(id);
        this.#oom.delete(id);
        break;
      }
      case 'stop': {
        // Follows on `die`, however long the container took to hear the signal.
        const { ended } = this.#memory.get(uid);
        if (ended?.containerId === id && ended.by === 'itself')
          this.#memory.set(uid, { ended: { ...ended, by: 'somebody' } });
        break;
      }
      case 'destroy':
        this.#signals.delete(id);
        this.#oom.delete(id);
        break;
      default:
        break;
    }
  }

  #died(uid: string, { id, name, timeMs, labels, exitCode = 0 }: EngineEvent, by: 'itself' | 'somebody'): void {
    // A copy, or what is left of a replacement: its end says nothing of the object's own container.
    if (name !== engineName(labels[label.namespace] ?? '', labels[label.name] ?? '')) return;
    const { ended, reboots } = this.#memory.get(uid);
    // Seen already: what is known of it since stays.
    if (ended?.containerId === id && ended.dieMs >= timeMs) return;
    const text = labels[label.reboots] ?? '';
    const made = /^\d{1,19}$/.test(text) ? BigInt(text) : 0n;
    this.#memory.set(uid, {
      ended: {
        containerId: id,
        dieMs: timeMs,
        by,
        spec: labels[label.spec] ?? '',
        exitCode,
        oomKilled: ofMemory({ exitCode, dieMs: timeMs }, this.#oom.get(id)),
      },
      // Should the container go, its label goes with it.
      ...(made > reboots && { reboots: made }),
    });
  }
}

const oomWindowMs = 10_000;
const killedExitCode = 137;
const ofMemory = ({ exitCode, dieMs }: Pick<Ending, 'exitCode' | 'dieMs'>, oomMs: number | undefined): boolean =>
  exitCode === killedExitCode && oomMs !== undefined && Math.abs(dieMs - oomMs) < oomWindowMs;

/** A process that was sent a signal and ends within this time ended of it. A `stop`, which may wait longer, says so itself. */
const signalWindowMs = 30_000;

/** Signals that nobody dies of (a SIGHUP to a server) are not taken off again: forget the oldest. */
function bounded(entries: Map<string, number>): void {
  if (entries.size < 1000) return;
  for (const key of entries.keys()) {
    entries.delete(key);
    break;
  }
}
