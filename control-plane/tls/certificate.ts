import 'reflect-metadata';
import { randomBytes, webcrypto, X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import * as x509 from '@peculiar/x509';
import { fingerprintOf as fingerprint } from '../../proto/fingerprint.ts';

/** Certificates are made here, and nowhere else: the only place that knows the X.509 library. Loaded only where there is TLS. */

/** A certificate and its private key, as PEM. */
export interface KeyAndCertificate {
  readonly certificate: string;
  /** PKCS #8. */
  readonly key: string;
}

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

/**
 * Our certificates have always been valid: a machine whose clock lost its battery believes that it is long ago, and must come back
 * nevertheless. What bounds a certificate is its end.
 */
const always = new Date(0);

/** A new certificate authority that ends at `untilMs`. Its name is its own, so that two of them are never mixed up. */
export async function makeAuthority(untilMs: number): Promise<KeyAndCertificate> {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const name = `CN=Baykeeper CA ${randomBytes(6).toString('hex')}`;
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name,
    notBefore: always,
    notAfter: new Date(untilMs),
    keys,
    signingAlgorithm: algorithm,
    extensions: await authorityExtensions(keys.publicKey),
  });
  return { certificate: pemOf(certificate), key: await exportKey(keys.privateKey) };
}

/** A certificate for the key of `authority`, signed by `by`: who trusts `by` alone trusts what `authority` signs. Ends when either does. */
export async function crossSign(authority: KeyAndCertificate, by: KeyAndCertificate): Promise<string> {
  const subject = new x509.X509Certificate(authority.certificate);
  const issuer = new x509.X509Certificate(by.certificate);
  const publicKey = await subject.publicKey.export();
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: subject.subject,
    issuer: issuer.subject,
    notBefore: always,
    notAfter: new Date(Math.min(subject.notAfter.getTime(), issuer.notAfter.getTime())),
    publicKey,
    signingKey: await importKey(by.key),
    signingAlgorithm: algorithm,
    extensions: [
      ...(await authorityExtensions(publicKey)),
      await x509.AuthorityKeyIdentifierExtension.create(await issuer.publicKey.export()),
    ],
  });
  return pemOf(certificate);
}

/** A certificate for a server that is reached by these names and addresses, until `untilMs` at the latest. */
export async function makeLeaf(
  authority: KeyAndCertificate,
  names: readonly string[],
  untilMs: number,
): Promise<KeyAndCertificate> {
  const issuer = new x509.X509Certificate(authority.certificate);
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: 'CN=Baykeeper control plane',
    issuer: issuer.subject,
    notBefore: always,
    notAfter: new Date(Math.min(untilMs, issuer.notAfter.getTime())),
    publicKey: keys.publicKey,
    signingKey: await importKey(authority.key),
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension(
        names.map((name) => ({ type: isIP(name) ? 'ip' : 'dns', value: name }) as const),
      ),
      await x509.AuthorityKeyIdentifierExtension.create(await issuer.publicKey.export()),
    ],
  });
  return { certificate: pemOf(certificate), key: await exportKey(keys.privateKey) };
}

/** The fingerprint of a certificate that is given as PEM. */
export const fingerprintOf = (certificate: string): string => fingerprint(new X509Certificate(certificate));

/** When a certificate ends, in milliseconds since 1970. */
export const endOf = (certificate: string): number => new X509Certificate(certificate).validToDate.getTime();

const authorityExtensions = async (publicKey: webcrypto.CryptoKey): Promise<x509.Extension[]> => [
  new x509.BasicConstraintsExtension(true, undefined, true),
  new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
  await x509.SubjectKeyIdentifierExtension.create(publicKey, false),
];

/** Positive, 16 bytes of it. */
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes.toString('hex');
}

const importKey = (key: string): Promise<webcrypto.CryptoKey> =>
  webcrypto.subtle.importKey('pkcs8', x509.PemConverter.decodeFirst(key), algorithm, false, ['sign']);

const pemOf = (certificate: x509.X509Certificate): string => `${certificate.toString('pem').trim()}\n`;

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  const text = x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY');
  return `${text.trim()}\n`;
}
