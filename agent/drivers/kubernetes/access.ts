import { ClusterError } from '../cluster_error.ts';

/** Where a cluster's API is, and as whom to go there: what a kubeconfig's context says. Files are read when they are needed, not here. */
export interface ClusterAccess {
  /** For messages: `the kubeconfig /root/.kube/config`. */
  readonly source: string;
  /** Without a slash at the end; may have a path. */
  readonly server: string;
  /** Of the API server's certificate. Undefined: what the system trusts. */
  readonly ca: Material | undefined;
  readonly skipTlsVerify: boolean;
  /** Name that the API server's certificate is checked for, where it is not the host's. */
  readonly tlsServerName: string | undefined;
  /** `http://…` or `https://…`. */
  readonly proxyUrl: string | undefined;
  readonly user: ClusterUser;
}

/** What somebody proves who they are with. Any of it may be unset; nothing at all is an anonymous user. */
export interface ClusterUser {
  readonly certificate: Material | undefined;
  readonly key: Material | undefined;
  readonly token: Material | undefined;
  readonly basic: { readonly username: string; readonly password: string } | undefined;
  readonly exec: ExecPlugin | undefined;
  /** Headers for acting as another. */
  readonly impersonate: Readonly<Record<string, string | string[]>>;
}

/** A secret or a certificate, as text, or as the path of a file that holds it and may be replaced at any time. */
export type Material =
  | { readonly text: string; readonly file?: undefined }
  | { readonly file: string; readonly text?: undefined };

/** A program that prints credentials (client.authentication.k8s.io). */
export interface ExecPlugin {
  readonly apiVersion: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly installHint: string;
  /** Whether to tell it about the cluster. */
  readonly provideClusterInfo: boolean;
  /** Folder of the kubeconfig. */
  readonly folder: string;
}

export const anonymous: ClusterUser = {
  certificate: undefined,
  key: undefined,
  token: undefined,
  basic: undefined,
  exec: undefined,
  impersonate: {},
};

/** There is no way into the cluster as things are on this machine. The message names the file and the field, and never what is in it. */
export function accessError(message: string, cause?: unknown): ClusterError {
  return new ClusterError('unauthorized', message, { cause, reason: 'Credentials' });
}

/** What the operating system says of a file, in words. */
export function fileProblem(error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'ENOENT') return 'there is no such file';
  if (code === 'EACCES' || code === 'EPERM') return 'no right to read it';
  if (code === 'EISDIR') return 'it is a folder';
  return code ?? (error as Error).message;
}
