import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { Command, Option } from 'commander';
import { addQuotaOptions, readQuotaOptions } from './api/quota_options.ts';
import { type AuthConfig, addAuthOptions, readAuthOptions } from './auth/auth_options.ts';
import { addSigningOptions, readSigningOptions, type SigningConfig } from './broker/signing_options.ts';
import type { Amounts } from './domain/quota.ts';
import { duration, integer } from './option_values.ts';
import { addExposureOptions, type ExposureConfig, readExposureOptions } from './tls/tls_options.ts';

/** All that can be set of a control plane. Read once, at start. */
export interface Config {
  /** Folder of everything that is kept. */
  readonly dataDir: string;
  readonly host: string;
  /** 0: one that is free. */
  readonly port: number;
  readonly logLevel: string;
  readonly heartbeatMs: number;
  readonly credentialTtlMs: number;
  /** How many changes the feed keeps, for watches and agents to go on from. */
  readonly keepChanges: number;
  /** What comes before the arguments in the line that `join-command` prints. */
  readonly joinCommandPrefix: string;
  readonly broker: BrokerConfig;
  readonly exposure: ExposureConfig;
  readonly auth: AuthConfig;
  readonly signing: SigningConfig;
  /** Of projects for which nothing else was set. */
  readonly defaultQuota: Amounts;
}

export type BrokerConfig =
  | {
      readonly kind: 'own';
      readonly binary: string;
      /** 0: the one it had last, at first one that is free. */
      readonly port: number;
    }
  | {
      readonly kind: 'given';
      readonly urls: readonly string[];
      readonly accountSeedFile: string;
      readonly systemCredentialsFile: string;
      /** Without it no agent can be cut off. */
      readonly operatorSeedFile: string | undefined;
    };

/** The version that is told to clients and agents. */
export const version = '0.1.0';

const levels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'];

const day = 24 * 3_600_000;

/**
 * Reads the command line and the environment. What is wrong is said on stderr, with what was expected, and ends the process
 * with status 2.
 */
export function readConfig(argv: readonly string[]): Config {
  const home = process.env.BAYKEEPER_HOME || join(homedir(), '.baykeeper');
  const command = new Command('baykeeper-control-plane')
    .description('The control plane of Baykeeper.')
    .version(version)
    .addHelpText(
      'after',
      `
For whoever has this machine and that folder, whether the control plane runs or not:
  baykeeper-control-plane ca show | rotate                whom agents and users trust
  baykeeper-control-plane signing-key show | replace      what messages to agents are signed with`,
    )
    .addOption(new Option('--data <dir>', 'folder of everything that is kept').env('BAYKEEPER_DATA').default(home))
    .addOption(
      new Option('--host <address>', 'address to listen on; beyond loopback, with TLS')
        .env('BAYKEEPER_HOST')
        .default('127.0.0.1'),
    )
    .addOption(
      new Option('--port <port>', 'port to listen on; 0: one that is free')
        .env('BAYKEEPER_PORT')
        .argParser(integer('the port', 0, 65_535))
        .default(7480),
    )
    .addOption(
      new Option('--log-level <level>', 'what is logged').env('BAYKEEPER_LOG_LEVEL').choices(levels).default('info'),
    )
    .addOption(
      new Option('--heartbeat <duration>', 'how often agents say how they are; believed for three times as long')
        .env('BAYKEEPER_HEARTBEAT')
        .argParser(duration('the heartbeat', 100, 10 * 60_000))
        .default(10_000, '10s'),
    )
    .addOption(
      new Option('--credential-ttl <duration>', "life of an agent's credentials; renewed at two thirds of it")
        .env('BAYKEEPER_CREDENTIAL_TTL')
        .argParser(duration('the life of credentials', 1_000, 365 * day))
        .default(day, '24h'),
    )
    .addOption(
      new Option(
        '--keep-changes <count>',
        'how many changes are kept, up to 4 GiB of them, for watches and agents to go on from',
      )
        .env('BAYKEEPER_KEEP_CHANGES')
        .argParser(integer('the number of changes', 100, 100_000_000))
        .default(100_000),
    )
    .addOption(
      new Option('--join-command <prefix>', 'how the agent is started on a node, in the line that join-command prints')
        .env('BAYKEEPER_JOIN_COMMAND')
        .default(`${resolve(import.meta.dirname, '..', 'agent', 'baykeeper-agent')} join`),
    )
    .addOption(
      new Option('--nats-server <path>', 'the nats-server to start')
        .env('BAYKEEPER_NATS_SERVER')
        .default('nats-server'),
    )
    .addOption(
      new Option('--nats-port <port>', 'port of that nats-server; 0: the one it had last')
        .env('BAYKEEPER_NATS_PORT')
        .argParser(integer('the port of nats-server', 0, 65_535))
        .default(0),
    )
    .addOption(
      new Option('--nats-url <url...>', 'a broker that is already there, instead of one of our own').env(
        'BAYKEEPER_NATS_URL',
      ),
    )
    .addOption(
      new Option(
        '--nats-account-seed <file>',
        "with --nats-url: the account's seed, to sign agents' credentials with",
      ).env('BAYKEEPER_NATS_ACCOUNT_SEED'),
    )
    .addOption(
      new Option('--nats-system-creds <file>', 'with --nats-url: credentials of a user of the system account').env(
        'BAYKEEPER_NATS_SYSTEM_CREDS',
      ),
    )
    .addOption(
      new Option(
        '--nats-operator-seed <file>',
        "with --nats-url: the operator's seed, to cut agents off with; without it none can be",
      ).env('BAYKEEPER_NATS_OPERATOR_SEED'),
    )
    .allowExcessArguments(false)
    .showHelpAfterError('(--help says what can be set)')
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'Error: ')) });
  addAuthOptions(command);
  addQuotaOptions(command);
  addExposureOptions(command);
  addSigningOptions(command);
  command.exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
  command.parse(argv, { from: 'user' });
  const options = command.opts();
  return Object.freeze({
    dataDir: resolve(options.data),
    host: options.host,
    port: options.port,
    logLevel: options.logLevel,
    heartbeatMs: options.heartbeat,
    credentialTtlMs: options.credentialTtl,
    keepChanges: options.keepChanges,
    joinCommandPrefix: options.joinCommand,
    broker: Object.freeze(brokerConfig(command, options)),
    auth: readAuthOptions(command),
    defaultQuota: readQuotaOptions(command),
    exposure: readExposureOptions(command),
    signing: readSigningOptions(command),
  });
}

function brokerConfig(command: Command, options: Record<string, unknown>): BrokerConfig {
  const urls = options.natsUrl;
  const accountSeedFile = options.natsAccountSeed;
  const systemCredentialsFile = options.natsSystemCreds;
  if (urls === undefined) {
    if (accountSeedFile || systemCredentialsFile) {
      command.error('error: --nats-account-seed and --nats-system-creds go with --nats-url');
    }
    return { kind: 'own', binary: String(options.natsServer), port: Number(options.natsPort) };
  }
  if (typeof accountSeedFile !== 'string' || typeof systemCredentialsFile !== 'string') {
    command.error('error: --nats-url needs --nats-account-seed and --nats-system-creds');
  }
  const list = (Array.isArray(urls) ? urls : [urls]).flatMap((url) => String(url).split(','));
  return {
    kind: 'given',
    urls: list,
    accountSeedFile: String(accountSeedFile),
    systemCredentialsFile: String(systemCredentialsFile),
    operatorSeedFile: typeof options.natsOperatorSeed === 'string' ? options.natsOperatorSeed : undefined,
  };
}
