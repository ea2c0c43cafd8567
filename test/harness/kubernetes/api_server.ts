import { generateKeyPairSync } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { freePort } from '../free_port.ts';
import { Program } from '../program.ts';
import { type ApiClient, apiClient } from './api_client.ts';
import type { CertificateAuthority } from './certificates.ts';
import { untilProgram } from './until_program.ts';

/** Flags of a program of Kubernetes, without their dashes. */
export type Flags = Readonly<Record<string, string>>;

export interface ApiServerOptions {
  readonly binary: string;
  readonly authority: CertificateAuthority;
  readonly etcdUrl: string;
  /** For its files; removed by the caller. */
  readonly folder: string;
  /** Over the fixture's own. */
  readonly flags: Flags;
}

/** A kube-apiserver on 127.0.0.1, with RBAC, on a port that stays the same over restarts. */
export interface ApiServer extends Disposable {
  /** `https://127.0.0.1:PORT`. */
  readonly url: string;
  /** What runs now. */
  readonly program: Program;
  /** As a member of system:masters, who may do everything. */
  readonly admin: ApiClient;
  /** The key that service account tokens are signed with, PEM. */
  readonly serviceAccountKeyFile: string;
  /** Starts it after it ended. Resolves when it is ready. `flags`: from now on, over the fixture's own; default: as before. */
  start(flags?: Flags): Promise<void>;
}

/** Makes one that does not run yet. */
export async function createApiServer(options: ApiServerOptions): Promise<ApiServer> {
  const { binary, authority, etcdUrl, folder } = options;
  const file = (name: string) => path.join(folder, name);
  const port = await freePort();
  const url = `https://127.0.0.1:${port}`;
  const [serving, toKubelets, adminCertificate] = await Promise.all([
    authority.issue({ commonName: 'kube-apiserver', hosts: ['127.0.0.1', 'localhost', 'kubernetes.default.svc'] }),
    authority.issue({ commonName: 'kube-apiserver-kubelet-client', organizations: ['system:masters'] }),
    authority.issue({ commonName: 'fixture', organizations: ['system:masters'] }),
  ]);
  const signing = generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    privateKeyEncoding: { type: 'sec1', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  });
  const serviceAccountKeyFile = file('service-account.key');
  await Promise.all([
    writeFile(serviceAccountKeyFile, signing.privateKey, { mode: 0o600 }),
    writeFile(file('service-account.pub'), signing.publicKey),
  ]);
  const own: Flags = {
    'etcd-servers': etcdUrl,
    'bind-address': '127.0.0.1',
    'secure-port': String(port),
    'advertise-address': '127.0.0.1',
    // An endpoint on a loopback address is none.
    'endpoint-reconciler-type': 'none',
    'cert-dir': file('apiserver'),
    'tls-cert-file': serving.certFile,
    'tls-private-key-file': serving.keyFile,
    'client-ca-file': authority.certFile,
    'service-account-issuer': 'https://kubernetes.default.svc',
    'service-account-key-file': file('service-account.pub'),
    'service-account-signing-key-file': serviceAccountKeyFile,
    'authorization-mode': 'Node,RBAC',
    'enable-admission-plugins': 'NodeRestriction',
    'service-cluster-ip-range': '10.96.0.0/16',
    // Nothing listens there. The ports that tests ask for by their number are not to be those that the cluster has chosen for others.
    'service-node-port-range': '1024-65535',
    'allow-privileged': 'true',
    'kubelet-client-certificate': toKubelets.certFile,
    'kubelet-client-key': toKubelets.keyFile,
    'kubelet-certificate-authority': authority.certFile,
    'kubelet-preferred-address-types': 'InternalIP',
  };
  const admin = apiClient({ url, ca: authority.cert, cert: adminCertificate.cert, key: adminCertificate.key });
  let flags = options.flags;
  const build = () => new Program({ command: [binary, ...flagArguments({ ...own, ...flags })] });
  let program = build();
  return {
    url,
    get program() {
      return program;
    },
    admin,
    serviceAccountKeyFile,
    async start(given) {
      if (program.running) throw new Error('the API server runs already');
      if (given) {
        flags = given;
        program = build();
      }
      await program.start();
      await untilReady(program, admin);
    },
    [Symbol.dispose]: () => admin[Symbol.dispose](),
  };
}

/** As Kubernetes' programs take them. */
export const flagArguments = (flags: Flags): string[] =>
  Object.entries(flags).map(([name, value]) => `--${name}=${value}`);

/** Its roles are there then, and namespace `default`. */
async function untilReady(program: Program, admin: ApiClient): Promise<void> {
  await untilProgram('the API server is ready', program, async () => {
    const answers = await Promise.all(
      ['/readyz', '/api/v1/namespaces/default'].map((path) => admin.request('GET', path, { timeoutMs: 5_000 })),
    );
    const late = answers.find(({ status }) => status !== 200);
    if (late) throw new Error(`it says ${late.status} ${JSON.stringify(late.body).slice(0, 500)}`);
    return true;
  });
}
