import { writeSync } from 'node:fs';

/** Where a logger's lines go. */
export interface LogOutput {
  write(line: string): void;
}

/**
 * Writes each line to a file descriptor before it returns. What cannot be written (a full disk, a broken pipe) is left out: it is no reason to
 * end. Pino's own destination ends the process at the first error, and tries again for ever on the way out. A pipe that is full is waited for.
 */
export function openLogOutput(fd: number): LogOutput {
  return {
    write(line) {
      try {
        writeSync(fd, line);
      } catch {
        // There is nowhere to say it.
      }
    },
  };
}
