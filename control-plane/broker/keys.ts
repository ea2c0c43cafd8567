import { randomBytes } from 'node:crypto';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createAccount, createOperator, createUser, fromSeed, type KeyPair } from '../../proto/nkeys.ts';
import {
  checkPrivate,
  FileError,
  makePrivateFolder,
  readSmallFile,
  syncFolder,
  writePrivateFile,
} from '../private_file.ts';
import { BrokerError, messageOf } from './broker_error.ts';
import { SigningKey } from './signing_key.ts';

/** The keys of a broker that the control plane runs itself. */
export interface BrokerKeys {
  /** Signs the accounts. */
  readonly operator: KeyPair;
  /** Signs the users: the agents and the control plane. Its subjects are the bus. */
  readonly account: KeyPair;
  /** The account in which the broker speaks of itself. */
  readonly systemAccount: KeyPair;
  /** The control plane on the bus. */
  readonly controlPlane: KeyPair;
  /** The control plane in the system account. */
  readonly systemUser: KeyPair;
}

const keyFiles: { readonly [K in keyof BrokerKeys]: { readonly file: string; readonly kind: KeyKind } } = {
  operator: { file: 'operator.nk', kind: 'operator' },
  account: { file: 'account.nk', kind: 'account' },
  systemAccount: { file: 'system_account.nk', kind: 'account' },
  controlPlane: { file: 'control_plane.nk', kind: 'user' },
  systemUser: { file: 'system_user.nk', kind: 'user' },
};

type KeyKind = 'operator' | 'account' | 'user';

const kinds = {
  operator: { letter: 'O', create: createOperator },
  account: { letter: 'A', create: createAccount },
  user: { letter: 'U', create: createUser },
} as const;

/**
 * The keys in `folder` (mode 0700, each file 0600). Makes all of them when the folder is not there, and never one alone: a broker with a
 * new operator or account key would be a stranger to every agent.
 *
 * Rejects with BrokerError naming the file that is missing, broken, or open to others.
 */
export async function loadOrCreateKeys(folder: string): Promise<BrokerKeys> {
  if (await isMissingOrEmpty(folder)) await createKeys(folder);
  await checkPrivate(folder, '0700');
  const load = ({ file, kind }: { file: string; kind: KeyKind }) => readSeedFile(join(folder, file), kind);
  return {
    operator: await load(keyFiles.operator),
    account: await load(keyFiles.account),
    systemAccount: await load(keyFiles.systemAccount),
    controlPlane: await load(keyFiles.controlPlane),
    systemUser: await load(keyFiles.systemUser),
  };
}

/** Reads one seed file. Rejects with BrokerError naming it when it is missing, open to others, or not a seed of this kind. */
export async function readSeedFile(path: string, kind: KeyKind): Promise<KeyPair> {
  const text = await readSmallFile(path, 4096);
  if (text === undefined) {
    throw new BrokerError(
      `the key file ${path} is missing: put it back from a backup, or remove the whole folder to begin anew, in which case every agent has to enrol again`,
    );
  }
  await checkPrivate(path, '0600');
  const { letter } = kinds[kind];
  try {
    const pair = fromSeed(new TextEncoder().encode(text.trim()));
    if (!pair.getPublicKey().startsWith(letter)) throw new Error('it is a key of another kind');
    return new SigningKey(pair);
  } catch {
    // The cause is not passed on: it may quote the seed.
    throw new BrokerError(
      `the key file ${path} does not hold the seed of an nkey of kind ${kind}: put it back from a backup`,
    );
  }
}

async function isMissingOrEmpty(folder: string): Promise<boolean> {
  try {
    return (await readdir(folder)).length === 0;
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return true;
    throw new BrokerError(`cannot read the folder ${folder}: ${messageOf(cause)}`, { cause });
  }
}

/** All or none: they are written to a folder beside, which then takes the name. */
async function createKeys(folder: string): Promise<void> {
  const parent = dirname(folder);
  await makePrivateFolder(parent);
  const temporary = `${folder}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    await mkdir(temporary, { mode: 0o700 });
    for (const { file, kind } of Object.values(keyFiles)) {
      const seed = new TextDecoder().decode(kinds[kind].create().getSeed());
      await writePrivateFile(join(temporary, file), `${seed}\n`);
    }
    await rename(temporary, folder);
    await syncFolder(parent);
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true });
    if (cause instanceof FileError) throw cause;
    throw new BrokerError(`cannot make the key folder ${folder}: ${messageOf(cause)}`, { cause });
  }
}
