import { dirname, resolve } from 'node:path';
import { type Cluster, type Context, newClusters, newContexts } from '@kubernetes/client-node/dist/config_types.js';
import { LineCounter, parseDocument } from 'yaml';
import {
  accessError,
  anonymous,
  type ClusterAccess,
  type ClusterUser,
  type ExecPlugin,
  type Material,
} from './access.ts';

/** A file's path and what is in it. */
export interface KubeconfigFile {
  readonly path: string;
  readonly text: string;
}

/** No kubeconfig is larger; a core dump may be. */
export const maxKubeconfigBytes = 4 * 1024 * 1024;

type Fields = Readonly<Record<string, unknown>>;

/** A named part, and where it stands. */
interface Entry {
  readonly file: string;
  /** As `clusters[0]`. */
  readonly path: string;
  readonly value: Fields;
}

/**
 * What a context says, of one or several files of which the first that has a name wins (as kubectl does). Throws ClusterError
 * (`unauthorized`) that names the file and the field; what stands in a field is not repeated, as it may be a secret.
 *
 * @param contextName Empty: the current context.
 */
export function parseKubeconfig(files: readonly KubeconfigFile[], contextName = ''): ClusterAccess {
  const documents = files.map((file) => ({ file: file.path, fields: parse(file) }));
  const source = `the kubeconfig ${files.map((file) => file.path).join(' and ')}`;
  const wanted =
    contextName || documents.map(({ file, fields }) => text(file, '', fields, 'current-context')).find(Boolean);
  if (!wanted) throw accessError(`${source}: current-context is not set, and no context was chosen`);

  const find = (list: 'contexts' | 'clusters' | 'users', name: string, usedBy: string): Entry => {
    const entries = documents.flatMap(({ file, fields }) => entriesOf(file, fields, list));
    const found = entries.find(({ value }) => value.name === name);
    if (found) return found;
    const names = entries.flatMap(({ value }) => (typeof value.name === 'string' ? [value.name] : []));
    throw accessError(
      `${source}: ${usedBy} ${JSON.stringify(name)}, which is not among its ${list} (${names.join(', ') || 'there are none'})`,
    );
  };
  const contextEntry = find('contexts', wanted, contextName ? 'asked for context' : 'current-context is');
  const context = read<Context>(contextEntry, 'context', ['cluster', 'user', 'namespace'], newContexts);
  const clusterEntry = find('clusters', context.cluster, `context ${JSON.stringify(wanted)} has cluster`);
  const cluster = read<Cluster>(
    clusterEntry,
    'cluster',
    ['server', 'certificate-authority', 'certificate-authority-data', 'tls-server-name', 'proxy-url'],
    newClusters,
  );
  const at = (field: string) => `${clusterEntry.file}: ${clusterEntry.path}.cluster.${field}`;
  const skip = (clusterEntry.value.cluster as Fields)['insecure-skip-tls-verify'] ?? false;
  if (typeof skip !== 'boolean') throw accessError(`${at('insecure-skip-tls-verify')}: expected true or false`);
  return {
    source,
    server: checkServer(at('server'), cluster.server),
    ca: cluster.caData
      ? { text: decode(at('certificate-authority-data'), cluster.caData) }
      : fileMaterial(clusterEntry.file, cluster.caFile),
    skipTlsVerify: skip,
    tlsServerName: cluster.tlsServerName || undefined,
    proxyUrl: cluster.proxyUrl ? checkProxy(at('proxy-url'), cluster.proxyUrl) : undefined,
    user: context.user
      ? readUser(find('users', context.user, `context ${JSON.stringify(wanted)} has user`))
      : anonymous,
  };
}

function parse({ path, text: content }: KubeconfigFile): Fields {
  const lines = new LineCounter();
  // Pretty errors would quote the line, and with it perhaps a secret; so the parser's messages are not passed on either, but its code.
  const document = parseDocument(content, { lineCounter: lines, prettyErrors: false, logLevel: 'silent' });
  const [error] = document.errors;
  if (error) {
    const { line, col } = lines.linePos(error.pos[0]);
    throw accessError(`${path}: line ${line}, column ${col} is no YAML (${error.code})`);
  }
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: 100 });
  } catch {
    throw accessError(`${path}: is no kubeconfig: its aliases cannot be resolved`);
  }
  if (!isFields(value)) throw accessError(`${path}: is no kubeconfig: expected a YAML mapping`);
  if (value.kind !== undefined && value.kind !== 'Config') throw accessError(`${path}: kind: expected Config`);
  return value;
}

function entriesOf(file: string, fields: Fields, list: string): Entry[] {
  const value = fields[list];
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw accessError(`${file}: ${list}: expected a list`);
  return value.map((one: unknown, index) => {
    const path = `${list}[${index}]`;
    if (!isFields(one)) throw accessError(`${file}: ${path}: expected a mapping with name`);
    return { file, path, value: one };
  });
}

/** One entry in the client library's own terms. It takes whatever types come, so they are looked at before. */
function read<T>(
  { file, path, value }: Entry,
  part: string,
  texts: readonly string[],
  convert: (a: unknown) => T[],
): T {
  const inner = value[part];
  if (!isFields(inner)) throw accessError(`${file}: ${path}.${part}: expected a mapping`);
  for (const field of texts) text(file, `${path}.${part}.`, inner, field);
  let found: T | undefined;
  try {
    found = convert([value])[0];
  } catch (error) {
    // As `clusters[0].cluster.server is missing`: the index is of the list that it was given.
    throw accessError(`${file}: ${(error as Error).message.replace(/^\w+\[0\]/, path)}`);
  }
  if (found === undefined) throw accessError(`${file}: ${path}.${part}: cannot be read`);
  return found;
}

function readUser({ file, path, value }: Entry): ClusterUser {
  const user = value.user ?? {};
  if (!isFields(user)) throw accessError(`${file}: ${path}.user: expected a mapping`);
  const prefix = `${path}.user.`;
  const of = (field: string) => text(file, prefix, user, field);
  if (user['auth-provider']) {
    throw accessError(
      `${file}: ${prefix}auth-provider: was taken out of Kubernetes; use exec with the provider's plugin`,
    );
  }
  const material = (data: string, name: string): Material | undefined => {
    const given = of(data);
    return given ? { text: decode(`${file}: ${prefix}${data}`, given) } : fileMaterial(file, of(name));
  };
  const certificate = material('client-certificate-data', 'client-certificate');
  const key = material('client-key-data', 'client-key');
  if (!certificate !== !key) {
    throw accessError(`${file}: ${path}.user: client-certificate and client-key go together, and only one is set`);
  }
  const token = of('token');
  const username = of('username');
  return {
    certificate,
    key,
    // The file wins, as it does for kubectl.
    token: fileMaterial(file, of('tokenFile')) ?? (token ? { text: token } : undefined),
    basic: username ? { username, password: of('password') ?? '' } : undefined,
    exec: user.exec ? readExec(file, `${prefix}exec`, user.exec) : undefined,
    impersonate: impersonation(file, prefix, user),
  };
}

function impersonation(file: string, prefix: string, user: Fields): Record<string, string | string[]> {
  const as = text(file, prefix, user, 'as');
  const groups = strings(file, `${prefix}as-groups`, user['as-groups']);
  return { ...(as && { 'Impersonate-User': as }), ...(groups.length > 0 && { 'Impersonate-Group': groups }) };
}

function readExec(file: string, path: string, value: unknown): ExecPlugin {
  if (!isFields(value)) throw accessError(`${file}: ${path}: expected a mapping`);
  const command = text(file, `${path}.`, value, 'command');
  if (!command) throw accessError(`${file}: ${path}.command: is missing`);
  const apiVersion = text(file, `${path}.`, value, 'apiVersion') || 'client.authentication.k8s.io/v1beta1';
  if (!/^client\.authentication\.k8s\.io\/v1(alpha1|beta1)?$/.test(apiVersion)) {
    throw accessError(`${file}: ${path}.apiVersion: expected client.authentication.k8s.io/v1 or v1beta1`);
  }
  if (value.interactiveMode === 'Always') {
    throw accessError(
      `${file}: ${path}.interactiveMode: the agent has no terminal, so a plugin that needs one cannot be used`,
    );
  }
  const env: Record<string, string> = {};
  if (value.env !== undefined && value.env !== null) {
    if (!Array.isArray(value.env)) throw accessError(`${file}: ${path}.env: expected a list`);
    value.env.forEach((one: unknown, index) => {
      const at = `${path}.env[${index}]`;
      if (!isFields(one)) throw accessError(`${file}: ${at}: expected a mapping with name and value`);
      const name = text(file, `${at}.`, one, 'name');
      if (!name) throw accessError(`${file}: ${at}.name: is missing`);
      env[name] = text(file, `${at}.`, one, 'value') ?? '';
    });
  }
  return {
    apiVersion,
    // A path with a slash is relative to the kubeconfig; a bare name is looked for in PATH.
    command: command.includes('/') ? resolve(dirname(file), command) : command,
    args: strings(file, `${path}.args`, value.args),
    env,
    installHint: text(file, `${path}.`, value, 'installHint') ?? '',
    provideClusterInfo: value.provideClusterInfo === true,
    folder: dirname(file),
  };
}

/** Paths are relative to the file that they stand in. */
const fileMaterial = (file: string, path: string | undefined): Material | undefined =>
  path ? { file: resolve(dirname(file), path) } : undefined;

function text(file: string, prefix: string, fields: Fields, field: string): string | undefined {
  const value = fields[field];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') throw accessError(`${file}: ${prefix}${field}: expected text (in quotes, if need be)`);
  return value;
}

function strings(file: string, path: string, value: unknown): string[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value) || !value.every((one) => typeof one === 'string')) {
    throw accessError(`${file}: ${path}: expected a list of text`);
  }
  return value;
}

function decode(at: string, data: string): string {
  const compact = data.replaceAll(/\s/g, '');
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(compact)) throw accessError(`${at}: expected base64`);
  const decoded = Buffer.from(compact, 'base64').toString('latin1');
  if (!decoded.includes('-----BEGIN ')) throw accessError(`${at}: expected PEM, in base64`);
  return decoded;
}

function checkServer(at: string, value: string): string {
  const url = URL.parse(value);
  if (!url || !/^https?:$/.test(url.protocol) || url.username || url.password || url.search || url.hash) {
    throw accessError(`${at}: expected https://HOST:PORT`);
  }
  return url.href.replace(/\/+$/, '');
}

function checkProxy(at: string, value: string): string {
  const url = URL.parse(value);
  if (!url || !/^https?:$/.test(url.protocol))
    throw accessError(`${at}: expected http://HOST:PORT or https://HOST:PORT`);
  return url.href;
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
