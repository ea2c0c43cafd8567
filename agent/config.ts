import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { parseFingerprint } from '../proto/fingerprint.ts';
import { type LogLevel, logLevels } from './log.ts';
import { crossesNetworkInClear } from './plaintext.ts';

/** Everything that the agent can be told. Read once, checked, frozen. */
export interface AgentConfig {
  /** Where the agent keeps its key, its credentials and its desired state. */
  readonly dataDir: string;
  /** Path of the Docker engine's socket. */
  readonly dockerSocket: string;
  /** On a Kubernetes bay: path of a kubeconfig. Empty: the pod's service account, KUBECONFIG, or ~/.kube/config, in this order. */
  readonly kubeconfig: string;
  /** The kubeconfig's context. Empty: its current one. */
  readonly kubeContext: string;
  /** Namespace of the Lease by which several masters agree on who leads: the same for all of them. Made where there is none. */
  readonly leaseNamespace: string;
  /** URL of the control plane from now on. Undefined: the one that the agent keeps since it enrolled. */
  readonly server?: string;
  readonly logLevel: LogLevel;
  /** Path of the node's policy. Undefined: /etc/baykeeper/agent.yaml, or agent.yaml in `dataDir`, if there is one. */
  readonly policyFile?: string;
}

/** What is needed to enrol, besides. */
export interface JoinConfig {
  /** `https://HOST:PORT` of the control plane; `http://…` where it is on this machine. */
  readonly server: string;
  /** `ID.SECRET`. */
  readonly token: string;
  /** The bay that is meant. Empty: whichever the token is for. */
  readonly bay: string;
  readonly nodeName: string;
  /** Of the control plane's CA, which is then asked of the server itself. Undefined: whom the system trusts. */
  readonly caFingerprint?: string;
  /** A PEM file with the CA, instead. */
  readonly caFile?: string;
}

export const defaultDataDir = '/var/lib/baykeeper-agent';
export const defaultDockerSocket = '/var/run/docker.sock';
export const defaultLeaseNamespace = 'baykeeper';

/** A setting that cannot be. The message names it and what was expected. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/** Flags as they come from the command line: unset ones are undefined. */
export type Flags = Readonly<Record<string, string | boolean | undefined>>;
export type Environment = Readonly<Record<string, string | undefined>>;

interface Setting {
  readonly value: string;
  /** As the user knows it. */
  readonly source: string;
}

/** A flag wins over the environment's `BAYKEEPER_AGENT_…`, which wins over the default. */
function setting(flags: Flags, env: Environment, flag: string, fallback: string): Setting {
  const variable = `BAYKEEPER_AGENT_${flag.replaceAll(/[A-Z]/g, (c) => `_${c}`).toUpperCase()}`;
  const given = flags[flag];
  if (typeof given === 'string')
    return { value: given, source: `--${flag.replaceAll(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}` };
  const fromEnv = env[variable];
  if (fromEnv !== undefined && fromEnv !== '') return { value: fromEnv, source: variable };
  return { value: fallback, source: variable };
}

/** Throws ConfigError. */
export function readConfig(flags: Flags, env: Environment): AgentConfig {
  const data = setting(flags, env, 'data', defaultDataDir);
  if (data.value === '' || data.value.includes('\0')) throw new ConfigError(`${data.source}: expected a folder`);
  const docker = setting(flags, env, 'docker', defaultDockerSocket);
  const dockerSocket = docker.value.replace(/^unix:\/\//, '');
  if (!dockerSocket.startsWith('/') || dockerSocket.includes('\0')) {
    throw new ConfigError(
      `${docker.source}: expected the absolute path of a socket, got ${JSON.stringify(docker.value)}`,
    );
  }
  const level = setting(flags, env, 'logLevel', 'info');
  const logLevel = logLevels.find((l) => l === level.value);
  if (!logLevel) {
    throw new ConfigError(
      `${level.source}: expected one of ${logLevels.join(', ')}, got ${JSON.stringify(level.value)}`,
    );
  }
  const kubeconfig = setting(flags, env, 'kubeconfig', '');
  if (kubeconfig.value.includes('\0')) throw new ConfigError(`${kubeconfig.source}: expected the path of a file`);
  const leaseNamespace = setting(flags, env, 'leaseNamespace', defaultLeaseNamespace);
  if (leaseNamespace.value.length > 63 || !/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/.test(leaseNamespace.value)) {
    throw new ConfigError(
      `${leaseNamespace.source}: expected the name of a namespace, got ${JSON.stringify(leaseNamespace.value)}`,
    );
  }
  const server = setting(flags, env, 'server', '');
  const policy = setting(flags, env, 'policy', '');
  if (policy.value.includes('\0')) throw new ConfigError(`${policy.source}: expected the path of a file`);
  return Object.freeze({
    dataDir: resolve(data.value),
    dockerSocket,
    kubeconfig: kubeconfig.value === '' ? '' : resolve(kubeconfig.value),
    kubeContext: setting(flags, env, 'kubeContext', '').value,
    leaseNamespace: leaseNamespace.value,
    ...(server.value === '' ? {} : { server: serverUrl(server) }),
    ...(policy.value === '' ? {} : { policyFile: resolve(policy.value) }),
    logLevel,
  });
}

/** Throws ConfigError. */
export function readJoinConfig(flags: Flags, env: Environment): JoinConfig {
  const server = setting(flags, env, 'server', '');
  if (server.value === '') throw new ConfigError('--server is missing: the URL of the control plane');
  const token = setting(flags, env, 'token', '');
  if (token.value === '')
    throw new ConfigError('BAYKEEPER_AGENT_TOKEN or --token is missing: bayctl bay join-command prints one');
  if (!/^[^.\s]+\.[^.\s]+$/.test(token.value) || token.value.length > 256) {
    throw new ConfigError(
      `${token.source}: expected a token of the form ID.SECRET, as bayctl bay join-command prints it`,
    );
  }
  const bay = setting(flags, env, 'bay', '');
  if (bay.value.length > 63) throw new ConfigError(`${bay.source}: a bay's name has at most 63 characters`);
  const name = setting(flags, env, 'name', nodeNameOf(hostname()));
  if (name.value.length > 56 || !/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(name.value)) {
    throw new ConfigError(
      `${name.source}: expected up to 56 small letters, digits, - and ., beginning and ending with a letter or digit, got ${JSON.stringify(name.value)}`,
    );
  }
  const url = serverUrl(server);
  return Object.freeze({
    server: url,
    token: token.value,
    bay: bay.value,
    nodeName: name.value,
    ...authority(flags, env, url),
  });
}

function authority(flags: Flags, env: Environment, server: string): Pick<JoinConfig, 'caFingerprint' | 'caFile'> {
  const fingerprint = setting(flags, env, 'caFingerprint', '');
  const file = setting(flags, env, 'caFile', '');
  const given = [fingerprint, file].filter(({ value }) => value !== '');
  if (given.length === 2) throw new ConfigError(`${file.source}: give it or ${fingerprint.source}, not both`);
  if (given[0] && !server.startsWith('https:')) {
    throw new ConfigError(`${given[0].source}: goes with a server of https://, and not with ${server}`);
  }
  if (file.value !== '') return { caFile: resolve(file.value) };
  if (fingerprint.value === '') return {};
  const caFingerprint = parseFingerprint(fingerprint.value);
  if (caFingerprint === undefined) {
    throw new ConfigError(`${fingerprint.source}: expected sha256: and 64 hexadecimal digits`);
  }
  return { caFingerprint };
}

function serverUrl({ value, source }: Setting): string {
  const url = URL.parse(value);
  if (!url || (url.protocol !== 'http:' && url.protocol !== 'https:') || url.username || url.search || url.hash) {
    throw new ConfigError(`${source}: expected http://HOST:PORT or https://HOST:PORT, got ${JSON.stringify(value)}`);
  }
  if (crossesNetworkInClear(value)) {
    throw new ConfigError(
      `${source}: ${url.host} is beyond this machine, and http: would have the token cross the network in the clear: expected https://`,
    );
  }
  return url.href.replace(/\/+$/, '');
}

/** The machine's name, as far as it can be the name of a node. */
function nodeNameOf(host: string): string {
  const name = host
    .toLowerCase()
    .replaceAll(/[^-a-z0-9.]/g, '-')
    .slice(0, 56)
    .replaceAll(/^[-.]+|[-.]+$/g, '');
  return name || 'node';
}
