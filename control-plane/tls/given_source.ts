import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { readSmallFile } from '../private_file.ts';
import type { CertificateMaterial } from './port.ts';
import type { CertificateSource } from './server_certificate.ts';
import { TlsError } from './tls_error.ts';

export interface GivenSourceOptions {
  readonly certificateFile: string;
  readonly keyFile: string;
  /** Undefined: whom every system trusts. */
  readonly caFile: string | undefined;
  /** By which clients call the server: the certificate has to be for them. */
  readonly names: readonly string[];
  readonly clock: { now(): number };
}

/** One that is not replaced by then was forgotten. */
const lateBeforeEndMs = 24 * 3_600_000;

/** Certificates that somebody else sees to. Whatever is wrong with them is said in so many words, and the ones before stay. */
export function givenSource(options: GivenSourceOptions): CertificateSource {
  const { certificateFile, keyFile, caFile } = options;
  return {
    files: [certificateFile, keyFile, ...(caFile === undefined ? [] : [caFile])],
    async read(before, changed) {
      return before && !changed ? before : readGiven(options);
    },
  };
}

async function readGiven({ certificateFile, keyFile, caFile, names, clock }: GivenSourceOptions) {
  const chain = parseCertificates(await read(certificateFile), certificateFile);
  const [leaf] = chain;
  const keyText = await read(keyFile);
  if (!leaf.checkPrivateKey(parseKey(keyText, keyFile))) {
    throw new TlsError(`the key in ${keyFile} is not that of the first certificate in ${certificateFile}`);
  }
  const nowMs = clock.now();
  if (leaf.validToDate.getTime() <= nowMs) {
    throw new TlsError(`the certificate in ${certificateFile} expired on ${leaf.validToDate.toISOString()}: renew it`);
  }
  if (leaf.validFromDate.getTime() > nowMs) {
    throw new TlsError(
      `the certificate in ${certificateFile} is good from ${leaf.validFromDate.toISOString()} on only: wait, or check this machine's clock`,
    );
  }
  for (const name of names) {
    if ((isIP(name) ? leaf.checkIP(name) : leaf.checkHost(name)) !== undefined) continue;
    throw new TlsError(
      `the certificate in ${certificateFile} is not for ${name}, by which agents and users call this control plane; it is for ${leaf.subjectAltName ?? 'no name'}: get one for ${name}, or see --advertise`,
    );
  }
  const trusted = caFile === undefined ? [] : parseCertificates(await read(caFile), caFile);
  const voucher = trusted.find((one) => vouches(one, chain, nowMs));
  if (trusted.length > 0 && !voucher) {
    throw new TlsError(
      `no certificate in ${caFile} vouches for the one in ${certificateFile}: the chain is broken, or something in it has expired`,
    );
  }
  const endMs = leaf.validToDate.getTime();
  return {
    chain: chain.map(String).join(''),
    key: keyText,
    // Whose fingerprint is first is the one that newcomers are told: another one may be there for later.
    trusted: [...trusted].sort((a, b) => Number(b === voucher) - Number(a === voucher)).map(String),
    endMs,
    lateMs: endMs - lateBeforeEndMs,
  } satisfies CertificateMaterial;
}

/** Whether the chain leads, certificate by certificate, to this one, and all of it is good now. */
function vouches(by: X509Certificate, chain: readonly X509Certificate[], nowMs: number): boolean {
  const isGood = (one: X509Certificate): boolean =>
    one.validFromDate.getTime() <= nowMs && nowMs < one.validToDate.getTime();
  let last: X509Certificate | undefined;
  for (const one of chain) {
    if (!isGood(one) || (last && !isIssued(last, one))) return false;
    if (by.fingerprint256 === one.fingerprint256 || (isIssued(one, by) && isGood(by))) return true;
    last = one;
  }
  return false;
}

const isIssued = (one: X509Certificate, by: X509Certificate): boolean =>
  one.checkIssued(by) && one.verify(by.publicKey);

async function read(path: string): Promise<string> {
  const text = await readSmallFile(path, 1024 * 1024);
  if (text === undefined) throw new TlsError(`${path} is missing`);
  return text;
}

/** The certificates of a PEM file, in their order. Throws TlsError naming it when there is none. */
export function parseCertificates(text: string, path: string): [X509Certificate, ...X509Certificate[]] {
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g) ?? [];
  try {
    const [first, ...rest] = blocks.map((block) => new X509Certificate(block));
    if (first) return [first, ...rest];
  } catch (cause) {
    throw new TlsError(`${path} holds a certificate that cannot be read`, { cause });
  }
  throw new TlsError(`${path} holds no certificate: expected PEM, beginning with -----BEGIN CERTIFICATE-----`);
}

function parseKey(text: string, path: string): KeyObject {
  try {
    return createPrivateKey(text);
  } catch {
    // The cause is not passed on: it may quote the key.
    throw new TlsError(`${path} holds no private key that can be used: expected PEM without a passphrase`);
  }
}
