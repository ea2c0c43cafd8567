import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { removeLeftovers } from '../private_file.ts';
import {
  authorityFile,
  crossCertificates,
  defaultOverlapMs,
  isOld,
  openAuthority,
  rotateAuthority,
  trustedBy,
} from './authority.ts';
import { type AuthorityChange, AuthorityRecord } from './authority_record.ts';
import { fingerprintOf, makeLeaf } from './certificate.ts';
import { pem } from './pem.ts';
import type { CertificateMaterial } from './port.ts';
import type { CertificateSource } from './server_certificate.ts';

export interface OwnSourceOptions {
  readonly dataDir: string;
  readonly names: readonly string[];
  readonly leafTtlMs: number;
  readonly log: Logger;
  readonly clock: { now(): number };
  /** Records that there is another CA. Default: nobody is told. */
  readonly onAuthority?: (change: AuthorityChange) => Promise<void>;
}

/**
 * Certificates of the CA of our own, which is made when there is none, and replaced when it gets old. What clients are to trust is in
 * `tls/ca.pem`, for users on this machine.
 */
export function ownSource({
  dataDir,
  names,
  leafTtlMs,
  log,
  clock,
  onAuthority = async () => undefined,
}: OwnSourceOptions): CertificateSource {
  let madeMs = 0;
  let renewMs = 0;
  const record = new AuthorityRecord({ dataDir, append: onAuthority });
  return {
    files: [authorityFile(dataDir)],
    async read(before) {
      const nowMs = clock.now();
      // At the start only: later it could be what `ca rotate` is writing at this moment.
      if (!before) await removeLeftovers(join(dataDir, 'tls'));
      let authority = await openAuthority(dataDir, nowMs);
      if (isOld(authority, nowMs)) authority = await rotateAuthority(dataDir, defaultOverlapMs, nowMs);
      await record
        .see(authority)
        .catch((error: unknown) => log.error({ err: error }, 'that the CA is another is not recorded'));
      const trusted = trustedBy(authority, nowMs);
      const same = before && trusted.join() === before.trusted.join();
      // One that was made while the clock was ahead would be good for too long.
      if (same && madeMs <= nowMs && nowMs < renewMs) return before;
      const leaf = await makeLeaf(authority.current, names, nowMs + leafTtlMs);
      madeMs = nowMs;
      renewMs = nowMs + (leafTtlMs * 2) / 3;
      if (!same) {
        await writeFile(join(dataDir, 'tls', 'ca.pem'), pem(trusted), { mode: 0o644 });
        log.info({ fingerprint: fingerprintOf(authority.current.certificate), trusted: trusted.length }, 'our own CA');
      }
      return {
        chain: pem([leaf.certificate, ...crossCertificates(authority, nowMs)]),
        key: leaf.key,
        trusted,
        endMs: nowMs + leafTtlMs,
        lateMs: nowMs + (leafTtlMs * 5) / 6,
      } satisfies CertificateMaterial;
    },
  };
}
