import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { UnavailableError } from '../domain/errors.ts';
import { auditFiles, fileName, inSlices, readLines } from './audit_files.ts';
import { origin, readLine, writeLine } from './chain.ts';
import {
  type AuditEntry,
  type AuditLog,
  type AuditRecord,
  type ChainHead,
  damaged,
  lost,
  nobody,
  type Verification,
} from './port.ts';
import { verifyFiles } from './verify.ts';

export interface FileAuditLogOptions {
  /** Made where it is missing, for this user only. */
  readonly folder: string;
  readonly clock: { now(): number };
  readonly log: Logger;
  /** From this size on a new file is begun. Default 4 MiB. */
  readonly maxFileBytes?: number;
  /** How soon it is tried again to write what could not be written. Default 1 s. */
  readonly retryMs?: number;
}

interface Pending {
  readonly entry: AuditEntry;
  readonly timeMs: number;
  readonly settle: (error?: Error) => void;
}

/** How many records wait at most while the disk takes none. */
const maxWaiting = 50_000;
const maxBatchRecords = 2_048;
const maxBatchBytes = 4 * 1024 * 1024;
/** How often the head is noted in a file of its own. */
const anchorMs = 1_000;
const anchorName = 'head.json';
const fileMode = 0o600;
/** A write resolves when it is on disk: one call, where a write and a sync are two. */
const synced = constants.O_RDWR | constants.O_DSYNC;

/**
 * An audit log in files of JSON lines. Records that come while one batch is written go into the next, so that many calls share one sync of the
 * disk. One process at a time has it open, which the lock on the store sees to.
 */
export class FileAuditLog implements AuditLog {
  readonly #options: FileAuditLogOptions;
  readonly #maxFileBytes: number;
  readonly #listeners = new Set<(records: readonly AuditRecord[]) => void>();
  #file: FileHandle | undefined;
  #size = 0;
  #head: ChainHead = origin;
  #waiting: Pending[] = [];
  #running: Promise<void> | undefined;
  #problem: string | undefined;
  #lost = 0;
  #retry: NodeJS.Timeout | undefined;
  #anchored: ChainHead = origin;
  #anchorTimer: NodeJS.Timeout | undefined;
  #anchoring: Promise<void> = Promise.resolve();
  #closed = false;

  /** Rejects when the folder cannot be read or written. What it finds amiss in the files is recorded, and no reason not to start. */
  static async open(options: FileAuditLogOptions): Promise<FileAuditLog> {
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    const log = new FileAuditLog(options);
    try {
      await log.#open();
    } catch (error) {
      await log.#file?.close();
      throw error;
    }
    return log;
  }

  private constructor(options: FileAuditLogOptions) {
    this.#options = options;
    this.#maxFileBytes = options.maxFileBytes ?? 4 * 1024 * 1024;
  }

  get head(): ChainHead {
    return this.#head;
  }

  get problem(): string | undefined {
    return this.#problem;
  }

  append(entry: AuditEntry): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#add(entry, (error) => (error ? reject(error) : resolve()));
    });
  }

  note(entry: AuditEntry): void {
    this.#add(entry, () => undefined);
  }

  subscribe(listener: (records: readonly AuditRecord[]) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async *read(before: number | undefined): AsyncGenerator<AuditRecord> {
    const { folder } = this.#options;
    const end = Math.min(before ?? Number.MAX_SAFE_INTEGER, this.#head.sequence + 1);
    for (const { name, first } of (await auditFiles(folder)).reverse()) {
      if (first >= end) continue;
      const { lines } = await readLines(folder, name);
      for await (const [, line] of inSlices(lines.reverse())) {
        const record = readLine(line);
        if (record && record.sequence < end) yield record;
      }
    }
  }

  async *readAfter(sequence: number): AsyncGenerator<AuditRecord> {
    const { folder } = this.#options;
    const { sequence: end } = this.#head;
    const files = await auditFiles(folder);
    const begin = files.findLastIndex(({ first }) => first <= sequence + 1);
    for (const { name } of files.slice(Math.max(0, begin))) {
      const { lines } = await readLines(folder, name);
      for await (const [, line] of inSlices(lines)) {
        const record = readLine(line);
        if (record && record.sequence > sequence && record.sequence <= end) yield record;
      }
    }
  }

  async verify(expected: readonly ChainHead[] = []): Promise<Verification> {
    const { head } = this;
    return await verifyFiles(this.#options.folder, [...expected, this.#anchored, head]);
  }

  /** Writes what waits, as far as the disk takes it. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    clearTimeout(this.#anchorTimer);
    await this.#running;
    this.#anchor();
    await this.#anchoring;
    await this.#file?.close();
    for (const { settle } of this.#waiting.splice(0)) settle(new UnavailableError('the audit log is closed'));
  }

  #add(entry: AuditEntry, settle: Pending['settle']): void {
    if (this.#closed) {
      settle(new UnavailableError('the audit log is closed'));
      return;
    }
    if (this.#waiting.length >= maxWaiting) {
      this.#lost += 1;
      settle(this.#unavailable());
      return;
    }
    this.#waiting.push({ entry, timeMs: this.#options.clock.now(), settle });
    if (this.#problem === undefined) this.#wake();
    else if (entry.kind === 'change') settle(this.#unavailable());
  }

  #unavailable(): UnavailableError {
    return new UnavailableError(`the audit log cannot be written: ${this.#problem ?? 'too much waits for the disk'}`);
  }

  #wake(): void {
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
      if (this.#waiting.length > 0 && this.#problem === undefined) this.#wake();
    });
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      // What else comes in with this turn of the event loop goes along.
      await new Promise((resolve) => setImmediate(resolve));
      const { batch, lines, records } = this.#take();
      try {
        await this.#write(records[0]?.sequence ?? 0, lines);
      } catch (error) {
        this.#failed(batch, error as Error);
        return;
      }
      this.#head = records.at(-1) ?? this.#head;
      if (this.#problem !== undefined) {
        this.#problem = undefined;
        this.#options.log.info('the audit log can be written again');
      }
      for (const { settle } of batch) settle();
      for (const listener of this.#listeners) listener(records);
      this.#scheduleAnchor();
    }
  }

  #take(): { batch: Pending[]; lines: Buffer; records: AuditRecord[] } {
    if (this.#lost > 0) {
      const message = `${this.#lost} records were lost, as the disk took none`;
      this.#lost = 0;
      this.#waiting.push(this.#system(lost, message));
    }
    const records: AuditRecord[] = [];
    const lines: string[] = [];
    let bytes = 0;
    let head = this.#head;
    for (const { entry, timeMs } of this.#waiting) {
      if (records.length >= maxBatchRecords || bytes >= maxBatchBytes) break;
      const { line, record } = writeLine(entry, head, timeMs);
      records.push(record);
      lines.push(line);
      bytes += line.length;
      head = record;
    }
    const batch = this.#waiting.splice(0, records.length);
    return { batch, records, lines: Buffer.from(`${lines.join('\n')}\n`) };
  }

  #system(code: string, message: string): Pending {
    const entry: AuditEntry = { ...nobody, kind: 'system', method: '', code, message };
    return { entry, timeMs: this.#options.clock.now(), settle: () => undefined };
  }

  /** On disk when it resolves; as if it had never been tried when it rejects. */
  async #write(sequence: number, lines: Buffer): Promise<void> {
    if (!this.#file || this.#size >= this.#maxFileBytes) await this.#begin(sequence);
    const file = this.#file;
    if (!file) throw new Error('there is no file');
    try {
      const { bytesWritten } = await file.write(lines, 0, lines.length, this.#size);
      if (bytesWritten < lines.length) {
        await file.write(lines, bytesWritten, lines.length - bytesWritten, this.#size + bytesWritten);
      }
    } catch (error) {
      await file.truncate(this.#size).catch(() => undefined);
      throw error;
    }
    this.#size += lines.length;
  }

  async #begin(sequence: number): Promise<void> {
    const { folder } = this.#options;
    const file = await open(join(folder, fileName(sequence)), synced | constants.O_CREAT, fileMode);
    await this.#file?.close();
    this.#file = file;
    this.#size = 0;
    await syncFolder(folder);
  }

  /** Who waits is told, and what was to be recorded is kept until it can be. */
  #failed(batch: readonly Pending[], error: Error): void {
    const { log, retryMs = 1_000 } = this.#options;
    const problem = problemOf(error);
    if (this.#problem !== problem) log.error({ err: error }, 'the audit log cannot be written');
    this.#problem = problem;
    for (const { settle } of batch) settle(this.#unavailable());
    this.#waiting.unshift(...batch.map((one) => ({ ...one, settle: () => undefined })));
    for (const one of this.#waiting) one.settle(this.#unavailable());
    if (this.#closed) return;
    this.#retry = setTimeout(() => this.#wake(), retryMs);
    this.#retry.unref();
  }

  async #open(): Promise<void> {
    const { folder, log } = this.#options;
    const files = await auditFiles(folder);
    for (const { name } of files.toReversed()) {
      const { lines, torn, bytes } = await readLines(folder, name);
      if (!this.#file) {
        this.#file = await open(join(folder, name), synced);
        await this.#file.truncate(bytes);
        this.#size = bytes;
        if (torn !== '') {
          this.#waiting.push(this.#system('audit_torn', `a record of ${torn.length} characters was not finished`));
        }
      }
      const last = lines.at(-1);
      if (last === undefined) continue;
      const record = readLine(last);
      if (record) this.#head = record;
      else throw new Error(`${join(folder, name)}: its last line is no record: put the file aside, and start again`);
      break;
    }
    const anchor = await this.#readAnchor();
    if (anchor && anchor.sequence > 0) {
      const { head } = this;
      const isThere =
        head.sequence > anchor.sequence || (head.sequence === anchor.sequence && head.hash === anchor.hash);
      if (!isThere) {
        const message = `the log ended with record ${anchor.sequence} (${anchor.hash}), and ends with ${head.sequence} now: records were taken away or changed`;
        log.error({ anchor, head }, 'the audit log is not as it was left');
        this.#waiting.push(this.#system(damaged, message));
      }
      this.#anchored = anchor;
    }
    if (this.#waiting.length > 0) {
      this.#wake();
      await this.#running;
    }
  }

  async #readAnchor(): Promise<ChainHead | undefined> {
    try {
      const { sequence, hash } = JSON.parse(await readFile(join(this.#options.folder, anchorName), 'utf8'));
      return typeof sequence === 'number' && typeof hash === 'string' ? { sequence, hash } : undefined;
    } catch {
      // None was written yet, or by half: it is a help, and not the log.
      return undefined;
    }
  }

  #scheduleAnchor(): void {
    if (this.#anchorTimer || this.#closed) return;
    this.#anchorTimer = setTimeout(() => {
      this.#anchorTimer = undefined;
      this.#anchor();
    }, anchorMs);
    this.#anchorTimer.unref();
  }

  #anchor(): void {
    const { sequence, hash } = this.#head;
    if (sequence === this.#anchored.sequence) return;
    const path = join(this.#options.folder, anchorName);
    this.#anchoring = this.#anchoring.then(async () => {
      try {
        await writeFile(`${path}.tmp`, `${JSON.stringify({ sequence, hash })}\n`, { mode: fileMode });
        await rename(`${path}.tmp`, path);
        this.#anchored = { sequence, hash };
      } catch (error) {
        this.#options.log.warn({ err: error }, 'the head of the audit log cannot be noted');
      }
    });
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** For callers, who are not told where the log is. */
function problemOf({ code = 'it failed' }: NodeJS.ErrnoException): string {
  return code === 'ENOSPC' || code === 'EDQUOT' ? 'its disk is full: free some space' : code;
}
