import { createPublicKey, type KeyObject } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { SigningKey } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { signingKeyId } from '../../proto/signing.ts';
import { writeDurably } from '../durable_file.ts';

/** Before the 32 bytes of an Ed25519 key in SubjectPublicKeyInfo. */
const spkiPrefix = Buffer.from('302a300506032b6570032100', 'hex');
const keyBytes = 32;
/** More than the control plane ever lists. */
const maxKeys = 64;

/** What makes a list of keys unusable; undefined when it is fine. */
export function problemOfKeys(keys: readonly SigningKey[]): string | undefined {
  if (keys.length === 0) return 'no key that its messages are signed with';
  if (keys.length > maxKeys) return `${keys.length} keys`;
  for (const { id, publicKey } of keys) {
    if (publicKey.byteLength !== keyBytes) return `a key of ${publicKey.byteLength} bytes, not ${keyBytes}`;
    if (id !== signingKeyId(publicKey)) return 'a key under the name of another';
  }
  return undefined;
}

interface Trusted {
  readonly publicKey: Uint8Array;
  readonly key: KeyObject;
  /** `former`: no message is believed any more that comes with it; what is on disk may still be signed by it. */
  readonly standing: 'valid' | 'retiring' | 'former';
}

/**
 * The control plane's keys that the agent believes, in a file of mode 0600. They come with the credentials: from the control plane's API
 * at first, later also over the bus, signed by one of them.
 */
export class TrustedKeys {
  readonly #path: string;
  #keys: ReadonlyMap<string, Trusted>;
  /** What is on disk. */
  #kept: string;
  /** Changes, one after the other. */
  #changing: Promise<void> = Promise.resolve();

  /** Opens the file; where there is none, or it is damaged, nothing is believed. */
  static async open(path: string): Promise<TrustedKeys> {
    return new TrustedKeys(path, await read(path));
  }

  private constructor(path: string, keys: ReadonlyMap<string, Trusted>) {
    this.#path = path;
    this.#keys = keys;
    this.#kept = describe(keys);
  }

  /** Whether there is a key that messages can be believed by. */
  get any(): boolean {
    return [...this.#keys.values()].some(({ standing }) => standing !== 'former');
  }

  /** The key that messages may be signed with. */
  find(id: string): KeyObject | undefined {
    const found = this.#keys.get(id);
    return found?.standing === 'former' ? undefined : found?.key;
  }

  /** The key that messages on this disk may be signed with. */
  findStored(id: string): KeyObject | undefined {
    return this.#keys.get(id)?.key;
  }

  /** Whether what is signed by it has to be signed by another one soon. */
  isAgeing(id: string): boolean {
    return this.#keys.get(id)?.standing !== 'valid';
  }

  /**
   * Believes these and no others. `problemOfKeys` has nothing against them. Resolves when they are on disk; until then the new ones are not believed
   * either, as what they sign could not be read again after a restart.
   */
  async replace(keys: readonly SigningKey[]): Promise<void> {
    const listed = new Map(
      keys.map(({ id, publicKey, retiring }): [string, Trusted] => [
        id,
        { publicKey, key: keyOf(publicKey), standing: retiring ? 'retiring' : 'valid' },
      ]),
    );
    await this.#change((known) => {
      const former = [...known].map(([id, one]): [string, Trusted] =>
        listed.has(id) ? [id, one] : [id, { ...one, standing: 'former' }],
      );
      this.#keys = new Map(former);
      return new Map([...listed, ...former.filter(([id]) => !listed.has(id))]);
    });
  }

  /** What is on disk is signed by these keys: former ones that are not among them are forgotten. */
  async inUse(ids: ReadonlySet<string>): Promise<void> {
    const isNeeded = ([id, { standing }]: [string, Trusted]) => standing !== 'former' || ids.has(id);
    if ([...this.#keys].every(isNeeded)) return;
    await this.#change((known) => new Map([...known].filter(isNeeded)));
  }

  #change(next: (known: ReadonlyMap<string, Trusted>) => ReadonlyMap<string, Trusted>): Promise<void> {
    const change = this.#changing.then(() => this.#keep(next(this.#keys)));
    this.#changing = change.catch(() => undefined);
    return change;
  }

  async #keep(next: ReadonlyMap<string, Trusted>): Promise<void> {
    const text = describe(next);
    if (text !== this.#kept) await writeDurably(this.#path, [Buffer.from(text)], 0o600);
    this.#kept = text;
    this.#keys = next;
  }
}

const describe = (keys: ReadonlyMap<string, Trusted>): string =>
  `${JSON.stringify(
    [...keys].map(([id, { publicKey, standing }]) => ({
      id,
      publicKey: Buffer.from(publicKey).toString('base64'),
      standing,
    })),
  )}\n`;

const keyOf = (publicKey: Uint8Array): KeyObject =>
  createPublicKey({ key: Buffer.concat([spkiPrefix, publicKey]), format: 'der', type: 'spki' });

async function read(path: string): Promise<ReadonlyMap<string, Trusted>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new Map();
    throw error;
  }
  try {
    const keys = new Map<string, Trusted>();
    for (const { id, publicKey, standing } of JSON.parse(text) as Record<string, unknown>[]) {
      const bytes = Buffer.from(String(publicKey), 'base64');
      if (id !== signingKeyId(bytes) || bytes.byteLength !== keyBytes) return new Map();
      if (standing !== 'valid' && standing !== 'retiring' && standing !== 'former') return new Map();
      keys.set(id, { publicKey: bytes, key: keyOf(bytes), standing });
    }
    return keys;
  } catch {
    return new Map();
  }
}
