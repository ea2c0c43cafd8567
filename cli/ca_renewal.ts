import type { X509Certificate } from 'node:crypto';
import { certificatesIn } from '../proto/fingerprint.ts';
import type { Connection } from './connection.ts';
import { parseServer, readConfig, type Settings, writeConfig } from './context.ts';
import type { Io } from './io.ts';

/** While a CA is replaced, the old one vouches for the new one. Who is told of it in that time goes on afterwards. */

const fetchTimeoutMs = 5_000;

const vouches = (ca: X509Certificate, leaf: X509Certificate): boolean =>
  ca.ca && leaf.checkIssued(ca) && leaf.verify(ca.publicKey);

/**
 * The CA, as PEM, that the certificate of a server is of, when who is trusted only vouches for that one. The server is asked for it over the connection
 * that was verified. Undefined: there is nothing to learn. Rejects when it cannot be asked.
 */
export async function newAuthority(connection: Connection, trusted: string): Promise<string | undefined> {
  const leaf = trusted ? connection.peerCertificate : undefined;
  if (!leaf || certificatesIn(trusted).some((ca) => vouches(ca, leaf))) return undefined;
  const shown = await connection.get('/ca.pem', AbortSignal.timeout(fetchTimeoutMs));
  const found = certificatesIn(shown).filter((ca) => vouches(ca, leaf));
  return found.join('') || undefined;
}

/** Puts a CA in the place of the one that a context had. One that is in a file, or came with the command line, is left to whoever put it there. */
export async function keepAuthority(io: Io, { context: name, server, ca }: Settings, renewed: string): Promise<void> {
  const config = await readConfig(io);
  const context = config.contexts.get(name);
  if (context?.ca !== ca || context.server === undefined || parseServer(context.server) !== server) return;
  await writeConfig({ ...config, contexts: new Map([...config.contexts, [name, { ...context, ca: renewed }]]) });
}
