import { writeFile } from 'node:fs/promises';

export interface KubeconfigOptions {
  /** Of the API server, or of what stands before it. */
  readonly server: string;
  /** Path of a PEM file. */
  readonly caFile: string;
  /** The stanza of a user: `{ token }`, `{ tokenFile }`, `{ exec }`, `{ 'client-certificate', 'client-key' }` … */
  readonly user: object;
  /** Default: `default`, as without one. */
  readonly namespace?: string;
}

/** Writes a kubeconfig with one cluster, user and context. */
export async function writeKubeconfig(file: string, options: KubeconfigOptions): Promise<string> {
  const { server, caFile, user, namespace } = options;
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'test', cluster: { server, 'certificate-authority': caFile } }],
    users: [{ name: 'test', user }],
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'test', ...(namespace && { namespace }) } }],
    'current-context': 'test',
  };
  // JSON is YAML.
  await writeFile(file, JSON.stringify(config, undefined, 2), { mode: 0o600 });
  return file;
}
