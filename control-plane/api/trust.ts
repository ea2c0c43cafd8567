import { create } from '@bufbuild/protobuf';
import { type TrustBundle, TrustBundleSchema } from '../../proto/gen/baykeeper/v1/trust_bundle_pb.js';

/** How agents and users find this control plane, and tell it from others. */
export interface Trust {
  /** Whom to trust for the API, as PEM, the newest first. Empty: whom every system trusts, or there is no TLS. */
  readonly certificates: readonly string[];
  /** The same for the broker. */
  readonly brokerCertificates: readonly string[];
  /** URLs of the API, the best first. */
  readonly serverUrls: readonly string[];
}

/** For the agents. */
export const trustBundle = ({ certificates, brokerCertificates, serverUrls }: Trust): TrustBundle =>
  create(TrustBundleSchema, {
    caCertificates: [...certificates],
    brokerCaCertificates: [...brokerCertificates],
    serverUrls: [...serverUrls],
  });
