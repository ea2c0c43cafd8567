import { createHash } from 'node:crypto';
import type { TrustBundle } from './gen/baykeeper/v1/trust_bundle_pb.js';

/** What one TrustBundle is told from another by: SHA-256 over its fields, each with its length. */
export function trustDigest(bundle: TrustBundle): Uint8Array {
  const hash = createHash('sha256');
  for (const list of [bundle.caCertificates, bundle.brokerCaCertificates, bundle.serverUrls]) {
    hash.update(`${list.length};`);
    for (const value of list) hash.update(`${value.length};${value}`);
  }
  return hash.digest();
}
