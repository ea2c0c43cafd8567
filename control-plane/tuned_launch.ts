import { join } from 'node:path';
import process from 'node:process';

/**
 * What Node.js takes only at its own start: more threads, as the store's writer, its checkpointer and its readers would fill the usual four; a young
 * generation that fits a server of this size; and a cache of compiled code, which also spares the memory of the compiler that strips types. And
 * what it cannot set itself, so that a shell does: no core files, which would hold keys and tokens; nats-server inherits that. A SIGUSR1, with which
 * nats-server is told to open its log anew, opens no debugger to all users of the machine.
 */
const threads = '8';
const flags = ['--max-semi-space-size=8', '--disable-sigusr1'];
const marker = 'BAYKEEPER_TUNED';

/** Begins again in the same process (its id stays) with these settings. Returns only when that has been done, or cannot be. */
export function relaunchTuned(dataDir: string): void {
  if (process.env[marker] || typeof process.execve !== 'function') return;
  const [, script = '', ...args] = process.argv;
  const command = [process.execPath, ...flags, ...process.execArgv, script, ...args];
  process.execve('/bin/sh', ['sh', '-c', 'ulimit -c 0; exec "$@"', 'sh', ...command], {
    ...process.env,
    [marker]: '1',
    UV_THREADPOOL_SIZE: process.env.UV_THREADPOOL_SIZE ?? threads,
    NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE ?? join(dataDir, 'cache'),
  });
}
