import { readdir, readFile, rename, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { SetDigest } from '../../proto/digest.ts';
import { AssignmentOp, type ObjectReport, ObjectReportSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { Backoff } from '../backoff.ts';
import type { Clock } from '../clock.ts';
import { syncFolder, writeDurably } from '../durable_file.ts';
import type { Log } from '../log.ts';
import type { Desired, DesiredObject, DesiredState } from '../ports.ts';
import { type ChainState, digestMember, type Entry, emptyChain, isSupported, type Taken } from './chain.ts';
import { type KeptMessage, MessageLog } from './message_log.ts';
import { decodeState, encodeState, type LoggedState, type StateOwner } from './state_file.ts';
import type { Verifier } from './verifier.ts';

export interface StateOptions extends StateOwner {
  readonly path: string;
  /** Verifies what is on disk. */
  readonly verifier: Pick<Verifier, 'openStored' | 'isAgeing' | 'keep'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly random?: () => number;
}

/** The messages of a change: a Delta, or all the chunks of a Snapshot. */
export type Messages = { readonly delta: KeptMessage } | { readonly snapshot: readonly KeptMessage[] };

/** How many damaged files are kept for whoever wants to look into it. */
const brokenKept = 3;

/**
 * The desired state, on disk and in memory. Messages change the newest state (`head`); it becomes `current`, which others act on, only
 * once it is on disk. Changes that come while a write is under way share the next one.
 */
export class DesiredStore implements Desired {
  readonly #options: StateOptions;
  readonly #backoff: Backoff;
  readonly #listeners = new Set<(changedUids: readonly string[]) => void>();
  #head: ChainState;
  /** The messages that the head follows from. */
  #log: MessageLog;
  #durable: ChainState;
  #current: DesiredState;
  #digest: SetDigest;
  #changed = new Set<string>();
  #writing: Promise<void> | undefined;
  #problem = '';
  #refusal: string;
  #closed = false;
  #endWait: (() => void) | undefined;
  /** Counts the changes that were taken, and those of them that are on disk. */
  #taken = 0;
  #kept = 0;
  #waiters: { taken: number; resolve: () => void }[] = [];
  /** Called after the next write, whether it worked or not. */
  #tries: (() => void)[] = [];

  /**
   * Opens the file, or begins anew: a file that is damaged, another node's, or not what the control plane has signed, is set aside, and
   * nothing is known then.
   */
  static async open(options: StateOptions): Promise<DesiredStore> {
    return new DesiredStore(options, await load(options));
  }

  private constructor(options: StateOptions, { state, log, refusal }: Loaded) {
    this.#options = options;
    this.#log = log;
    this.#refusal = refusal;
    this.#backoff = new Backoff({ baseMs: 500, minMs: 100, maxMs: 15_000, random: options.random });
    this.#head = state;
    this.#durable = state;
    this.#current = view(state);
    this.#digest = digestOf(state);
  }

  get current(): DesiredState {
    return this.#current;
  }

  /** The revision that is on disk. */
  get revision(): bigint {
    return this.#durable.revision;
  }

  /** Set digest of what is on disk. 32 bytes. */
  get digest(): Uint8Array {
    return this.#digest.bytes();
  }

  /** The newest revision that was taken, on disk or not. */
  get headRevision(): bigint {
    return this.#head.revision;
  }

  /** Whether the newest state that was taken, on disk or not, is known to be all. */
  get headComplete(): boolean {
    return this.#head.complete;
  }

  /** Why the newest state cannot be kept, for people; empty when all is well. */
  get problem(): string {
    return this.#problem;
  }

  /** Why the file was not believed when it was opened, for people; empty when it was, and once there is a complete state again. */
  get refusal(): string {
    return this.#durable.complete ? '' : this.#refusal;
  }

  /** Whether a Snapshot is due: the messages have become many, or a signature among them is by a key that will be gone. */
  get isWorn(): boolean {
    return this.#log.isWorn(this.#head.entries.size, this.#options.verifier);
  }

  subscribe(listener: (changedUids: readonly string[]) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Changes the newest state by one of chain.ts's rules, because of these messages. `current` follows when it is on disk. */
  take(messages: Messages, rule: (head: ChainState) => Taken): Taken {
    const taken = rule(this.#head);
    if (taken.outcome !== 'applied' || this.#closed) return taken;
    this.#log = 'delta' in messages ? this.#log.with(messages.delta) : MessageLog.ofSnapshot(messages.snapshot);
    this.#advance(taken.state, taken.changed);
    return taken;
  }

  async buried(uid: string): Promise<void> {
    if (!this.#head.graves.has(uid)) return;
    const graves = new Set(this.#head.graves);
    graves.delete(uid);
    this.#advance({ ...this.#head, graves }, [uid]);
    await this.#whenKept();
  }

  /** What of the set this agent does not know how to make, as reports that say so. */
  unsupported(): ObjectReport[] {
    const reports: ObjectReport[] = [];
    for (const entry of this.#durable.entries.values()) {
      if (!isSupported(entry.assignment)) reports.push(unsupportedReport(entry));
    }
    return reports;
  }

  /** Resolves when everything that was taken is on disk, or cannot be written now. */
  async settled(): Promise<void> {
    while (this.#writing && !this.#problem) {
      const tried = new Promise<void>((resolve) => this.#tries.push(resolve));
      await Promise.race([this.#writing, tried]);
    }
  }

  /** Writes what is left to be written, unless that fails, and takes no more. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#endWait?.();
    await this.#writing;
  }

  #advance(state: ChainState, changed: readonly string[]): void {
    if (this.#closed) return;
    this.#head = state;
    this.#taken += 1;
    for (const uid of changed) this.#changed.add(uid);
    this.#writing ??= this.#write().finally(() => {
      this.#writing = undefined;
    });
  }

  async #write(): Promise<void> {
    const { log, path, clock } = this.#options;
    // What arrives in one go is written in one go.
    await Promise.resolve();
    while (this.#head !== this.#durable) {
      const state = this.#head;
      const messages = this.#log;
      const taken = this.#taken;
      const changed = [...this.#changed];
      this.#changed.clear();
      try {
        await writeDurably(path, encodeState(this.#options, { state, log: messages }), 0o600);
      } catch (error) {
        for (const uid of changed) this.#changed.add(uid);
        this.#problem = `cannot write ${path}: ${(error as Error).message}`;
        this.#tried();
        const waitMs = this.#backoff.nextMs();
        log.error(
          { error: (error as Error).message, path, waitMs },
          'the desired state cannot be kept: going on with the old one',
        );
        if (this.#closed) return;
        await this.#pause(waitMs, clock);
        continue;
      }
      if (this.#problem) log.info({ path }, 'the desired state can be kept again');
      this.#problem = '';
      this.#backoff.reset();
      this.#options.verifier.keep(messages.keyIds());
      this.#publish(state, changed, taken);
      this.#tried();
    }
  }

  #publish(state: ChainState, changed: readonly string[], taken: number): void {
    const now = this.#options.clock.now();
    for (const uid of changed) {
      const before = this.#durable.entries.get(uid);
      const after = state.entries.get(uid);
      if (after && after !== before) after.receiveTimeMs = now;
      if (before) this.#digest.remove(digestMember(before.assignment));
      if (after) this.#digest.add(digestMember(after.assignment));
    }
    this.#durable = state;
    this.#current = view(state);
    this.#kept = taken;
    for (const waiter of this.#waiters) if (waiter.taken <= taken) waiter.resolve();
    this.#waiters = this.#waiters.filter((waiter) => waiter.taken > taken);
    for (const listener of this.#listeners) {
      try {
        listener(changed);
      } catch (error) {
        this.#options.log.error({ error }, 'a listener to the desired state failed');
      }
    }
  }

  #tried(): void {
    for (const resolve of this.#tries.splice(0)) resolve();
  }

  #whenKept(): Promise<void> {
    const taken = this.#taken;
    if (this.#kept >= taken) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push({ taken, resolve }));
  }

  async #pause(ms: number, clock: Clock): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const cancel = clock.after(ms, resolve);
    this.#endWait = resolve;
    await promise;
    cancel();
    this.#endWait = undefined;
  }
}

function view(state: ChainState): DesiredState {
  const objects = new Map<string, DesiredObject>();
  for (const [uid, entry] of state.entries) if (isSupported(entry.assignment)) objects.set(uid, entry);
  return { complete: state.complete, objects, graves: state.graves };
}

const digestOf = (state: ChainState): SetDigest =>
  SetDigest.of([...state.entries.values()].map(({ assignment }) => digestMember(assignment)));

function unsupportedReport({ assignment }: Entry): ObjectReport {
  const { uid, op, kind } = assignment;
  // It was never made here, so nothing is left of it.
  if (op === AssignmentOp.DELETE) return create(ObjectReportSchema, { uid, removed: true });
  return create(ObjectReportSchema, {
    uid,
    status: {
      case: 'container',
      value: {
        phase: ContainerPhase.FAILED,
        reason: 'UnsupportedKind',
        message: `the agent on this node does not know what to do with ${Kind[kind] ?? `kind ${kind}`}: a newer agent may`,
        delivery: { receivedGeneration: assignment.generation, observedGeneration: assignment.generation },
      },
    },
  });
}

interface Loaded extends LoggedState {
  /** Why the file is not believed; empty: it is. */
  readonly refusal: string;
}
const nothing: Loaded = { state: emptyChain, log: MessageLog.empty, refusal: '' };

async function load(options: StateOptions): Promise<Loaded> {
  const { path, log, clock, verifier } = options;
  let file: Buffer;
  try {
    file = await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return nothing;
    throw error;
  }
  try {
    return { ...decodeState(options, file, verifier), refusal: '' };
  } catch (error) {
    const aside = `${path}.broken-${clock.now()}`;
    const { message } = error as Error;
    log.error({ reason: message, path, aside }, 'the desired state on disk is not usable, and is set aside');
    await rename(path, aside);
    await syncFolder(dirname(path));
    await dropOldBroken(path);
    return { ...nothing, refusal: `the desired state on disk is not used, and lies in ${aside}: ${message}` };
  }
}

async function dropOldBroken(path: string): Promise<void> {
  const prefix = `${basename(path)}.broken-`;
  const broken = (await readdir(dirname(path))).filter((name) => name.startsWith(prefix)).sort();
  for (const name of broken.slice(0, -brokenKept)) await unlink(join(dirname(path), name));
}
