import type { Logger } from 'pino';
import type { AuthorityChange } from './authority_record.ts';
import type { ServerCertificate } from './port.ts';
import { openServerCertificate } from './server_certificate.ts';
import type { TlsConfig } from './tls_options.ts';

/** The certificate that the options ask for; undefined without TLS. Rejects with one sentence when there can be none. */
export async function openTls(
  config: TlsConfig,
  around: {
    readonly dataDir: string;
    readonly log: Logger;
    readonly clock: { now(): number };
    readonly onAuthority?: (change: AuthorityChange) => Promise<void>;
  },
): Promise<ServerCertificate | undefined> {
  if (config.kind === 'off') return undefined;
  // Loaded here: the X.509 library is of no use without TLS, nor with certificates that are given.
  const source =
    config.kind === 'own'
      ? (await import('./own_source.ts')).ownSource({ ...config, ...around })
      : (await import('./given_source.ts')).givenSource({ ...config, ...around });
  const checkMs = config.kind === 'own' ? Math.min(5_000, config.leafTtlMs / 10) : 5_000;
  return openServerCertificate({ ...around, source, checkMs });
}
