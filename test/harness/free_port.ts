import { randomInt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';

/** Of this process: what was given before may not be in use yet. */
const given = new Set<number>();

/**
 * A port on which nothing listened just now. It is none of those that the kernel gives to connections: while a server of a test is down, one of
 * them could take its port.
 */
export async function freePort(): Promise<number> {
  const [first = 32_768] = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').split(/\s+/).map(Number);
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const port = randomInt(Math.min(10_240, first - 1), first);
    if (given.has(port)) continue;
    given.add(port);
    if (await isFree(port)) return port;
  }
  throw new Error(`found no free port below ${first}`);
}

/** On any address: some servers of tests have 127.0.0.2, and engines publish ports on all. */
function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '0.0.0.0', () => server.close(() => resolve(true)));
  });
}
