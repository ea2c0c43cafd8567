import { open } from 'node:fs/promises';
import type { Logger } from 'pino';
import { messageOf } from './broker_error.ts';

/**
 * Carries what nats-server writes to its log file over into ours. A file and not a pipe: a server that survives us would die of a
 * broken pipe at its next line.
 */
export interface NatsLog {
  /** Reads what there is, now. */
  drain(): Promise<void>;
  /** The last line of an error, or that has no form: why it did not start. Empty when there was none. */
  readonly lastComplaint: string;
  close(): Promise<void>;
}

const pollIntervalMs = 500;
const readBytes = 64 * 1024;
const maxLineLength = 4096;
/** The file is emptied when it has grown to this. nats-server appends, so it goes on from the beginning. */
const maxFileBytes = 4 * 1024 * 1024;

const line = /^\[\d+\] \d{4}\/\d\d\/\d\d \d\d:\d\d:\d\d\.\d+ \[(\w{3})\] (.*)$/;

/** What nats-server says at INF is of interest when one looks for something only. */
const levels: Readonly<Record<string, 'trace' | 'debug' | 'warn' | 'error'>> = {
  TRC: 'trace',
  DBG: 'trace',
  INF: 'debug',
  WRN: 'warn',
  ERR: 'error',
  FTL: 'error',
};

/** Said at each change of an account where nobody has asked for JetStream. */
const harmless = /JetStream not enabled for account/;

/** Whoever finds the port can cause it; and so do we, when we ask whether the server is up. */
const anybodys = /TLS handshake error/;

/** Seeds, and JWTs. */
const secrets = /\bS[OAUNCX][A-Z2-7]{56}\b|\beyJ[\w-]+(?:\.[\w-]+){1,2}/g;

/** Follows the file at `path`, which need not be there yet, from `fromByte` on. */
export function followNatsLog(path: string, fromByte: number, log: Logger): NatsLog {
  let position = fromByte;
  let partial = '';
  let lastComplaint = '';
  let reading: Promise<void> = Promise.resolve();
  let failed = false;

  function take(text: string): void {
    const clean = text.slice(0, maxLineLength).replace(secrets, '(secret)').trimEnd();
    if (clean === '') return;
    const [, level = '', message = clean] = line.exec(clean) ?? [];
    const ours = harmless.test(message) ? 'trace' : anybodys.test(message) ? 'debug' : (levels[level] ?? 'warn');
    if (ours === 'error' || level === '') lastComplaint = message;
    log[ours]({ natsServer: message }, 'nats-server says');
  }

  async function read(): Promise<void> {
    const file = await open(path, 'r+');
    try {
      const { size } = await file.stat();
      if (size < position) position = 0;
      const buffer = Buffer.alloc(readBytes);
      for (;;) {
        const { bytesRead } = await file.read(buffer, 0, readBytes, position);
        if (bytesRead === 0) break;
        position += bytesRead;
        const lines = (partial + buffer.toString('utf8', 0, bytesRead)).split('\n');
        partial = (lines.pop() ?? '').slice(0, maxLineLength);
        for (const text of lines) take(text);
      }
      if (position >= maxFileBytes) {
        await file.truncate(0);
        position = 0;
      }
    } finally {
      await file.close();
    }
  }

  function drain(): Promise<void> {
    reading = reading.then(read).then(
      () => {
        failed = false;
      },
      (error: unknown) => {
        // Said once: the log of nats-server is worth no more.
        if (!failed) log.debug({ path, reason: messageOf(error) }, 'cannot read the log of nats-server');
        failed = true;
      },
    );
    return reading;
  }

  const timer = setInterval(() => void drain(), pollIntervalMs);
  timer.unref();
  return {
    drain,
    get lastComplaint() {
      return lastComplaint;
    },
    async close() {
      clearInterval(timer);
      await drain();
    },
  };
}
