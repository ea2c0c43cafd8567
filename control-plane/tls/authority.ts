import { createPrivateKey, X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { checkPrivate, makePrivateFolder, readSmallFile, writePrivateFile } from '../private_file.ts';
import { crossSign, endOf, type KeyAndCertificate, makeAuthority } from './certificate.ts';
import { TlsError } from './tls_error.ts';

/**
 * The certificate authority of our own, in one file of the data folder, and how it is rolled over.
 *
 * A new CA signs at once. For as long as the overlap lasts, servers also present a certificate of the new CA that the old one has
 * signed: so whoever knows the old one alone goes on, and learns of the new one when it can. Of the old CA only that is kept, not its key.
 */
export interface Authority {
  readonly current: KeyAndCertificate;
  /** The newest first. */
  readonly previous: readonly PreviousAuthority[];
}

export interface PreviousAuthority {
  readonly certificate: string;
  /** A certificate for the one that came after it, signed by this one. */
  readonly cross: string;
  /** The end of the overlap, in milliseconds since 1970. */
  readonly trustedUntilMs: number;
}

const authorityLifeMs = 10 * 365 * 24 * 3_600_000;
/** How long an old CA is still good, unless something else is said. An agent that was away for longer has to join again. */
export const defaultOverlapMs = 90 * 24 * 3_600_000;
/** How many old ones may overlap: agents believe no list that is much longer, and each handshake carries all of them. */
const mostOverlapping = 16;

export const authorityFile = (dataDir: string): string => join(dataDir, 'tls', 'authority.json');

/** Why nothing can be done with the authority of a folder that has none. */
export const noAuthority = (dataDir: string): string =>
  `there is no certificate authority in ${dataDir} yet: it is made at the first start with TLS. Is that the folder of the control plane?`;

/** The authority of a data folder; undefined when there is none yet. Rejects with TlsError or FileError naming the file. */
export async function readAuthority(dataDir: string): Promise<Authority | undefined> {
  const path = authorityFile(dataDir);
  const text = await readSmallFile(path, 1024 * 1024);
  if (text === undefined) return undefined;
  await checkPrivate(path, '0600');
  try {
    return parse(JSON.parse(text));
  } catch {
    // The cause is not passed on: it may quote the key.
    throw new TlsError(
      `${path} does not hold our certificate authority: put it back from a backup, or remove it to begin anew, in which case every agent has to join again`,
    );
  }
}

/** The same, and makes one where there is none. */
export async function openAuthority(dataDir: string, nowMs: number): Promise<Authority> {
  const found = await readAuthority(dataDir);
  if (found) return found;
  const made: Authority = { current: await makeAuthority(nowMs + authorityLifeMs), previous: [] };
  await write(dataDir, made);
  return made;
}

/**
 * Replaces the authority by a new one. The old one is good for `overlapMs` more: 0 when its key may be in wrong hands. Rejects with TlsError where
 * there is none, or too many overlap.
 */
export async function rotateAuthority(dataDir: string, overlapMs: number, nowMs: number): Promise<Authority> {
  const before = await readAuthority(dataDir);
  if (!before) throw new TlsError(noAuthority(dataDir));
  const current = await makeAuthority(nowMs + authorityLifeMs);
  const { certificate } = before.current;
  const cross = await crossSign(current, before.current);
  const trustedUntilMs = Math.min(nowMs + overlapMs, endOf(certificate));
  // Whoever knows an older one alone comes here over the one that is replaced now, so no older one is good for longer.
  const older = before.previous.map((one) => ({
    ...one,
    trustedUntilMs: Math.min(one.trustedUntilMs, trustedUntilMs),
  }));
  const previous = [{ certificate, cross, trustedUntilMs }, ...older].filter((one) => one.trustedUntilMs > nowMs);
  if (previous.length > mostOverlapping) {
    const endMs = Math.min(...previous.map((one) => one.trustedUntilMs));
    throw new TlsError(
      `${mostOverlapping} old authorities overlap with this one already: wait until ${new Date(endMs).toISOString()}, or end them all with --overlap 0s`,
    );
  }
  const rotated: Authority = { current, previous };
  await write(dataDir, rotated);
  return rotated;
}

/** Whether so little of its life is left that it is time for the next one. */
export const isOld = ({ current }: Authority, nowMs: number): boolean =>
  endOf(current.certificate) - nowMs < authorityLifeMs / 3;

/** What clients are to trust now, the newest first. */
export const trustedBy = ({ current, previous }: Authority, nowMs: number): readonly string[] => [
  current.certificate,
  ...overlapping(previous, nowMs).map((one) => one.certificate),
];

/** What is presented behind a server's certificate, for those who know an older authority alone. */
export const crossCertificates = ({ previous }: Authority, nowMs: number): readonly string[] =>
  overlapping(previous, nowMs).map((one) => one.cross);

const overlapping = (previous: readonly PreviousAuthority[], nowMs: number): readonly PreviousAuthority[] =>
  previous.filter((one) => one.trustedUntilMs > nowMs);

async function write(dataDir: string, authority: Authority): Promise<void> {
  await makePrivateFolder(join(dataDir, 'tls'));
  await writePrivateFile(authorityFile(dataDir), `${JSON.stringify(authority, null, 1)}\n`);
}

/** Throws when it is none. */
function parse(value: unknown): Authority {
  const { current, previous } = value as Partial<Authority>;
  if (!current || !Array.isArray(previous)) throw new TypeError('incomplete');
  if (!new X509Certificate(current.certificate).checkPrivateKey(createPrivateKey(current.key))) {
    throw new TypeError('key and certificate differ');
  }
  for (const one of previous as PreviousAuthority[]) {
    new X509Certificate(one.certificate);
    new X509Certificate(one.cross);
    if (!Number.isFinite(one.trustedUntilMs)) throw new TypeError('no end of the overlap');
  }
  return { current, previous };
}
