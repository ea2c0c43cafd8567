import { mkdirSync, statSync } from 'node:fs';
import { createServer, type Server } from 'node:net';

/** Thrown when another agent has the data folder. */
export class LockedError extends Error {
  override readonly name = 'LockedError';
}

/**
 * Makes sure that one agent uses a data folder. The lock is a listening socket in Linux's abstract namespace, named by the folder's
 * device and inode: the kernel lets go of it however the process ends, and nothing is left that would have to be cleaned up.
 *
 * Makes the folder when there is none. Rejects with LockedError when another agent holds it. Resolves to what releases it.
 */
export async function lockFolder(path: string): Promise<() => Promise<void>> {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  const { dev, ino } = statSync(path, { bigint: true });
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EADDRINUSE') return reject(error);
      reject(new LockedError(`another agent is running with the data folder ${path}`, { cause: error }));
    });
    server.listen(`\0baykeeper-agent-${dev}-${ino}`, resolve);
  });
  server.unref();
  return () => closed(server);
}

const closed = (server: Server) => new Promise<void>((resolve) => server.close(() => resolve()));
