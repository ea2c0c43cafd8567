import { createHash } from 'node:crypto';

/** What a nats-server of our own is started with. */
export interface NatsConfig {
  readonly serverName: string;
  readonly host: string;
  readonly port: number;
  readonly operatorJwt: string;
  readonly operatorPublicKey: string;
  readonly systemAccount: { readonly publicKey: string; readonly jwt: string };
  readonly account: { readonly publicKey: string; readonly jwt: string };
  /** Where nats-server keeps the account JWTs that it was given later. */
  readonly resolverFolder: string;
  readonly maxPayloadBytes: number;
  readonly maxConnections: number;
  /** Undefined: no monitoring. */
  readonly monitorPort?: number;
  /** A PEM file with certificate, chain and key, which is read again at SIGHUP. Undefined: no TLS. */
  readonly certificateFile?: string;
}

/** What cannot be changed in a running server. The JWTs are left out: they are pushed, and those of one key are as good as each other. */
const fixedPart = (config: NatsConfig) => ({
  server_name: config.serverName,
  host: config.host,
  port: config.port,
  system_account: config.systemAccount.publicKey,
  max_payload: config.maxPayloadBytes,
  max_connections: config.maxConnections,
  // One file for both: it is replaced whole. TLS 1.2 is the least that nats-server takes.
  ...(config.certificateFile === undefined
    ? {}
    : { tls: { cert_file: config.certificateFile, key_file: config.certificateFile, timeout: 10 } }),
  ...(config.monitorPort === undefined ? {} : { http: `${config.host}:${config.monitorPort}` }),
  // A half-open connection is noticed within 30 s.
  ping_interval: '10s',
  ping_max: 2,
  // Long enough for a whole snapshot to trickle to a site with a thin line.
  write_deadline: '30s',
  // What is traced of a message when somebody turns tracing on: payloads hold the users' secrets.
  max_traced_msg_len: 64,
});

/** Names the fixed part: a running server that was started with the same one need not be replaced. */
export function fixedDigest(config: NatsConfig): string {
  const fixed = { ...fixedPart(config), operator: config.operatorPublicKey, account: config.account.publicKey };
  return createHash('sha256').update(JSON.stringify(fixed)).digest('hex');
}

const digestLine = /^# fixed: ([0-9a-f]{64})$/m;

/** The digest that a configuration file was written with; undefined when it is none of ours. */
export const digestOf = (text: string): string | undefined => digestLine.exec(text)?.[1];

/** The port in a configuration file of ours; undefined when there is none. */
export function portOf(text: string): number | undefined {
  const port = Number(/^ "port": (\d{1,5}),$/m.exec(text)?.[1]);
  return port >= 1 && port <= 65_535 ? port : undefined;
}

/** The operator's JWT in a configuration file of ours; undefined when there is none. */
export const operatorJwtOf = (text: string): string | undefined => /^ "operator": "([\w.-]+)",?$/m.exec(text)?.[1];

/** The configuration file. JSON is a subset of what nats-server reads, and leaves nothing to quote by hand. */
export function natsConfigText(config: NatsConfig): string {
  const body = {
    ...fixedPart(config),
    operator: config.operatorJwt,
    resolver: { type: 'full', dir: config.resolverFolder, allow_delete: false, interval: '10m', limit: 100 },
    resolver_preload: {
      [config.systemAccount.publicKey]: config.systemAccount.jwt,
      [config.account.publicKey]: config.account.jwt,
    },
  };
  return `# Written by the control plane at each start: changes are lost.\n# fixed: ${fixedDigest(config)}\n${JSON.stringify(body, null, 1)}\n`;
}
