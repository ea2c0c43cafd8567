import { writeSync } from 'node:fs';

/** A logger as the agent uses it, and as pino is: a constant message plus fields. */
export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  child(fields: object): Log;
}

export const logLevels = ['debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

/** How pino numbers its levels. */
const numbers = { debug: 20, info: 30, warn: 40, error: 50 } as const;

/**
 * Logs lines of JSON to standard error, in pino's format. Not pino itself: that brings worker threads and transports along, 1.5 MB of the
 * agent's 70.
 *
 * @param write Takes a whole line.
 */
export function createLog(level: LogLevel, write: (line: string) => void = writeLine): Log {
  return bound(logLevels.indexOf(level), {}, write);
}

function bound(least: number, fields: object, write: (line: string) => void): Log {
  const at = (level: keyof typeof numbers) => (more: object, msg: string) => {
    if (logLevels.indexOf(level) < least) return;
    write(`${JSON.stringify({ level: numbers[level], time: Date.now(), ...fields, ...more, msg }, readable)}\n`);
  };
  return {
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    child: (more) => bound(least, { ...fields, ...more }, write),
  };
}

/** What JSON itself cannot write, or would write as {}. */
function readable(_: string, value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value);
  if (value instanceof Error) return value.stack ?? value.message;
  return value;
}

function writeLine(line: string): void {
  try {
    writeSync(2, line);
  } catch {
    // Nobody takes the log: a full or broken pipe is no reason to stop looking after containers.
  }
}

/** Says nothing. */
export const silentLog: Log = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silentLog,
};
