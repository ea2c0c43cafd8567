import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';

export interface CertificateOptions {
  /** To Kubernetes, the name of a user. */
  readonly commonName: string;
  /** To Kubernetes, the user's groups. */
  readonly organizations?: readonly string[];
  /** Names and IP addresses that a server with this certificate answers to. Default: none. */
  readonly hosts?: readonly string[];
}

export interface Certificate {
  /** Paths of PEM files. */
  readonly certFile: string;
  readonly keyFile: string;
  /** What is in them. */
  readonly cert: string;
  readonly key: string;
}

/** A certificate authority of a test's own, made by openssl. */
export interface CertificateAuthority {
  /** Path of its certificate, PEM. */
  readonly certFile: string;
  readonly cert: string;
  /** For clients and servers alike, valid for 30 days from now. */
  issue(options: CertificateOptions): Promise<Certificate>;
}

const days = '30';
const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

/** Makes one, with its files in `folder`. */
export async function createAuthority(folder: string): Promise<CertificateAuthority> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const file = (name: string) => path.join(folder, name);
  const [certFile, keyFile] = [file('ca.crt'), file('ca.key')];
  // The machine's own settings are not asked.
  await writeFile(file('openssl.cnf'), configuration);
  const openssl = async (command: string, ...args: string[]) => {
    await promisify(execFile)('openssl', [command, ...args], {
      env: { ...process.env, OPENSSL_CONF: file('openssl.cnf') },
    });
  };
  await openssl(
    'req',
    ...['-x509', ...newKey, '-keyout', keyFile, '-out', certFile],
    ...['-subj', '/CN=test', '-extensions', 'authority', '-days', days],
  );
  let issued = 0;
  return {
    certFile,
    cert: await readFile(certFile, 'utf8'),
    async issue({ commonName, organizations = [], hosts = [] }) {
      issued += 1;
      const base = file(`${issued}`);
      const files = {
        certFile: `${base}.crt`,
        keyFile: `${base}.key`,
        request: `${base}.csr`,
        extensions: `${base}.ext`,
      };
      const names = hosts.map((host) => `${/^[\d.]+$|:/.test(host) ? 'IP' : 'DNS'}:${host}`);
      const alternative = names.length > 0 ? `subjectAltName = ${names.join(', ')}\n` : '';
      await writeFile(files.extensions, `${leafExtensions}${alternative}`);
      const subject = [...organizations.map((name) => `/O=${escapeName(name)}`), `/CN=${escapeName(commonName)}`].join(
        '',
      );
      await openssl('req', ...newKey, '-keyout', files.keyFile, '-out', files.request, '-subj', subject);
      await openssl(
        'x509',
        ...['-req', '-in', files.request, '-out', files.certFile, '-CA', certFile, '-CAkey', keyFile],
        ...['-set_serial', `0x${randomBytes(16).toString('hex')}`, '-extfile', files.extensions, '-days', days],
      );
      const [cert, key] = await Promise.all([readFile(files.certFile, 'utf8'), readFile(files.keyFile, 'utf8')]);
      return { certFile: files.certFile, keyFile: files.keyFile, cert, key };
    },
  };
}

const configuration = `[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
`;
const leafExtensions = `basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
authorityKeyIdentifier = keyid
`;

/** In openssl's way to write a subject. */
const escapeName = (text: string) => text.replaceAll(/[\\/+=]/g, String.raw`\$&`);
