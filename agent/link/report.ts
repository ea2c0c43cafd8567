import { create, toBinary } from '@bufbuild/protobuf';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import {
  type Error as BusError,
  ErrorReason,
  type NodeReport,
  NodeReportSchema,
  type ObjectReport,
  ObjectReportSchema,
  type Report,
  type ReportReply,
  ReportSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Backoff } from '../backoff.ts';
import type { Clock } from '../clock.ts';
import type { Log } from '../log.ts';
import type { ClusterReports } from '../ports.ts';

type Word = ObjectReport | NodeReport;

import { isUid } from './chain.ts';

export interface ReporterOptions {
  /** Sends a Report, serialized, and resolves to its reply; rejects when there was none. */
  readonly send: (report: Uint8Array) => Promise<ReportReply>;
  /** Told when the session is said to be refused: FENCED, REVOKED, DUPLICATE. Answers to reports are not signed. */
  readonly onRefused: (error: BusError) => void;
  readonly clock: Clock;
  readonly log: Log;
  readonly random?: () => number;
  /** How many objects were not looked at yet, so that there is no word on them. Default: none. */
  readonly unseen?: () => number;
  /** Most objects in a Report. Default 256. */
  readonly maxObjects?: number;
  /** Most bytes in a Report. Default 512 KiB. */
  readonly maxBytes?: number;
}

/** What the reports of a session say. */
export interface ReportSession {
  readonly epoch: bigint;
  /** What was drawn for it. */
  readonly nonce: Uint8Array;
}

const isNode = (word: Word): word is NodeReport => word.$typeName === 'baykeeper.bus.v1.NodeReport';
/** No uid has a space in it. */
const keyOf = (word: Word): string => (isNode(word) ? `node ${word.name}` : word.uid);

/** A word as it goes into a Report: serialized once, for its size and to be sent. */
interface Part {
  readonly word: Word;
  readonly bytes: Uint8Array;
}

const partOf = (word: Word): Part => ({
  word,
  bytes: isNode(word) ? toBinary(NodeReportSchema, word) : toBinary(ObjectReportSchema, word),
});

/** A Report that says `head` and the parts, serialized: fields may stand in any order. */
function withParts(head: Report, parts: readonly Part[]): Uint8Array {
  const { objects, nodes } = ReportSchema.field;
  const writer = new BinaryWriter().raw(toBinary(ReportSchema, head));
  for (const { word, bytes } of parts) {
    writer.tag((isNode(word) ? nodes : objects).number, WireType.LengthDelimited).bytes(bytes);
  }
  return writer.finish();
}

/** After a Report was acknowledged: what comes in this time goes into the next one. */
const coalesceMs = 5;

/**
 * Sends what was put, the latest word on each object, again and again until it is acknowledged. One Report is under way at a time, so
 * memory is bounded by the number of objects. Nothing is sent outside of a session; what is put then waits for the next.
 */
export class Reporter implements ClusterReports {
  readonly #options: ReporterOptions;
  readonly #backoff: Backoff;
  readonly #pending = new Map<string, Word>();
  /** Names of all that the cluster has, until it is acknowledged. */
  #allNodes: readonly string[] | undefined;
  #session: ReportSession | undefined;
  #sequence = 0n;
  #sending = false;
  #cancelWait: (() => void) | undefined;
  /** After a Report that could not be understood: one object at a time, to find which. */
  #single = false;

  constructor(options: ReporterOptions) {
    this.#options = options;
    this.#backoff = new Backoff({ baseMs: 500, maxMs: 15_000, random: options.random });
  }

  /** How many objects (and nodes) have a word that is not acknowledged, or none yet. */
  get pending(): number {
    return this.#pending.size + (this.#options.unseen?.() ?? 0);
  }

  put(report: ObjectReport): void {
    if (!isUid(report.uid)) {
      this.#options.log.error({ uid: report.uid }, 'a report without a usable uid is dropped');
      return;
    }
    this.#put(report);
    this.#kick();
  }

  putNode(report: NodeReport): void {
    this.#put(report);
    this.#kick();
  }

  putNodes(reports: readonly NodeReport[]): void {
    this.#allNodes = reports.map(({ name }) => name);
    for (const report of reports) this.#put(report);
    this.#kick();
  }

  /**
   * A session begins: sequences begin anew, and all that is given is reported, besides what is still pending. `nodes`: every node of the
   * cluster, where this agent leads one and knows them.
   */
  open(session: ReportSession, everything: readonly ObjectReport[], nodes?: readonly NodeReport[]): void {
    this.#session = session;
    this.#allNodes = undefined;
    for (const [key, word] of this.#pending) if (isNode(word)) this.#pending.delete(key);
    this.#sequence = 0n;
    this.#single = false;
    this.#backoff.reset();
    this.#endWait();
    for (const report of everything) if (isUid(report.uid)) this.#pending.set(report.uid, report);
    if (nodes) this.putNodes(nodes);
    else this.#kick();
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

  #put(word: Word): void {
    // Out and in again: the order of sending is the order of the last words.
    this.#pending.delete(keyOf(word));
    this.#pending.set(keyOf(word), word);
  }

  #kick(): void {
    if (!this.#session || this.#sending || this.#cancelWait) return;
    if (this.#pending.size === 0 && !this.#allNodes) return;
    void this.#sendNext(this.#session);
  }

  async #sendNext(session: ReportSession): Promise<void> {
    const { send, log } = this.#options;
    const parts = this.#batch();
    const words = parts.map(({ word }) => word);
    const names = this.#allNodes;
    this.#sequence += 1n;
    this.#sending = true;
    let waitMs = coalesceMs;
    try {
      const head = create(ReportSchema, {
        epoch: session.epoch,
        session: session.nonce,
        sequence: this.#sequence,
        pending: this.pending - words.length,
        ...(names && !this.#single ? { allNodes: { names: [...names] } } : {}),
      });
      const reply = await send(withParts(head, parts));
      // An answer to a session that is over says nothing about this one: all is reported anew there.
      if (this.#session === session) {
        if (!reply.error && head.allNodes && this.#allNodes === names) this.#allNodes = undefined;
        waitMs = this.#take(words, reply);
      }
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
  #take(words: readonly Word[], reply: ReportReply): number {
    const { log, onRefused } = this.#options;
    const { error, unknownUids } = reply;
    if (!error) {
      this.#backoff.reset();
      for (const word of words) if (this.#pending.get(keyOf(word)) === word) this.#pending.delete(keyOf(word));
      if (unknownUids.length > 0)
        log.debug({ count: unknownUids.length }, 'reports on objects that are unknown by now');
      for (const uid of unknownUids) this.#pending.delete(uid);
      return coalesceMs;
    }
    if (error.reason === ErrorReason.INVALID) {
      const [only, ...others] = words;
      if (only && others.length === 0) {
        log.error(
          { of: keyOf(only), error: error.message },
          'the control plane does not understand a report, which is dropped',
        );
        if (this.#pending.get(keyOf(only)) === only) this.#pending.delete(keyOf(only));
        this.#single = false;
      } else {
        this.#single = true;
      }
      return this.#backoff.nextMs();
    }
    if (error.reason !== ErrorReason.RETRY && error.reason !== ErrorReason.UNSPECIFIED) onRefused(error);
    return this.#backoff.nextMs();
  }

  #batch(): Part[] {
    const { maxObjects = 256, maxBytes = 512 * 1024, log } = this.#options;
    const most = this.#single ? 1 : maxObjects;
    const parts: Part[] = [];
    let bytes = 0;
    for (const [key, word] of this.#pending) {
      if (parts.length >= most) break;
      const part = partOf(word);
      const size = part.bytes.byteLength + 8;
      if (size > maxBytes) {
        log.error({ of: key, size }, 'a report is too large, and is dropped');
        this.#pending.delete(key);
        continue;
      }
      if (parts.length > 0 && bytes + size > maxBytes) break;
      parts.push(part);
      bytes += size;
    }
    return parts;
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
