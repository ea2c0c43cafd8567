import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  type Assign,
  AssignSchema,
  type Error as BusError,
  type Delta,
  ErrorReason,
  type Snapshot,
  type SnapshotChunk,
  SyncReplySchema,
  SyncRequestSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { type NodeAddress, upSubject } from '../../proto/subjects.ts';
import { Backoff } from '../backoff.ts';
import type { Clock } from '../clock.ts';
import type { Log } from '../log.ts';
import { takeDelta, takeSnapshot } from './chain.ts';
import type { Link } from './link.ts';
import type { KeptMessage } from './message_log.ts';
import { type AssemblyLimits, assemblyLimits, SnapshotAssembly } from './snapshot_assembly.ts';
import type { DesiredStore } from './state.ts';
import { drawNonce, type Verifier } from './verifier.ts';

export interface DeliveryOptions {
  readonly address: NodeAddress;
  readonly link: Pick<Link, 'request'>;
  readonly store: Pick<
    DesiredStore,
    'take' | 'settled' | 'revision' | 'headRevision' | 'headComplete' | 'isWorn' | 'digest' | 'problem'
  >;
  readonly verifier: Pick<Verifier, 'open'>;
  /** The control plane says that another session is the node's newest. */
  readonly onOtherSession: () => void;
  /** It was led back to an older revision, so what was signed in this session before may fit once more: it is to end. */
  readonly onLedBack?: () => void;
  /** The control plane speaks in this session. */
  readonly onHeard: () => void;
  /** Gets the digest of the TrustBundle that the control plane has now. */
  readonly onTrust?: (digest: Uint8Array) => void;
  /** Told when the control plane refuses the session: FENCED, REVOKED, DUPLICATE. */
  readonly onRefused: (error: BusError) => void;
  readonly clock: Clock;
  readonly log: Log;
  readonly random?: () => number;
  readonly limits?: AssemblyLimits;
}

/** What is sent in a session says both. */
interface DeliverySession {
  readonly epoch: bigint;
  /** What the agent drew for it. */
  readonly nonce: Uint8Array;
}

/** Where the agent is with bringing itself up to date. There is never more than one SyncRequest under way. */
export type SyncState =
  | { readonly name: 'idle' }
  /** A request is out, or about to be. */
  | { readonly name: 'asking' }
  /** It was answered: `revision` is on its way. `back`: it is older than what we have, which is not believed any more. */
  | { readonly name: 'receiving'; readonly revision: bigint; readonly back: boolean; readonly cancel: () => void }
  /** Until the next try. */
  | { readonly name: 'waiting'; readonly cancel: () => void };

const requestTimeoutMs = 10_000;
/** Between two requests there is at least this. */
const spacingMs = 500;
/** An agent asks this often without a reason: it learns so that its session is over, or that it missed something. */
const roundMs = 60_000;

/**
 * Takes what the control plane assigns: Deltas that fit, and Snapshots that are whole. What does not fit leads to one SyncRequest,
 * however much of it there is.
 */
export class Delivery {
  readonly #options: DeliveryOptions;
  readonly #backoff: Backoff;
  readonly #assembly: SnapshotAssembly;
  #session: DeliverySession | undefined;
  #sync: SyncState = { name: 'idle' };
  #lastAskMs = Number.NEGATIVE_INFINITY;
  /** The newest revision that was heard of. */
  #heardOf = 0n;
  /** A verified Snapshot that is older than what we have: taken if the control plane says that it is meant. */
  #older: { readonly snapshot: Snapshot; readonly messages: readonly KeptMessage[] } | undefined;
  #cancelRound: (() => void) | undefined;

  constructor(options: DeliveryOptions) {
    this.#options = options;
    this.#backoff = new Backoff({ baseMs: 1_000, minMs: 200, maxMs: 60_000, random: options.random });
    this.#assembly = new SnapshotAssembly(options.limits);
  }

  get sync(): SyncState['name'] {
    return this.#sync.name;
  }

  /** A session begins: asks for what is missing. */
  open(epoch: bigint, nonce: Uint8Array): void {
    this.close();
    this.#session = { epoch, nonce };
    this.#backoff.reset();
    this.#lastAskMs = Number.NEGATIVE_INFINITY;
    this.#ask();
    this.#round();
  }

  /** The session is over: nothing more is taken until the next. */
  close(): void {
    this.#session = undefined;
    this.#heardOf = 0n;
    this.#older = undefined;
    this.#assembly.clear();
    this.#cancelRound?.();
    this.#become({ name: 'idle' });
  }

  /** What was refused would be believed by now, perhaps a part of what has been asked for: asks again at once. */
  catchUp(): void {
    this.#become({ name: 'idle' });
    this.#ask();
  }

  /** Takes a message from the `assign` subject, whatever it holds, and whoever it is from. */
  receive(data: Uint8Array): void {
    const { log, verifier } = this.#options;
    if (!this.#session) return;
    const opened = verifier.open('assign', this.#session.nonce, data);
    if (!opened) return;
    let assign: Assign;
    try {
      assign = fromBinary(AssignSchema, opened.payload);
    } catch {
      log.warn({ bytes: data.byteLength }, 'an assignment that cannot be read');
      return;
    }
    if (assign.epoch !== this.#session.epoch) {
      log.debug({ epoch: Number(assign.epoch) }, 'an assignment of another session');
      if (assign.body.case === undefined) this.#options.onOtherSession();
      return;
    }
    this.#options.onHeard();
    if (assign.body.case === 'delta') this.#takeDelta(assign.body.value, opened);
    else if (assign.body.case === 'snapshot') this.#takeChunk(assign.body.value, opened);
    else this.#options.onTrust?.(assign.trustDigest);
  }

  #takeDelta(delta: Delta, kept: KeptMessage): void {
    const { store, clock, log } = this.#options;
    const taken = store.take({ delta: kept }, (head) => takeDelta(head, delta, clock.now()));
    switch (taken.outcome) {
      case 'applied':
        this.#moved();
        return;
      case 'stale':
        return;
      case 'gap':
        if (delta.resultsIn > this.#heardOf) this.#heardOf = delta.resultsIn;
        log.debug({ appliesTo: Number(delta.appliesTo), head: Number(store.headRevision) }, 'a gap before a delta');
        this.#ask();
        return;
      case 'invalid':
        log.warn({ reason: taken.reason }, 'a delta that cannot be is not taken');
        if (this.#sync.name === 'idle') this.#fail('invalid delta');
    }
  }

  #takeChunk(chunk: SnapshotChunk, kept: KeptMessage): void {
    const { clock, log } = this.#options;
    const collected = this.#assembly.add(chunk, clock.now(), kept);
    switch (collected.outcome) {
      case 'more':
        // It is coming: patience begins anew.
        if (this.#sync.name === 'receiving') this.#receive(this.#sync.revision, this.#sync.back);
        return;
      case 'invalid':
        log.warn({ reason: collected.reason }, 'a snapshot that cannot be is not taken');
        if (this.#sync.name !== 'waiting' && this.#sync.name !== 'asking') this.#fail('invalid snapshot');
        return;
      case 'whole':
        this.#consider(collected.snapshot, collected.messages);
        return;
    }
  }

  #consider(snapshot: Snapshot, messages: readonly KeptMessage[]): void {
    const { store, log } = this.#options;
    const meant = this.#sync.name === 'receiving' && this.#sync.back && this.#sync.revision === snapshot.revision;
    if (snapshot.revision >= store.headRevision || meant) {
      if (meant)
        log.warn(
          { from: Number(store.headRevision), to: Number(snapshot.revision) },
          'going back to an older revision',
        );
      this.#adopt(snapshot, messages);
      if (meant) this.#options.onLedBack?.();
      return;
    }
    this.#older = { snapshot, messages };
    // Sent unasked it means that the control plane has gone back, to a copy of its store: whether that is so is asked at once.
    this.#ask();
  }

  #adopt(snapshot: Snapshot, messages: readonly KeptMessage[]): void {
    const { store, clock, log } = this.#options;
    this.#older = undefined;
    const taken = store.take({ snapshot: messages }, (head) => takeSnapshot(head, snapshot, clock.now()));
    const changed = taken.outcome === 'applied' ? taken.changed.length : 0;
    log.info({ revision: Number(snapshot.revision), count: snapshot.count, changed }, 'took a snapshot');
    if (this.#sync.name === 'receiving' && this.#sync.revision === snapshot.revision) {
      this.#reached();
      return;
    }
    this.#moved();
  }

  /** The head has moved: perhaps to where the SyncRequest was to lead. */
  #moved(): void {
    const sync = this.#sync;
    if (sync.name === 'receiving' && !sync.back && this.#options.store.headRevision >= sync.revision) this.#reached();
  }

  #has(revision: bigint): boolean {
    const { store } = this.#options;
    return store.headComplete && store.headRevision >= revision;
  }

  #reached(): void {
    this.#become({ name: 'idle' });
    this.#backoff.reset();
    if (this.#heardOf > this.#options.store.headRevision) this.#ask();
  }

  #ask(): void {
    if (!this.#session || this.#sync.name !== 'idle') return;
    const waitMs = this.#lastAskMs + spacingMs - this.#options.clock.now();
    if (waitMs > 0) {
      // A clock that was set back is no reason to wait until it has caught up.
      this.#wait(Math.min(waitMs, spacingMs));
      return;
    }
    void this.#request(this.#session);
  }

  async #request(session: DeliverySession): Promise<void> {
    const { store, link, address, clock, verifier } = this.#options;
    const asking: SyncState = { name: 'asking' };
    this.#become(asking);
    this.#lastAskMs = clock.now();
    this.#heardOf = 0n;
    try {
      await store.settled();
      if (store.revision !== store.headRevision)
        throw new Error(store.problem || 'the newest state is not on disk yet');
      const { revision: had } = store;
      // Whoever does not know all asks for all; so does whoever keeps too many messages, or such with old signatures.
      const asked = store.headComplete && !store.isWorn ? had : 0n;
      const nonce = drawNonce();
      const request = create(SyncRequestSchema, {
        epoch: session.epoch,
        session: session.nonce,
        nonce,
        appliedRevision: asked,
        digest: store.digest,
      });
      const answer = await link.request(
        upSubject(address, 'sync'),
        toBinary(SyncRequestSchema, request),
        requestTimeoutMs,
      );
      if (this.#sync !== asking) return;
      // It may lead back to an older revision, so it must be neither made up nor an answer to an earlier request.
      const opened = verifier.open('sync-reply', nonce, answer);
      if (!opened) throw new Error('the answer is not signed by the control plane');
      const { error, revision } = fromBinary(SyncReplySchema, opened.payload);
      if (error) {
        this.#refused(error);
        return;
      }
      // Of what it had when it asked: the answer may have been held back.
      const back = revision < had;
      if (!back && this.#has(revision)) {
        this.#reached();
        return;
      }
      this.#receive(revision, back);
      const older = this.#older;
      if (back && older?.snapshot.revision === revision) this.#consider(older.snapshot, older.messages);
    } catch (error) {
      if (this.#sync === asking) this.#fail((error as Error).message);
    }
  }

  #refused(error: BusError): void {
    if (
      error.reason === ErrorReason.RETRY ||
      error.reason === ErrorReason.UNSPECIFIED ||
      error.reason === ErrorReason.INVALID
    ) {
      this.#fail(error.message);
      return;
    }
    this.#options.onRefused(error);
  }

  #receive(revision: bigint, back: boolean): void {
    const { clock, limits = assemblyLimits } = this.#options;
    const cancel = clock.after(limits.patienceMs, () => this.#fail('what was announced did not come'));
    this.#become({ name: 'receiving', revision, back, cancel });
  }

  #fail(reason: string): void {
    const waitMs = this.#backoff.nextMs();
    this.#options.log.debug({ reason, waitMs }, 'not brought up to date');
    this.#wait(waitMs);
  }

  #wait(ms: number): void {
    const cancel = this.#options.clock.after(ms, () => {
      this.#become({ name: 'idle' });
      if (this.#session) void this.#request(this.#session);
    });
    this.#become({ name: 'waiting', cancel });
  }

  #become(next: SyncState): void {
    if ('cancel' in this.#sync) this.#sync.cancel();
    this.#sync = next;
  }

  #round(): void {
    const { clock, random = Math.random } = this.#options;
    this.#cancelRound = clock.after(roundMs * (0.8 + 0.4 * random()), () => {
      this.#ask();
      this.#round();
    });
  }
}
