import { mkdir, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { ApiClient } from './api_client.ts';

/** The files that a pod of a service account finds in /var/run/secrets/kubernetes.io/serviceaccount. */
export interface ServiceAccountFiles {
  /** Holds `token`, `ca.crt` and `namespace`. */
  readonly folder: string;
  readonly tokenFile: string;
  readonly caFile: string;
  /** `system:serviceaccount:NAMESPACE:NAME`: for role bindings, and in audit events. */
  readonly user: string;
  /** Puts a new token in the place of the old one, which is refused from then on; the API server may trust it 10 s longer, from memory. */
  rotate(): Promise<void>;
}

export interface ServiceAccountOptions {
  readonly admin: ApiClient;
  /** PEM. */
  readonly ca: string;
  /** To be made. */
  readonly folder: string;
  readonly namespace: string;
  readonly name: string;
}

/** Makes the namespace and the account where they are not there. Tokens are valid for an hour. */
export async function serviceAccountFiles(options: ServiceAccountOptions): Promise<ServiceAccountFiles> {
  const { admin, ca, folder, namespace, name } = options;
  const namespacePath = `/api/v1/namespaces/${namespace}`;
  const create = async <T>(where: string, body: object): Promise<T | undefined> => {
    const answer = await admin.request<T>('POST', where, { body });
    if (answer.status === 409) return undefined;
    if (answer.status >= 300) throw new Error(`POST ${where}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body;
  };
  await create('/api/v1/namespaces', { metadata: { name: namespace } });
  await create(`${namespacePath}/serviceaccounts`, { metadata: { name } });

  /** A token is as good as the secret that it is bound to: with that it goes. */
  let bound: string | undefined;
  const newToken = async (): Promise<string> => {
    const secret = await create<{ metadata: { name: string; uid: string } }>(`${namespacePath}/secrets`, {
      metadata: { generateName: `${name}-token-` },
    });
    if (!secret) throw new Error('a generated name is taken');
    const answer = await create<{ status: { token: string } }>(`${namespacePath}/serviceaccounts/${name}/token`, {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'TokenRequest',
      spec: {
        audiences: [],
        expirationSeconds: 3_600,
        boundObjectRef: { kind: 'Secret', apiVersion: 'v1', name: secret.metadata.name, uid: secret.metadata.uid },
      },
    });
    if (bound) await admin.request('DELETE', `${namespacePath}/secrets/${bound}`);
    bound = secret.metadata.name;
    return answer?.status.token ?? '';
  };
  const file = (base: string) => path.join(folder, base);
  const rotate = async () => {
    // As kubelet does: a reader finds the old one or the new one.
    await writeFile(file('token.new'), await newToken(), { mode: 0o600 });
    await rename(file('token.new'), file('token'));
  };
  await mkdir(folder, { recursive: true });
  await Promise.all([writeFile(file('ca.crt'), ca), writeFile(file('namespace'), namespace), rotate()]);
  return {
    folder,
    tokenFile: file('token'),
    caFile: file('ca.crt'),
    user: `system:serviceaccount:${namespace}:${name}`,
    rotate,
  };
}
