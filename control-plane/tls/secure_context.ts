import type { SecureContextOptions } from 'node:tls';
import { pem } from './pem.ts';
import type { CertificateMaterial } from './port.ts';

/** What a TLS server of ours is made with. */
export const secureContextOf = ({ chain, key }: CertificateMaterial): SecureContextOptions => ({
  cert: chain,
  key,
  minVersion: 'TLSv1.2',
  honorCipherOrder: true,
  // Of TLS 1.2 only what has forward secrecy and authenticates what it encrypts; TLS 1.3 has nothing else.
  ciphers:
    'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!PSK',
});

/**
 * What clients are to trust, for whoever asks: it is public. Clients that have only its fingerprint take it from a connection that they do not
 * trust yet.
 */
export function pageOfAuthorities({ trusted }: CertificateMaterial): { status: number; type: string; body: string } {
  if (trusted.length === 0) {
    return { status: 404, type: 'text/plain', body: 'no CA of our own: every system trusts this certificate\n' };
  }
  return { status: 200, type: 'application/x-pem-file', body: pem(trusted) };
}
