import { readFile, rename } from 'node:fs/promises';
import type { Clock } from '../clock.ts';
import { writeDurably } from '../durable_file.ts';
import type { Log } from '../log.ts';

/**
 * What the engine half must know after a restart, and the engine does not tell: which reboots were done, how runs ended, and up to where
 * its events were read. One small JSON file, replaced as a whole.
 */
export interface ObjectMemory {
  /** The counter of the last reboot that was done. */
  readonly reboots: bigint;
  /** A reboot under way, and the start of the run that it ends: a later run is that reboot, done. */
  readonly rebooting: { readonly reboots: bigint; readonly startedMs: number } | undefined;
  readonly ended: Ending | undefined;
  /** Restarts of a container before its present run; the engine counts from 0 at each start by hand. */
  readonly restarts: { readonly containerId: string; readonly count: number } | undefined;
  /** The newest generation that the engine has taken, and when it had. */
  readonly applied: { readonly generation: bigint; readonly timeMs: number } | undefined;
}

/** How the last run of an object's container ended. */
export interface Ending {
  readonly containerId: string;
  /** A record counts for a run that began before it. */
  readonly dieMs: number;
  /** `somebody`: a signal, stop or removal by way of the engine, ours included. */
  readonly by: 'itself' | 'somebody';
  /** Hash of the spec that it ran. */
  readonly spec: string;
  readonly exitCode: number;
  readonly oomKilled: boolean;
}

export const noMemory: ObjectMemory = {
  reboots: 0n,
  rebooting: undefined,
  ended: undefined,
  restarts: undefined,
  applied: undefined,
};

/** What steps and plans see of the memory. */
export interface Memory {
  get(uid: string): ObjectMemory;
  /** Takes effect at once, and reaches the disk soon. */
  set(uid: string, change: Partial<ObjectMemory>): void;
  forget(uid: string): void;
  /** Resolves when all that was set before is on disk. Rejects when it cannot be. */
  flush(): Promise<void>;
}

/** The time of the newest event of the engine that was taken in. */
export interface EventMemory {
  lastEventMs: number;
}

/** In memory only: for tests, and for an agent without a disk. */
export class VolatileMemory implements Memory, EventMemory {
  lastEventMs = 0;
  protected readonly objects = new Map<string, ObjectMemory>();

  get(uid: string): ObjectMemory {
    return this.objects.get(uid) ?? noMemory;
  }

  set(uid: string, change: Partial<ObjectMemory>): void {
    this.objects.set(uid, { ...this.get(uid), ...change });
  }

  forget(uid: string): void {
    this.objects.delete(uid);
  }

  uids(): string[] {
    return [...this.objects.keys()];
  }

  /** For a change of `lastEventMs` alone, which is worth a write only now and then. */
  touch(): void {}

  async flush(): Promise<void> {}

  /** What was set is on disk, as far as it can be; nothing is written any more. */
  async close(): Promise<void> {}
}

const fileMode = 0o600;
/** A change by itself is not worth a write. */
const writeDelayMs = 1_000;

/** Options of {@link FileMemory}. */
export interface FileMemoryOptions {
  /** In a folder that exists. */
  readonly path: string;
  readonly clock: Pick<Clock, 'after'>;
  readonly log: Log;
}

/** On disk. A file that cannot be understood is put aside, and the memory begins empty: nothing depends on it but finer points. */
export class FileMemory extends VolatileMemory {
  readonly #options: FileMemoryOptions;
  #changed = false;
  #writing: Promise<void> | undefined;
  #cancelWrite: (() => void) | undefined;
  #closed = false;

  private constructor(options: FileMemoryOptions) {
    super();
    this.#options = options;
  }

  /** Rejects when the file is there and cannot be read. */
  static async open(options: FileMemoryOptions): Promise<FileMemory> {
    const { path, log } = options;
    const memory = new FileMemory(options);
    let text: string;
    try {
      text = await readFile(path, 'utf8');
    } catch (error) {
      if (error instanceof Error && Reflect.get(error, 'code') === 'ENOENT') return memory;
      throw error;
    }
    try {
      const { lastEventMs, objects } = parseMemory(text);
      memory.lastEventMs = lastEventMs;
      for (const [uid, object] of objects) memory.objects.set(uid, object);
    } catch (error) {
      const aside = `${path}.broken`;
      log.warn({ path, aside, error }, "the engine's memory file is damaged; it is put aside, and a new one begun");
      await rename(path, aside);
    }
    return memory;
  }

  override set(uid: string, change: Partial<ObjectMemory>): void {
    super.set(uid, change);
    this.touch();
  }

  override forget(uid: string): void {
    if (!this.objects.has(uid)) return;
    super.forget(uid);
    this.touch();
  }

  override touch(): void {
    this.#changed = true;
    if (this.#closed) return;
    this.#cancelWrite ??= this.#options.clock.after(writeDelayMs, () => {
      this.#cancelWrite = undefined;
      void this.#tryFlush();
    });
  }

  override async close(): Promise<void> {
    this.#closed = true;
    this.#cancelWrite?.();
    await this.#tryFlush();
  }

  async #tryFlush(): Promise<void> {
    try {
      await this.flush();
    } catch (error) {
      const said = { error: error instanceof Error ? error.message : String(error) };
      this.#options.log.warn(said, 'the memory file cannot be written; tried again at the next change');
    }
  }

  override async flush(): Promise<void> {
    while (this.#writing || this.#changed) {
      this.#writing ??= this.#write().finally(() => {
        this.#writing = undefined;
      });
      await this.#writing;
    }
  }

  async #write(): Promise<void> {
    this.#changed = false;
    try {
      await writeDurably(this.#options.path, [Buffer.from(formatMemory(this.lastEventMs, this.objects))], fileMode);
    } catch (error) {
      this.#changed = true;
      throw error;
    }
  }
}

const version = 1;

function formatMemory(lastEventMs: number, objects: ReadonlyMap<string, ObjectMemory>): string {
  return JSON.stringify({ version, lastEventMs, objects: Object.fromEntries(objects) }, (_key, value: unknown) =>
    typeof value === 'bigint' ? String(value) : value,
  );
}

/** Throws on anything that `formatMemory` did not write. */
function parseMemory(text: string): { lastEventMs: number; objects: Map<string, ObjectMemory> } {
  const root = record(JSON.parse(text));
  if (root.version !== version) throw new TypeError(`version ${String(root.version)} is not known`);
  const objects = new Map<string, ObjectMemory>();
  for (const [uid, value] of Object.entries(record(root.objects))) {
    const { reboots, rebooting, ended, restarts, applied } = record(value);
    objects.set(uid, {
      reboots: integer(reboots),
      rebooting: optional(rebooting, (r) => ({ reboots: integer(r.reboots), startedMs: number(r.startedMs) })),
      ended: optional(ended, (e) => ({
        containerId: string(e.containerId),
        dieMs: number(e.dieMs),
        by: e.by === 'itself' ? 'itself' : 'somebody',
        spec: string(e.spec),
        exitCode: number(e.exitCode),
        oomKilled: e.oomKilled === true,
      })),
      restarts: optional(restarts, (r) => ({ containerId: string(r.containerId), count: number(r.count) })),
      applied: optional(applied, (a) => ({ generation: integer(a.generation), timeMs: number(a.timeMs) })),
    });
  }
  return { lastEventMs: number(root.lastEventMs), objects };
}

function record(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new TypeError('an object was expected');
  return value as Record<string, unknown>;
}

function optional<T>(value: unknown, parse: (value: Record<string, unknown>) => T): T | undefined {
  return value === undefined || value === null ? undefined : parse(record(value));
}

function number(value: unknown): number {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw new TypeError('a number was expected');
  return value;
}

function string(value: unknown): string {
  if (typeof value !== 'string') throw new TypeError('a string was expected');
  return value;
}

function integer(value: unknown): bigint {
  if (typeof value !== 'string' || !/^-?\d{1,19}$/.test(value)) throw new TypeError('an integer was expected');
  return BigInt(value);
}
