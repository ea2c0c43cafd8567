import { readFile, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { accessError, anonymous, type ClusterAccess, fileProblem } from './access.ts';
import { type KubeconfigFile, maxKubeconfigBytes, parseKubeconfig } from './kubeconfig.ts';

export interface FindAccessOptions {
  /** Path of a kubeconfig. Empty: the pod's service account where the agent runs in one, else KUBECONFIG, else ~/.kube/config. */
  readonly kubeconfig: string;
  /** Empty: the kubeconfig's current one. When it is set, the pod's service account is not meant. */
  readonly context: string;
  /** Default: the process's. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Where a pod has its service account. Default: where Kubernetes mounts it. */
  readonly serviceAccountDir?: string;
}

const mountedServiceAccount = '/var/run/secrets/kubernetes.io/serviceaccount';

/** Finds the way into the cluster. What was parsed before is used again as long as the files say the same. Rejects with ClusterError. */
export class AccessFinder {
  readonly #options: FindAccessOptions;
  #files: readonly KubeconfigFile[] = [];
  #parsed: ClusterAccess | undefined;

  constructor(options: FindAccessOptions) {
    this.#options = options;
  }

  async find(): Promise<ClusterAccess> {
    const { kubeconfig, context, env = process.env } = this.#options;
    if (kubeconfig) return await this.#read([kubeconfig], true);
    const inCluster = context ? undefined : await this.#serviceAccount();
    if (inCluster) return inCluster;
    const listed = (env.KUBECONFIG ?? '').split(delimiter).filter(Boolean);
    if (listed.length > 0) return await this.#read(listed, listed.length === 1);
    const fallback = join(env.HOME || homedir(), '.kube', 'config');
    if (await isThere(fallback)) return await this.#read([fallback], true);
    throw accessError(
      `no way into the cluster is known: there is no service account (${this.#serviceAccountDir}), KUBECONFIG is not set, and there is no ${fallback}; say --kubeconfig FILE`,
    );
  }

  get #serviceAccountDir(): string {
    return this.#options.serviceAccountDir ?? mountedServiceAccount;
  }

  async #serviceAccount(): Promise<ClusterAccess | undefined> {
    const { env = process.env } = this.#options;
    const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = env;
    const token = join(this.#serviceAccountDir, 'token');
    if (!host || !port || !(await isThere(token))) return undefined;
    return {
      source: `the service account in ${this.#serviceAccountDir}`,
      server: `https://${host.includes(':') ? `[${host}]` : host}:${port}`,
      ca: { file: join(this.#serviceAccountDir, 'ca.crt') },
      skipTlsVerify: false,
      tlsServerName: undefined,
      proxyUrl: undefined,
      user: { ...anonymous, token: { file: token } },
    };
  }

  /** @param all Whether each must be there; of a list, as in KUBECONFIG, one is enough. */
  async #read(paths: readonly string[], all: boolean): Promise<ClusterAccess> {
    const files: KubeconfigFile[] = [];
    for (const path of paths) {
      if (!all && !(await isThere(path))) continue;
      files.push({ path, text: await readText(path) });
    }
    if (files.length === 0) throw accessError(`KUBECONFIG: none of ${paths.join(', ')} is there`);
    const same =
      files.length === this.#files.length &&
      files.every(({ path, text }, i) => path === this.#files[i]?.path && text === this.#files[i]?.text);
    if (!same || !this.#parsed) {
      this.#parsed = parseKubeconfig(files, this.#options.context);
      this.#files = files;
    }
    return this.#parsed;
  }
}

async function readText(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    if (size > maxKubeconfigBytes) throw accessError(`${path}: is no kubeconfig: ${size} bytes are too many`);
    return new TextDecoder('utf-8', { fatal: true }).decode(await readFile(path));
  } catch (error) {
    if (error instanceof TypeError) throw accessError(`${path}: is no kubeconfig: it is not UTF-8`);
    if ((error as Error).name === 'ClusterError') throw error;
    throw accessError(`cannot read the kubeconfig ${path}: ${fileProblem(error)}`, error);
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch {
    return false;
  }
}
