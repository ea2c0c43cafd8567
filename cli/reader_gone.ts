import { spawn } from 'node:child_process';
import { fstatSync } from 'node:fs';
import process from 'node:process';

/**
 * Calls `gone` when the reader of our standard output has gone, as `head` does when it has enough. A writer learns of that by itself only when it
 * writes again, which a watch may not do for hours, and Node.js cannot ask. GNU tail can: following a file that never grows, it ends with
 * SIGPIPE at once. Where stdout is no pipe, or tail another one, `gone` is never called. Returns what ends the looking.
 */
export function onReaderGone(gone: () => void): () => void {
  if (!isPipe(1)) return () => undefined;
  const tail = spawn('tail', [`--pid=${process.pid}`, '--follow', '/dev/null'], {
    stdio: ['ignore', 'inherit', 'ignore'],
  });
  // Not there: a watch ends with its next event then.
  tail.once('error', () => undefined);
  tail.once('exit', (_code, signal) => {
    if (signal === 'SIGPIPE') gone();
  });
  tail.unref();
  return () => tail.kill('SIGKILL');
}

function isPipe(fd: number): boolean {
  try {
    return fstatSync(fd).isFIFO();
  } catch {
    // Closed by whoever started us.
    return false;
  }
}
