import { isIP } from 'node:net';
import { certificatesIn } from '../../proto/fingerprint.ts';
import type { TrustBundle } from '../../proto/gen/baykeeper/v1/trust_bundle_pb.js';
import { trustDigest } from '../../proto/trust_digest.ts';
import { crossesNetworkInClear } from '../plaintext.ts';

/** How the agent tells the control plane and its broker from others, and where else it may find them. */
export interface Trust {
  /** Whom to trust for the API, as PEM, and nobody else. Undefined: whom the system trusts. Empty: nobody. */
  readonly certificates: readonly string[] | undefined;
  /** The same for the broker. */
  readonly brokerCertificates: readonly string[] | undefined;
  /** URLs of the API besides the one that was used last, in the order to try them. */
  readonly serverUrls: readonly string[];
  /** Of the bundle that this was taken from, in hexadecimal digits. Empty: it did not come as one. */
  readonly digest: string;
}

/** What a machine starts with that was told nothing. */
export const systemTrust: Trust = {
  certificates: undefined,
  brokerCertificates: undefined,
  serverUrls: [],
  digest: '',
};

/** Trust in one authority for everything. */
export const trustIn = (certificates: readonly string[]): Trust => ({
  ...systemTrust,
  certificates,
  brokerCertificates: certificates,
});

const most = { certificates: 32, urls: 16, urlLength: 512 };

/** What a bundle says, if it can be. `server`: where it came from; what came over TLS names no server without. Throws Error. */
export function trustFrom(bundle: TrustBundle, server: string): Trust {
  const secure = server.startsWith('https:');
  return {
    certificates: authorities(bundle.caCertificates),
    brokerCertificates: authorities(bundle.brokerCaCertificates),
    serverUrls: bundle.serverUrls
      .filter((url) => url.length <= most.urlLength && /^https?:$/.test(URL.parse(url)?.protocol ?? ''))
      .filter((url) => (secure ? url.startsWith('https:') : !crossesNetworkInClear(url)))
      .slice(0, most.urls),
    digest: Buffer.from(trustDigest(bundle)).toString('hex'),
  };
}

function authorities(texts: readonly string[]): readonly string[] | undefined {
  if (texts.length === 0) return undefined;
  const found = texts.flatMap(certificatesIn);
  if (found.length === 0 || found.length > most.certificates) {
    throw new Error(`${found.length} certificates to trust: expected 1 to ${most.certificates}`);
  }
  return found.map(String);
}

export const formatTrust = ({ certificates, brokerCertificates, serverUrls, digest }: Trust): string =>
  JSON.stringify(
    { certificates: certificates ?? null, broker: brokerCertificates ?? null, serverUrls, digest },
    null,
    1,
  );

/** What is damaged makes the agent trust nobody: it goes on with its work, and has to be joined again to be heard of. */
export function parseTrust(stored: Buffer | undefined): Trust {
  if (!stored) return systemTrust;
  try {
    const fields = JSON.parse(stored.toString('utf8')) as Partial<Record<string, unknown>>;
    return {
      certificates: fields.certificates === null ? undefined : strings(fields.certificates),
      brokerCertificates: fields.broker === null ? undefined : strings(fields.broker),
      serverUrls: strings(fields.serverUrls),
      digest: String(fields.digest ?? ''),
    };
  } catch {
    return trustIn([]);
  }
}

function strings(value: unknown): readonly string[] {
  if (!Array.isArray(value) || !value.every((one) => typeof one === 'string')) throw new TypeError('no list of texts');
  return value;
}

/** Options of a TLS connection to the broker at `url`; undefined for one without TLS. With them the client insists on TLS. */
export function brokerTls(url: string, trust: Trust): object | undefined {
  const parsed = URL.parse(url);
  if (parsed?.protocol !== 'tls:') return undefined;
  const host = parsed.hostname.replace(/^\[|\]$/g, '');
  const ca = trust.brokerCertificates ? { ca: trust.brokerCertificates.join('\n') || [] } : {};
  // The client would compare an address with `localhost`.
  return { ...ca, host, servername: isIP(host) ? '' : host, minVersion: 'TLSv1.2' };
}
