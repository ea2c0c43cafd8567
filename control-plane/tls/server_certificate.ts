import type { Stats } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { Logger } from 'pino';
import type { CertificateMaterial, ServerCertificate } from './port.ts';

/** Where certificates come from. */
export interface CertificateSource {
  /** Files: when one of them changes, `read` is called. */
  readonly files: readonly string[];
  /** What is good now. Called at the start, when a file changed, and every few seconds: what is as before is returned as it was. */
  read(before: CertificateMaterial | undefined, changed: boolean): Promise<CertificateMaterial>;
}

export interface ServerCertificateOptions {
  readonly source: CertificateSource;
  readonly log: Logger;
  readonly clock: { now(): number };
  /** How often it is looked for changes. Default 5 s. */
  readonly checkMs?: number;
}

/** How often it is told that a certificate is late. */
const worryEveryMs = 3_600_000;

/** Reads the certificate, and then follows it. Rejects when the first one cannot be used. */
export async function openServerCertificate(options: ServerCertificateOptions): Promise<ServerCertificate> {
  const { source, log, clock, checkMs = 5_000 } = options;
  const listeners = new Set<(material: CertificateMaterial) => void>();
  let seen = await identityOf(source.files);
  let current = await source.read(undefined, true);
  let complaint = '';
  let worriedMs = 0;

  const look = async (): Promise<void> => {
    try {
      const now = await identityOf(source.files);
      const next = await source.read(current, now !== seen || complaint !== '');
      seen = now;
      complaint = '';
      if (next === current) return;
      current = next;
      log.info({ ends: new Date(next.endMs).toISOString() }, 'the server has another certificate');
      for (const listener of listeners) listener(next);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      if (reason !== complaint) log.error({ reason }, 'the certificate cannot be renewed: the one in use stays');
      complaint = reason;
    } finally {
      const nowMs = clock.now();
      if (nowMs >= current.lateMs && nowMs - worriedMs > worryEveryMs) {
        worriedMs = nowMs;
        const what = nowMs < current.endMs ? 'the certificate ends soon' : 'the certificate has ended: nobody comes in';
        const reason = complaint || 'there is no other';
        log.error({ ends: new Date(current.endMs).toISOString(), reason }, what);
      }
    }
  };
  let looking: Promise<void> = Promise.resolve();
  const refresh = (): Promise<void> => {
    looking = looking.then(look);
    return looking;
  };
  const timer = setInterval(() => void refresh(), checkMs);
  timer.unref();
  return {
    get current() {
      return current;
    },
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    refresh,
    close: () => clearInterval(timer),
  };
}

/** Which files these are, and of when. */
async function identityOf(files: readonly string[]): Promise<string> {
  const stats = await Promise.all(files.map((file) => stat(file).catch(() => undefined)));
  return stats.map((one: Stats | undefined) => (one ? `${one.ino} ${one.size} ${one.mtimeMs}` : 'none')).join();
}
