import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { ipVersion, isLoopback, isWildcard } from '../domain/ip.ts';
import { duration } from '../option_values.ts';

/** Where a server is reached. */
export interface Endpoint {
  /** A name, or an address without brackets. */
  readonly host: string;
  /** Undefined: the one that is listened on. */
  readonly port: number | undefined;
}

/** How the API and the broker are reached from elsewhere, and what keeps others out of the connections. */
export interface ExposureConfig {
  /** Where agents and users find the API, the best first. Empty: where it listens. */
  readonly advertise: readonly Endpoint[];
  /** What the broker listens on. */
  readonly natsHost: string;
  /** Where agents find the broker, the best first. Empty: where it listens. */
  readonly natsAdvertise: readonly Endpoint[];
  /** PEM file of who may vouch for a broker that is given. Undefined: whom the system trusts. */
  readonly natsCaFile: string | undefined;
  readonly tls: TlsConfig;
}

export type TlsConfig =
  | { readonly kind: 'off' }
  | {
      /** Certificates of a CA of our own. */
      readonly kind: 'own';
      /** What a client may call the server. */
      readonly names: readonly string[];
      readonly leafTtlMs: number;
    }
  | {
      readonly kind: 'given';
      readonly names: readonly string[];
      readonly certificateFile: string;
      readonly keyFile: string;
      /** Undefined: one that every system trusts. */
      readonly caFile: string | undefined;
    };

const day = 24 * 3_600_000;
/** Where the control plane itself looks for its broker, and a user on the same machine for the API. */
const localNames = ['localhost', '127.0.0.1', '::1'];

/** Adds the options of TLS, and of where one is found. */
export function addExposureOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--advertise <host...>',
        'where agents and users find the API, HOST or HOST:PORT (default: where it listens)',
      )
        .env('BAYKEEPER_ADVERTISE')
        .argParser(endpoints),
    )
    .addOption(
      new Option('--nats-host <address>', 'address for nats-server to listen on (default: that of --host)').env(
        'BAYKEEPER_NATS_HOST',
      ),
    )
    .addOption(
      new Option(
        '--nats-advertise <host...>',
        'where agents find nats-server, HOST or HOST:PORT (default: the hosts of --advertise)',
      )
        .env('BAYKEEPER_NATS_ADVERTISE')
        .argParser(endpoints),
    )
    .addOption(
      new Option(
        '--nats-ca <file>',
        'with --nats-url: who vouches for that broker (default: whom the system trusts)',
      ).env('BAYKEEPER_NATS_CA'),
    )
    .addOption(
      new Option('--tls <when>', 'TLS for API and nats-server; auto: when one of them listens beyond loopback')
        .env('BAYKEEPER_TLS')
        .choices(['auto', 'on', 'off'])
        .default('auto'),
    )
    .addOption(
      new Option('--tls-san <name...>', 'further names and addresses for our own certificates').env(
        'BAYKEEPER_TLS_SAN',
      ),
    )
    .addOption(
      new Option('--tls-leaf-ttl <duration>', 'life of our own certificates; renewed at two thirds of it')
        .env('BAYKEEPER_TLS_LEAF_TTL')
        .argParser(duration('the life of certificates', 1_000, 365 * day))
        .default(7 * day, '168h'),
    )
    .addOption(
      new Option(
        '--tls-cert <file>',
        'a certificate with its chain (PEM), instead of our own; read again when it changes',
      ).env('BAYKEEPER_TLS_CERT'),
    )
    .addOption(new Option('--tls-key <file>', 'the key of --tls-cert (PEM)').env('BAYKEEPER_TLS_KEY'))
    .addOption(
      new Option('--tls-ca <file>', 'who vouches for --tls-cert (PEM); without it, whom every system trusts').env(
        'BAYKEEPER_TLS_CA',
      ),
    );
}

/** Reads them back, once the command line is parsed. What does not go together ends the program by `command.error`. */
export function readExposureOptions(command: Command): ExposureConfig {
  const options = command.opts();
  const host: string = options.host;
  const natsHost: string = options.natsHost ?? host;
  const advertise: readonly Endpoint[] = options.advertise ?? (isWildcard(host) ? [endpoint(hostname())] : []);
  const natsAdvertise: readonly Endpoint[] =
    options.natsAdvertise ??
    (!options.natsUrl && (options.advertise || isWildcard(natsHost))
      ? advertise.map((one) => ({ host: one.host, port: undefined }))
      : []);
  const names = [
    ...advertise.map((one) => one.host),
    ...natsAdvertise.map((one) => one.host),
    ...list(options.tlsSan).map(hostOf),
    ...[host, natsHost].filter((one) => !isWildcard(one)),
  ];
  if (options.natsCa && !options.natsUrl) command.error('error: --nats-ca goes with --nats-url');
  const tls = tlsConfig(command, [host, natsHost], names);
  if (tls.kind === 'off') checkLoopback(command, options.natsUrl ? [host] : [host, natsHost]);
  return Object.freeze({
    advertise,
    natsHost,
    natsAdvertise,
    natsCaFile: options.natsCa === undefined ? undefined : resolve(options.natsCa),
    tls: Object.freeze(tls),
  });
}

function tlsConfig(command: Command, hosts: readonly string[], names: readonly string[]): TlsConfig {
  const { tls, tlsCert, tlsKey, tlsCa, tlsLeafTtl } = command.opts();
  if ((tlsCert === undefined) !== (tlsKey === undefined)) command.error('error: --tls-cert and --tls-key go together');
  if (tlsCa !== undefined && tlsCert === undefined) command.error('error: --tls-ca goes with --tls-cert and --tls-key');
  if (tls === 'off' && tlsCert !== undefined) command.error('error: --tls-cert and --tls off exclude each other');
  const beyond = hosts.some((host) => !isLoopback(host));
  if (tls === 'off' || (tls === 'auto' && !beyond && tlsCert === undefined)) return { kind: 'off' };
  if (tlsCert === undefined) {
    return { kind: 'own', names: [...new Set([...names, ...localNames])], leafTtlMs: tlsLeafTtl };
  }
  return {
    kind: 'given',
    names: [...new Set(names.filter((name) => !isLoopback(name)))],
    certificateFile: resolve(tlsCert),
    keyFile: resolve(tlsKey),
    caFile: tlsCa === undefined ? undefined : resolve(tlsCa),
  };
}

/** Ends the program when one of the servers would be reached by others, in the clear: before any of them listens. */
function checkLoopback(command: Command, hosts: readonly string[]): void {
  const beyond = hosts.find((host) => !isLoopback(host));
  if (beyond === undefined) return;
  const where = isWildcard(beyond) ? 'every address' : beyond;
  command.error(
    `error: cannot listen on ${where} without TLS: tokens and credentials would cross the network in the clear. Leave --tls off away, or use 127.0.0.1, ::1 or localhost`,
  );
}

/** `https://HOST:PORT`. */
export const urlOf = (scheme: string, { host, port }: Endpoint, listenPort: number): string =>
  `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port ?? listenPort}`;

/** From the environment, several are separated by commas. */
const endpoints = (value: string, before: readonly Endpoint[] | undefined): readonly Endpoint[] => [
  ...(before ?? []),
  ...value.split(',').map(endpoint),
];

function endpoint(text: string): Endpoint {
  const match = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d{1,5}))?$/.exec(text);
  const port = match?.[3] === undefined ? undefined : Number(match[3]);
  const host = match?.[1] ?? match?.[2] ?? text;
  if (port !== undefined && (port < 1 || port > 65_535)) {
    throw new InvalidArgumentError(`${text}: expected HOST or HOST:PORT.`);
  }
  return { host: hostOf(host), port };
}

function hostOf(host: string): string {
  const isName = host.length <= 253 && /^(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?$/.test(host);
  if (!isName && ipVersion(host) === undefined) {
    throw new InvalidArgumentError(`${JSON.stringify(host)}: expected the name of a host, or an IP address.`);
  }
  return host;
}

const list = (value: unknown): string[] =>
  value === undefined ? [] : (Array.isArray(value) ? value : [value]).flatMap((one) => String(one).split(','));
