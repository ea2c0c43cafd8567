import { createHash, X509Certificate } from 'node:crypto';

/** What a certificate is told apart by, as it stands in join and login commands: `sha256:` and 64 hexadecimal digits, of the whole certificate. */
export const fingerprintOf = (certificate: X509Certificate): string =>
  `sha256:${createHash('sha256').update(certificate.raw).digest('hex')}`;

/** The usual form of a fingerprint; undefined when it is none. Colons between the digits, capitals, and a missing `sha256:` are understood. */
export function parseFingerprint(text: string): string | undefined {
  const digits = text
    .replace(/^sha256:/i, '')
    .replaceAll(':', '')
    .toLowerCase();
  return /^[0-9a-f]{64}$/.test(digits) ? `sha256:${digits}` : undefined;
}

/** The certificates of a PEM text, in their order; what is none is left out. Throws when one cannot be read. */
export const certificatesIn = (pem: string): readonly X509Certificate[] =>
  (pem.match(/-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g) ?? []).map(
    (block) => new X509Certificate(block),
  );
