import { createHash, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Agent as HttpAgent } from 'node:http';
import type { Agent as HttpsAgent } from 'node:https';
import { createSecureContext } from 'node:tls';
import { accessError, type ClusterAccess, fileProblem, type Material } from './access.ts';
import { type PluginCredentials, runPlugin } from './exec_plugin.ts';
import { http, https } from './node_http.ts';

/** Everything that a request needs but the request itself. */
export interface Connection {
  /** Without a slash at the end. */
  readonly server: string;
  readonly address: ServerAddress;
  readonly agent: HttpAgent | HttpsAgent;
  /** Makes a new socket each time, for what changes the protocol and cannot be tried again when a kept one turns out to be closed. */
  readonly upgradeAgent: HttpAgent | HttpsAgent;
  /** Who we are. Secret. */
  readonly headers: Readonly<Record<string, string | string[]>>;
}

/** A server's URL in its parts, as requests take them. */
export interface ServerAddress {
  readonly protocol: string;
  /** Without brackets: they are of the URL, not of the address. */
  readonly hostname: string;
  /** Undefined: the protocol's. */
  readonly port: string | undefined;
  /** What stands before every path. Without a slash at the end. */
  readonly basePath: string;
}

export interface ConnectorOptions {
  /** Finds the way into the cluster; called again and again, as files change. */
  readonly find: () => Promise<ClusterAccess>;
  /** Milliseconds since 1970: a plugin's credentials say when they end. Default: the machine's clock. */
  readonly nowMs?: () => number;
  /** How long what was read is used without looking at the files again. Default 30 s. */
  readonly refreshMs?: number;
  /** How long a credential plugin may take. Default 30 s. */
  readonly pluginTimeoutMs?: number;
}

/** A plugin's credentials are asked for anew so long before they end... */
const expiryMarginMs = 10_000;
/** ...but not more often than this, whatever it says of their end. */
const minPluginIntervalMs = 5_000;
/** How often credentials may be read anew because the cluster refused them. */
const minRenewIntervalMs = 1_000;
/** The first of TCP's probes; the kernel takes a dead peer for dead some ten seconds later. */
const keepAliveMs = 15_000;
/** As many as objects are worked on at a time: to make one anew costs more than a request. */
const maxIdleSockets = 32;
/** API servers close what was idle for 90 s; a request that is just on its way then fails. */
const idleSocketMs = 60_000;

interface Held {
  readonly connection: Connection;
  /** Host and port. */
  readonly target: string;
  /** Digest of what the sockets were made with: others cannot be used with them. */
  readonly tlsKey: string;
  readonly key: string;
}

/**
 * Holds the credentials for a cluster and the sockets made with them. Files are read again as they change and plugins run again as what they
 * gave runs out, so a rotation goes unnoticed; what cannot be read while it is being replaced leaves in force what was read before.
 */
export class Connector {
  readonly #options: ConnectorOptions;
  readonly #nowMs: () => number;
  #held: Held | undefined;
  #freshUntilMs = 0;
  #renewedMs = Number.NEGATIVE_INFINITY;
  #loading: Promise<Connection> | undefined;
  #renewing: Promise<Connection | undefined> | undefined;
  #plugin: { readonly key: string; readonly credentials: PluginCredentials; readonly ranMs: number } | undefined;
  #closed = false;

  constructor(options: ConnectorOptions) {
    this.#options = options;
    this.#nowMs = options.nowMs ?? Date.now;
  }

  /** For messages. */
  get target(): string {
    return this.#held?.target ?? 'a place that is not known yet';
  }

  /** What `current` would resolve to without looking at any file, or undefined. */
  get fresh(): Connection | undefined {
    // A clock that was set back must not keep what has run out.
    const nowMs = this.#nowMs();
    const fresh = nowMs < this.#freshUntilMs && nowMs > this.#freshUntilMs - this.#refreshMs - 1_000;
    return fresh ? this.#held?.connection : undefined;
  }

  /** Rejects with ClusterError (`unauthorized`) when there are no credentials to be had. */
  async current(): Promise<Connection> {
    const { fresh } = this;
    if (fresh) return fresh;
    const held = this.#held;
    this.#loading ??= this.#load(false).finally(() => {
      this.#loading = undefined;
    });
    try {
      return await this.#loading;
    } catch (error) {
      if (!held) throw error;
      this.#freshUntilMs = this.#nowMs() + minPluginIntervalMs;
      return held.connection;
    }
  }

  /**
   * The cluster would not have `refused`. Resolves to what to try instead, or to undefined when everything is as it was. Rejects with ClusterError
   * when there are no credentials to be had.
   */
  async renew(refused: Connection): Promise<Connection | undefined> {
    // Many are refused at once: they all wait for the same.
    this.#renewing ??= this.#renew(refused).finally(() => {
      this.#renewing = undefined;
    });
    const connection = await this.#renewing;
    return connection === refused ? undefined : connection;
  }

  /** A connection has gone silent. Those that wait for use went the same way, and are not tried one after the other. */
  distrust(): void {
    if (this.#held) closeIdle(this.#held.connection.agent);
  }

  close(): void {
    this.#closed = true;
    this.#held?.connection.agent.destroy();
    this.#held = undefined;
  }

  async #renew(refused: Connection): Promise<Connection | undefined> {
    // One that is under way may have read the old ones.
    await this.#loading?.catch(() => undefined);
    const held = this.#held?.connection;
    if (held && held !== refused) return held;
    const sinceMs = this.#nowMs() - this.#renewedMs;
    if (sinceMs >= 0 && sinceMs < minRenewIntervalMs) return undefined;
    this.#renewedMs = this.#nowMs();
    return await this.#load(true);
  }

  get #refreshMs(): number {
    return this.#options.refreshMs ?? 30_000;
  }

  async #load(afresh: boolean): Promise<Connection> {
    const access = await this.#options.find();
    const { user } = access;
    const plain = access.server.startsWith('http:');
    const ca = access.ca && (await readPem(access.ca, `the CA of ${access.source}`));
    const plugin = user.exec && (await this.#runPlugin(access, ca, afresh));
    const certificate =
      plugin?.certificate ??
      (user.certificate && (await readPem(user.certificate, `the client certificate of ${access.source}`)));
    const key = plugin?.key ?? (user.key && (await readPem(user.key, `the client key of ${access.source}`)));
    const token = user.token ? await readToken(user.token, access.source) : plugin?.token;

    const { server, tlsServerName, skipTlsVerify, proxyUrl } = access;
    const tls = { server, tlsServerName, skipTlsVerify, proxyUrl, ca, certificate, key };
    const headers = { ...authorization(token, user.basic, access.source), ...user.impersonate };
    const tlsKey = digest(tls);
    const wholeKey = digest([tlsKey, headers]);
    if (this.#closed) throw accessError('the connection to the cluster was closed');

    const nowMs = this.#nowMs();
    const expiresMs = plugin?.expiresMs ?? Number.POSITIVE_INFINITY;
    this.#freshUntilMs = Math.max(
      Math.min(nowMs + this.#refreshMs, expiresMs - expiryMarginMs),
      plugin ? nowMs + 1_000 : 0,
    );
    const before = this.#held;
    if (before?.key === wholeKey) return before.connection;
    const same = before?.tlsKey === tlsKey ? before.connection : undefined;
    const agents = same ?? (plain ? plainAgents(proxyUrl) : tlsAgents(tls, access));
    if (before && !same) retire(before.connection.agent);
    const url = new URL(server);
    const { agent, upgradeAgent } = agents;
    const connection: Connection = { server, address: addressOf(url), agent, upgradeAgent, headers };
    this.#held = { connection, target: url.host, tlsKey, key: wholeKey };
    return connection;
  }

  async #runPlugin(
    access: ClusterAccess,
    ca: string | undefined,
    afresh: boolean,
  ): Promise<PluginCredentials | undefined> {
    const plugin = access.user.exec;
    if (!plugin) return undefined;
    const key = digest([plugin, access.server]);
    const last = this.#plugin;
    const nowMs = this.#nowMs();
    if (last && last.key === key && !afresh) {
      const ends = last.credentials.expiresMs ?? Number.POSITIVE_INFINITY;
      if (nowMs < ends - expiryMarginMs || Math.abs(nowMs - last.ranMs) < minPluginIntervalMs) return last.credentials;
    }
    const credentials = await runPlugin({
      plugin,
      cluster: { ...access, ca },
      timeoutMs: this.#options.pluginTimeoutMs ?? 30_000,
    });
    this.#plugin = { key, credentials, ranMs: nowMs };
    return credentials;
  }
}

interface TlsMaterial {
  readonly tlsServerName: string | undefined;
  readonly skipTlsVerify: boolean;
  readonly proxyUrl: string | undefined;
  readonly ca: string | undefined;
  readonly certificate: string | undefined;
  readonly key: string | undefined;
}

const agentOptions = (proxyUrl: string | undefined) => ({
  keepAlive: true,
  keepAliveMsecs: keepAliveMs,
  maxFreeSockets: maxIdleSockets,
  timeout: idleSocketMs,
  // The most recently used first, so that those that are not needed grow old, and are closed by the server.
  scheduling: 'lifo' as const,
  ...(proxyUrl && { proxyEnv: { HTTP_PROXY: proxyUrl, HTTPS_PROXY: proxyUrl } }),
});

type Agents = Pick<Connection, 'agent' | 'upgradeAgent'>;

function plainAgents(proxyUrl: string | undefined): Agents {
  const options = agentOptions(proxyUrl);
  return { agent: new http.Agent(options), upgradeAgent: keepsNone(new http.Agent(options)) };
}

/** Its sockets are all to one server, and made alike: the long name that tells them apart is worked out several times for each request. */
class OneServerAgent extends https.Agent {
  override getName(): string {
    return 'server';
  }
}

/** One context for all its sockets: parsing certificates once for each costs time and memory. */
function tlsAgents({ ca, certificate: cert, key, ...tls }: TlsMaterial, access: ClusterAccess): Agents {
  const context = (what: string, options: Parameters<typeof createSecureContext>[0]) => {
    try {
      return createSecureContext(options);
    } catch (cause) {
      throw accessError(`${what} of ${access.source}: ${(cause as Error).message}`, cause);
    }
  };
  // What is wrong in a CA would be passed over, and every server be refused.
  if (ca) checkCertificate(ca, `the CA of ${access.source}${access.ca?.file ? `: ${access.ca.file}` : ''}`);
  if (cert) context('the client certificate', { cert });
  const options = {
    ...agentOptions(tls.proxyUrl),
    secureContext: context('the client certificate and key', { ca, cert, key }),
    rejectUnauthorized: !tls.skipTlsVerify,
    ...(tls.tlsServerName && { servername: tls.tlsServerName }),
  };
  return { agent: new OneServerAgent(options), upgradeAgent: keepsNone(new OneServerAgent(options)) };
}

const addressOf = ({ protocol, hostname, port, pathname }: URL): ServerAddress => ({
  protocol,
  hostname: hostname.replace(/^\[|\]$/g, ''),
  port: port || undefined,
  basePath: pathname.replace(/\/$/, ''),
});

function checkCertificate(pem: string, what: string): void {
  try {
    new X509Certificate(pem);
  } catch (cause) {
    throw accessError(`${what}: expected a certificate`, cause);
  }
}

/** An agent that makes a new socket each time, with the same probes. Set at its making, 0 would be taken for the default. */
function keepsNone<T extends HttpAgent>(agent: T): T {
  agent.maxFreeSockets = 0;
  return agent;
}

/** Requests that are under way go on; no socket is used again. */
function retire(agent: HttpAgent): void {
  closeIdle(keepsNone(agent));
}

function closeIdle(agent: HttpAgent): void {
  for (const sockets of Object.values(agent.freeSockets)) for (const socket of sockets ?? []) socket.destroy();
}

function authorization(
  token: string | undefined,
  basic: { readonly username: string; readonly password: string } | undefined,
  source: string,
): Record<string, string> {
  if (token !== undefined) {
    // What is in it is not repeated: it may be most of a secret.
    if (!/^[\x21-\x7e]+$/.test(token))
      throw accessError(`the token of ${source}: expected one line of visible characters`);
    return { Authorization: `Bearer ${token}` };
  }
  if (!basic) return {};
  return { Authorization: `Basic ${Buffer.from(`${basic.username}:${basic.password}`).toString('base64')}` };
}

async function readPem(material: Material, what: string): Promise<string> {
  if (material.file === undefined) return material.text;
  const text = await readSecret(material.file, what);
  if (!text.includes('-----BEGIN ')) throw accessError(`${what}: ${material.file}: expected PEM`);
  return text;
}

async function readToken(material: Material, source: string): Promise<string> {
  const text = material.file === undefined ? material.text : await readSecret(material.file, `the token of ${source}`);
  const token = text.trim();
  if (!token && material.file) throw accessError(`the token of ${source}: ${material.file} is empty`);
  return token;
}

async function readSecret(file: string, what: string): Promise<string> {
  try {
    return await readFile(file, 'latin1');
  } catch (error) {
    throw accessError(`${what}: cannot read ${file}: ${fileProblem(error)}`, error);
  }
}

const digest = (value: unknown): string => createHash('sha256').update(JSON.stringify(value)).digest('base64');
