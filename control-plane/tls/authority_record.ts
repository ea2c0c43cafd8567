import { join } from 'node:path';
import { readSmallFile, writePrivateFile } from '../private_file.ts';
import type { Authority } from './authority.ts';
import { fingerprintOf } from './certificate.ts';

/** What the audit log is to say of our own CA. */
export interface AuthorityChange {
  readonly code: 'ca_made' | 'ca_replaced';
  /** For people: with fingerprints, and until when the one before is good. */
  readonly message: string;
}

export interface AuthorityRecordOptions {
  readonly dataDir: string;
  /** Resolves when it is recorded. */
  readonly append: (change: AuthorityChange) => Promise<void>;
}

const recordFile = (dataDir: string): string => join(dataDir, 'tls', 'recorded');

/**
 * Has each change of our own CA recorded by the control plane, which alone writes the audit log, whoever made the change and whether it ran then or
 * not: a file has the fingerprint of the CA that was recorded last. So what a crash cut short is recorded by the next start.
 */
export class AuthorityRecord {
  readonly #options: AuthorityRecordOptions;
  #recorded: string | undefined;

  constructor(options: AuthorityRecordOptions) {
    this.#options = options;
  }

  /** Rejects when it cannot be recorded, or noted that it is. This process tries it once. */
  async see({ current, previous }: Authority): Promise<void> {
    const { dataDir, append } = this.#options;
    const now = fingerprintOf(current.certificate);
    if (this.#recorded === now) return;
    const before = this.#recorded ?? (await readSmallFile(recordFile(dataDir), 4096))?.trim() ?? '';
    this.#recorded = now;
    if (before === now) return;
    const overlapping = previous.find((one) => fingerprintOf(one.certificate) === before);
    const until = overlapping ? `until ${new Date(overlapping.trustedUntilMs).toISOString()}` : 'no more';
    await append(
      before === ''
        ? { code: 'ca_made', message: `${now}, by which agents and users know this control plane` }
        : { code: 'ca_replaced', message: `${before} by ${now}; the one before is good ${until}` },
    );
    await writePrivateFile(recordFile(dataDir), `${now}\n`);
  }
}
