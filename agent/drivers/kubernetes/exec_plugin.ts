import { spawn } from 'node:child_process';
import { accessError, type ClusterAccess, type ExecPlugin } from './access.ts';

/** What a plugin said. */
export interface PluginCredentials {
  readonly token: string | undefined;
  /** PEM; both or none. */
  readonly certificate: string | undefined;
  readonly key: string | undefined;
  /** In milliseconds since 1970. Undefined: they are good until the cluster refuses them. */
  readonly expiresMs: number | undefined;
}

export interface RunPluginOptions {
  readonly plugin: ExecPlugin;
  /** The cluster, for a plugin that wants to know; its CA as PEM. */
  readonly cluster: Pick<ClusterAccess, 'server' | 'tlsServerName' | 'skipTlsVerify' | 'proxyUrl'> & {
    readonly ca: string | undefined;
  };
  readonly timeoutMs: number;
}

const maxOutputBytes = 1024 * 1024;
/** Of what a plugin says on stderr, the end is passed on. */
const maxErrorChars = 1_000;

/**
 * Runs a credential plugin (client.authentication.k8s.io, exec). The client library's own runs without a time-out and without
 * KUBERNETES_EXEC_INFO, which the plugins of the large clouds insist on.
 *
 * Rejects with ClusterError (`unauthorized`): what was run, how it ended, and the end of its stderr; never its stdout, which holds the secret.
 */
export async function runPlugin({ plugin, cluster, timeoutMs }: RunPluginOptions): Promise<PluginCredentials> {
  const { command, args, apiVersion } = plugin;
  const name = `the credential plugin ${command}`;
  const info = {
    apiVersion,
    kind: 'ExecCredential',
    spec: {
      interactive: false,
      ...(plugin.provideClusterInfo && {
        cluster: {
          server: cluster.server,
          ...(cluster.tlsServerName && { 'tls-server-name': cluster.tlsServerName }),
          ...(cluster.skipTlsVerify && { 'insecure-skip-tls-verify': true }),
          ...(cluster.ca && { 'certificate-authority-data': Buffer.from(cluster.ca, 'latin1').toString('base64') }),
          ...(cluster.proxyUrl && { 'proxy-url': cluster.proxyUrl }),
        },
      }),
    },
  };
  const output = await new Promise<string>((resolve, reject) => {
    const child = spawn(command, args, {
      env: { ...process.env, ...plugin.env, KUBERNETES_EXEC_INFO: JSON.stringify(info) },
      stdio: ['ignore', 'pipe', 'pipe'],
      // A group of its own, so that what it starts can be ended with it.
      detached: true,
    });
    let stdout = '';
    let stderr = '';
    let problem = '';
    const kill = (why: string) => {
      problem ||= why;
      if (child.pid !== undefined) endGroup(child.pid);
      child.stdout.destroy();
      child.stderr.destroy();
    };
    const timer = setTimeout(() => kill(`did not end within ${timeoutMs / 1000} s`), timeoutMs);
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
      if (stdout.length > maxOutputBytes) kill('printed more than a megabyte');
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-maxErrorChars);
    });
    child.once('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      const why = error.code === 'ENOENT' ? 'there is no such program' : (error.code ?? error.message);
      const hint = plugin.installHint ? `; ${plugin.installHint}` : '';
      reject(accessError(`${name} could not be run: ${why}${hint}`, error));
    });
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      if (!problem && code === 0) return resolve(stdout);
      const how = problem || (signal ? `was ended by ${signal}` : `ended with ${code}`);
      reject(accessError(`${name} ${how}${stderr.trim() ? `: ${stderr.trim()}` : ''}`));
    });
  });
  return read(name, apiVersion, output);
}

function endGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It ended by itself.
  }
}

function read(name: string, apiVersion: string, output: string): PluginCredentials {
  let value: unknown;
  try {
    value = JSON.parse(output);
  } catch {
    // The parser's message would quote a part of it.
    throw accessError(`${name} printed something that is no JSON`);
  }
  const credential = fields(value);
  if (credential?.kind !== 'ExecCredential') throw accessError(`${name}: kind: expected ExecCredential`);
  if (credential.apiVersion !== apiVersion) throw accessError(`${name}: apiVersion: expected ${apiVersion}`);
  const status = fields(credential.status);
  if (!status) throw accessError(`${name}: status: is missing`);
  const text = (field: string): string | undefined => {
    const one = status[field];
    if (one === undefined || one === null || one === '') return undefined;
    if (typeof one !== 'string') throw accessError(`${name}: status.${field}: expected text`);
    return one;
  };
  const token = text('token');
  const [certificate, key] = [text('clientCertificateData'), text('clientKeyData')];
  if (!token && !certificate && !key) {
    throw accessError(`${name}: status: has neither token nor clientCertificateData`);
  }
  if (!certificate !== !key) {
    throw accessError(`${name}: status: clientCertificateData and clientKeyData go together, and only one is set`);
  }
  const expiry = text('expirationTimestamp');
  const expiresMs = expiry === undefined ? undefined : Date.parse(expiry);
  if (Number.isNaN(expiresMs))
    throw accessError(`${name}: status.expirationTimestamp: expected a time as RFC 3339 has it`);
  return { token, certificate, key, expiresMs };
}

const fields = (value: unknown): Record<string, unknown> | undefined =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
