import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { createSecureContext } from 'node:tls';
import test from 'ava';
import { pino } from 'pino';
import { formatTrust, parseTrust, trustIn } from '../../agent/link/trust.ts';
import { TrustedKeys } from '../../agent/link/trusted_keys.ts';
import { PolicyError } from '../../agent/policy.ts';
import { loadPolicy } from '../../agent/policy_file.ts';
import { FileAuditLog } from '../../control-plane/audit/audit_log.ts';
import { nobody } from '../../control-plane/audit/port.ts';
import { parseTokenFile, TokenFileError } from '../../control-plane/auth/token_file.ts';
import { newKey, readKeys, writeKeys } from '../../control-plane/broker/signing_key_file.ts';
import { FileError } from '../../control-plane/private_file.ts';
import { authorityFile, openAuthority, readAuthority, rotateAuthority } from '../../control-plane/tls/authority.ts';
import { makeAuthority, makeLeaf } from '../../control-plane/tls/certificate.ts';
import { givenSource } from '../../control-plane/tls/given_source.ts';
import { TlsError } from '../../control-plane/tls/tls_error.ts';
import { testSigner } from '../harness/signing.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { fuzz } from './fuzz.ts';
import { mutated } from './mutate.ts';

/* Files of those who own a control plane or a node, and what these keep of keys and records: each is taken, or refused with an error that says so. */

const bytes = (text: string) => new TextEncoder().encode(text);
const hour = 3_600_000;

/** Throws for an error of another class than these, and for one that quotes a key. */
async function refusedOrTaken<T>(
  read: () => T | Promise<T>,
  ...errors: readonly (abstract new (
    ...args: never[]
  ) => Error)[]
): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    if (!errors.some((kind) => error instanceof kind)) throw error;
    const { message } = error as Error;
    if (message === '' || /PRIVATE KEY/.test(message)) throw new Error(`refused by: ${message}`, { cause: error });
    return undefined;
  }
}

test.serial('tokens in a file', async (t) => {
  const entry = `- sha256: ${'ab'.repeat(32)}\n  subject: rose\n  project: red\n  role: member\n  expires: 2030-01-01T00:00:00Z\n  description: "of the CI"\n`;
  await fuzz(t, {
    target: 'tokens',
    input: mutated([bytes(entry), bytes(`${entry}- &a {sha256: x}\n- *a\n`), bytes('[]')]),
    runs: 500,
    check: async (input) => {
      const text = Buffer.from(input).toString('utf8');
      const found = await refusedOrTaken(() => parseTokenFile(text, 'tokens.yaml'), TokenFileError);
      for (const { role } of found?.values() ?? []) {
        if (!['admin', 'member', 'reader'].includes(role)) throw new Error(`there is no role ${role}`);
      }
    },
  });
});

test.serial('the policy of a node', async (t) => {
  await using folder = await temporaryFolder('fuzz-policy');
  const file = path.join(folder.path, 'agent.yaml');
  const sample =
    'version: 1\nprivileged: forbid\nhostNetwork: allow\nexec: forbid\nimages: [registry.example/a/, "busybox@sha256:ab"]\nhostMounts: [{path: /srv, readOnly: true}]\nhostPorts: [80, 1000-2000]\ncapabilities: [NET_ADMIN]\n';
  await fuzz(t, {
    target: 'policy',
    input: mutated([bytes(sample), bytes('{}'), bytes('a: &a [*a]\n')]),
    runs: 500,
    check: async (input) => {
      await writeFile(file, input);
      await refusedOrTaken(() => loadPolicy(file), PolicyError);
    },
  });
});

test.serial('our own CA, and certificates that are given', async (t) => {
  await using folder = await temporaryFolder('fuzz-tls');
  await openAuthority(folder.path, Date.now());
  await rotateAuthority(folder.path, hour, Date.now());
  const file = authorityFile(folder.path);
  const sample = new Uint8Array(readFileSync(file));
  await fuzz(t, {
    target: 'authority',
    input: mutated([sample]),
    runs: 300,
    check: async (input) => {
      await writeFile(file, input);
      await refusedOrTaken(() => readAuthority(folder.path), TlsError, FileError);
    },
  });
  const root = await makeAuthority(Date.now() + hour);
  const leaf = await makeLeaf(root, ['localhost'], Date.now() + hour);
  const files = { certificateFile: leaf.certificate, keyFile: leaf.key, caFile: root.certificate };
  const named = Object.fromEntries(Object.keys(files).map((name) => [name, path.join(folder.path, name)]));
  const { certificateFile = '', keyFile = '', caFile = '' } = named;
  const source = givenSource({ certificateFile, keyFile, caFile, names: ['localhost'], clock: Date });
  for (const changed of Object.keys(files)) {
    await fuzz(t, {
      target: `given/${changed}`,
      input: mutated(Object.values(files).map(bytes)),
      runs: 150,
      check: async (input) => {
        for (const [name, text] of Object.entries(files)) await writeFile(named[name] ?? '', text);
        await writeFile(named[changed] ?? '', input);
        const material = await refusedOrTaken(() => source.read(undefined, true), TlsError, FileError);
        // What is taken has to be good for a server.
        if (material) createSecureContext({ cert: material.chain, key: material.key, ca: [...material.trusted] });
      },
    });
  }
});

test.serial('keys of the control plane, on both sides, and whom an agent trusts', async (t) => {
  await using folder = await temporaryFolder('fuzz-keys');
  const file = path.join(folder.path, 'keys.json');
  await writeKeys(file, [newKey(1), newKey(2)]);
  await fuzz(t, {
    target: 'signing keys',
    input: mutated([new Uint8Array(readFileSync(file))]),
    runs: 300,
    check: async (input) => {
      await writeFile(file, input);
      await refusedOrTaken(() => readKeys(file), FileError);
    },
  });
  const known = path.join(folder.path, 'trusted.json');
  const keys = await TrustedKeys.open(known);
  await keys.replace([{ id: testSigner.id, publicKey: testSigner.publicKey, retiring: false } as never]);
  await fuzz(t, {
    target: 'trusted keys',
    input: mutated([new Uint8Array(readFileSync(known))]),
    runs: 300,
    check: async (input) => {
      await writeFile(known, input);
      await TrustedKeys.open(known);
    },
  });
  const { certificate } = await makeAuthority(Date.now() + hour);
  const trust = { ...trustIn([certificate]), serverUrls: ['https://a.example'], digest: 'ab' };
  await fuzz(t, {
    target: 'trust',
    input: mutated([bytes(formatTrust(trust))]),
    runs: 300,
    check: (input) => void parseTrust(Buffer.from(input)),
  });
});

test.serial('files of the audit log', async (t) => {
  await using folder = await temporaryFolder('fuzz-audit');
  const log = pino({ level: 'silent' });
  const options = { folder: folder.path, clock: Date, log };
  const open = await FileAuditLog.open(options);
  for (let i = 0; i < 5; i += 1) {
    await open.append({ ...nobody, kind: 'change', method: 'a/B', code: 'ok', message: `number ${i}` });
  }
  await open.close();
  const files = new Map(
    readdirSync(folder.path).map((name) => [name, new Uint8Array(readFileSync(path.join(folder.path, name)))]),
  );
  for (const [changed, sample] of files) {
    await fuzz(t, {
      target: `audit/${changed}`,
      input: mutated([sample]),
      runs: 100,
      check: async (input) => {
        await rm(folder.path, { recursive: true });
        await mkdir(folder.path);
        for (const [name, content] of files) await writeFile(path.join(folder.path, name), content);
        await writeFile(path.join(folder.path, changed), input);
        const audit = await FileAuditLog.open(options).catch((error: Error) => {
          // Whoever starts the control plane is told which file it is.
          if (!error.message.includes(changed)) throw error;
          return undefined;
        });
        if (!audit) return;
        await audit.verify();
        for await (const _ of audit.read(undefined));
        await audit.append({ ...nobody, kind: 'change', method: 'a/B', code: 'ok', message: 'after' });
        await audit.close();
      },
    });
  }
});
