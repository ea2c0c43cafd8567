import { randomInt } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { BrokerError, messageOf, systemErrorCode } from './broker_error.ts';

/** A port in a file of ours; undefined when it holds none. */
export function parsePort(text: string): number | undefined {
  const port = /^\d{1,5}\s*$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65_535 ? port : undefined;
}

/** Another program has the port. */
export class PortTakenError extends BrokerError {
  constructor(host: string, port: number, options: ErrorOptions) {
    super(
      `port ${port} on ${host}, where agents look for the broker, is taken by another program: end that program, or set another port`,
      options,
    );
  }
}

const attempts = 100;

/**
 * Resolves with a port that nobody listens on. Agents look there from then on, so it is none of those that the kernel gives to connections, which could
 * have it whenever the broker is down for a moment. Rejects with BrokerError.
 */
export async function freePort(host: string): Promise<number> {
  const [first, end] = await lastingPorts();
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await listenOnce(host, randomInt(first, end));
    } catch (error) {
      if (!(error instanceof PortTakenError) || attempt === attempts) throw error;
    }
  }
}

/** The ports on one side of the kernel's own range, `end` not included; what is below 10240 is often meant for something. */
async function lastingPorts(): Promise<readonly [first: number, end: number]> {
  const range = await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').catch(() => '32768 60999');
  const [low = 0, high = 0] = range.split(/\s+/).map(Number);
  if (low > 12_000) return [10_240, low];
  return high < 65_000 ? [high + 1, 65_536] : [1_024, 65_536];
}

/** Rejects with PortTakenError, or with BrokerError when nobody can listen there. */
export async function checkPortIsFree(host: string, port: number): Promise<void> {
  await listenOnce(host, port);
}

function listenOnce(host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', (cause) => {
      const code = systemErrorCode(cause);
      if (code === 'EADDRINUSE') {
        reject(new PortTakenError(host, port, { cause }));
      } else if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') {
        reject(new BrokerError(`${host}, where the broker is to listen, is not an address of this machine`, { cause }));
      } else {
        reject(new BrokerError(`the broker cannot listen on ${host} port ${port}: ${messageOf(cause)}`, { cause }));
      }
    });
    probe.listen({ host, port, exclusive: true }, () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === 'object' && address ? address.port : port));
    });
  });
}
