import { create, toBinary } from '@bufbuild/protobuf';
import {
  type Error as BusError,
  ErrorReason,
  type ObjectReport,
  ObjectReportSchema,
  type Report,
  type ReportReply,
  ReportSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Backoff } from '../backoff.ts';
import type { Clock } from '../clock.ts';
import type { Log } from '../log.ts';
import type { Reports } from '../ports.ts';
import { isUid } from './chain.ts';

export interface ReporterOptions {
  /** Sends a Report and resolves to its reply; rejects when there was none. */
  readonly send: (report: Report) => Promise<ReportReply>;
  /** Told when the control plane refuses the session: FENCED, REVOKED, DUPLICATE. */
  readonly onRefused: (error: BusError) => void;
  readonly clock: Clock;
  readonly log: Log;
  readonly random?: () => number;
  /** Most objects in a Report. Default 256. */
  readonly maxObjects?: number;
  /** Most bytes in a Report. Default 512 KiB. */
  readonly maxBytes?: number;
}

/** After a Report was acknowledged: what comes in this time goes into the next one. */
const coalesceMs = 5;

/**
 * Sends what was put, the latest word on each object, again and again until it is acknowledged. One Report is under way at a time, so
 * memory is bounded by the number of objects. Nothing is sent outside of a session; what is put then waits for the next.
 */
export class Reporter implements Reports {
  readonly #options: ReporterOptions;
  readonly #backoff: Backoff;
  readonly #pending = new Map<string, ObjectReport>();
  #session: { readonly epoch: bigint } | undefined;
  #sequence = 0n;
  #sending = false;
  #cancelWait: (() => void) | undefined;
  /** After a Report that could not be understood: one object at a time, to find which. */
  #single = false;

  constructor(options: ReporterOptions) {
    this.#options = options;
    this.#backoff = new Backoff({ baseMs: 500, maxMs: 15_000, random: options.random });
  }

  /** How many objects have a word that is not acknowledged. */
  get pending(): number {
    return this.#pending.size;
  }

  put(report: ObjectReport): void {
    if (!isUid(report.uid)) {
      this.#options.log.error({ uid: report.uid }, 'a report without a usable uid is dropped');
      return;
    }
    // Out and in again: the order of sending is the order of the last words.
    this.#pending.delete(report.uid);
    this.#pending.set(report.uid, report);
    this.#kick();
  }

  /** A session begins: sequences begin anew, and all that is given is reported, besides what is still pending. */
  open(epoch: bigint, everything: readonly ObjectReport[]): void {
    this.#session = { epoch };
    this.#sequence = 0n;
    this.#single = false;
    this.#backoff.reset();
    this.#endWait();
    for (const report of everything) if (isUid(report.uid)) this.#pending.set(report.uid, report);
    this.#kick();
  }

  /** The control plane has been heard: what failed while it was away is tried again now. */
  hurry(): void {
    if (this.#backoff.failures === 0) return;
    this.#backoff.reset();
    this.#endWait();
    this.#kick();
  }

  /** The session is over: nothing more is sent until the next. */
  close(): void {
    this.#session = undefined;
    this.#endWait();
  }

  #kick(): void {
    if (!this.#session || this.#sending || this.#cancelWait || this.#pending.size === 0) return;
    void this.#sendNext(this.#session);
  }

  async #sendNext(session: { readonly epoch: bigint }): Promise<void> {
    const { send, log } = this.#options;
    const objects = this.#batch();
    this.#sequence += 1n;
    this.#sending = true;
    let waitMs = coalesceMs;
    try {
      const reply = await send(create(ReportSchema, { epoch: session.epoch, sequence: this.#sequence, objects }));
      // An answer to a session that is over says nothing about this one: all is reported anew there.
      if (this.#session === session) waitMs = this.#take(objects, reply);
    } catch (error) {
      waitMs = this.#backoff.nextMs();
      log.debug(
        { error: (error as Error).message, pending: this.#pending.size, waitMs },
        'a report was not acknowledged',
      );
    } finally {
      this.#sending = false;
    }
    if (this.#session === session) this.#wait(waitMs);
    else this.#kick();
  }

  /** What to do after a reply: returns how long to wait before the next Report. */
  #take(objects: readonly ObjectReport[], reply: ReportReply): number {
    const { log, onRefused } = this.#options;
    const { error, unknownUids } = reply;
    if (!error) {
      this.#backoff.reset();
      for (const report of objects) if (this.#pending.get(report.uid) === report) this.#pending.delete(report.uid);
      if (unknownUids.length > 0)
        log.debug({ count: unknownUids.length }, 'reports on objects that are unknown by now');
      for (const uid of unknownUids) this.#pending.delete(uid);
      return coalesceMs;
    }
    if (error.reason === ErrorReason.INVALID) {
      const [only, ...others] = objects;
      if (only && others.length === 0) {
        log.error(
          { uid: only.uid, error: error.message },
          'the control plane does not understand a report, which is dropped',
        );
        if (this.#pending.get(only.uid) === only) this.#pending.delete(only.uid);
        this.#single = false;
      } else {
        this.#single = true;
      }
      return this.#backoff.nextMs();
    }
    if (error.reason !== ErrorReason.RETRY && error.reason !== ErrorReason.UNSPECIFIED) onRefused(error);
    return this.#backoff.nextMs();
  }

  #batch(): ObjectReport[] {
    const { maxObjects = 256, maxBytes = 512 * 1024, log } = this.#options;
    const objects: ObjectReport[] = [];
    let bytes = 0;
    for (const report of this.#pending.values()) {
      const size = toBinary(ObjectReportSchema, report).byteLength + 8;
      if (size > maxBytes) {
        log.error({ uid: report.uid, size }, 'a report is too large, and is dropped');
        this.#pending.delete(report.uid);
        continue;
      }
      if (objects.length > 0 && (bytes + size > maxBytes || objects.length >= (this.#single ? 1 : maxObjects))) break;
      objects.push(report);
      bytes += size;
    }
    return objects;
  }

  #wait(ms: number): void {
    this.#cancelWait = this.#options.clock.after(ms, () => {
      this.#cancelWait = undefined;
      this.#kick();
    });
  }

  #endWait(): void {
    this.#cancelWait?.();
    this.#cancelWait = undefined;
  }
}
