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

/** Resolves with a port that nobody listens on. Rejects with BrokerError. */
export function freePort(host: string): Promise<number> {
  return listenOnce(host, 0);
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
