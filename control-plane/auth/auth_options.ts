import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { duration, integer } from '../option_values.ts';
import { addKeystoneOptions, type KeystoneConfig, readKeystoneOptions } from './keystone/keystone_options.ts';
import { addOidcOptions, type OidcConfig, readOidcOptions } from './oidc/oidc_options.ts';

/** Who may call, and how often. */
export interface AuthConfig {
  /** Calls a second of one subject of a project, over time. */
  readonly callerRate: number;
  /** Calls of one subject at once, after a pause. */
  readonly callerBurst: number;
  /** Streams of one subject of a project at once. */
  readonly callerStreams: number;
  /** Of the tokens that are given by their hashes. Undefined: none. */
  readonly tokenFile: string | undefined;
  /** How long a token is still listed that has expired or was revoked. */
  readonly keepTokensMs: number;
  /** Undefined: nobody that an OpenID provider knows. */
  readonly oidc: OidcConfig | undefined;
  /** Undefined: none of Keystone's users. */
  readonly keystone: KeystoneConfig | undefined;
}

const dayMs = 24 * 3_600_000;

/** Adds the options that say who may call. Each way to say who is calling adds its own here. */
export function addAuthOptions(command: Command): Command {
  return addOidcOptions(addKeystoneOptions(command))
    .addOption(
      new Option(
        '--caller-rate <calls>',
        'calls a second that one caller may make, over time; each manifest applied is one',
      )
        .env('BAYKEEPER_CALLER_RATE')
        .argParser(integer('the rate of calls', 1, 1_000_000))
        .default(20_000),
    )
    .addOption(
      new Option(
        '--caller-burst <calls>',
        'calls that one caller may make at once, after a pause (default: twice the rate)',
      )
        .env('BAYKEEPER_CALLER_BURST')
        .argParser(integer('the burst of calls', 1, 10_000_000)),
    )
    .addOption(
      new Option('--caller-streams <count>', 'how many watches, logs and commands one caller may have open at once')
        .env('BAYKEEPER_CALLER_STREAMS')
        .argParser(integer('the number of streams', 1, 1_000_000))
        .default(1_000),
    )
    .addOption(
      new Option(
        '--token-file <file>',
        'YAML or JSON: who may call with which token, given by its SHA-256; read again when it changes',
      ).env('BAYKEEPER_TOKEN_FILE'),
    )
    .addOption(
      new Option('--keep-tokens <duration>', 'how long a token is still listed that has expired or was revoked')
        .env('BAYKEEPER_KEEP_TOKENS')
        .argParser(duration('the time to keep tokens', 0, 3650 * dayMs))
        .default(30 * dayMs, '720h'),
    );
}

/** Reads them back, once the command line is parsed. What does not go together ends the program by `command.error`. */
export function readAuthOptions(command: Command): AuthConfig {
  const { callerRate, callerBurst, callerStreams, tokenFile, keepTokens } = command.opts<{
    callerRate: number;
    callerBurst?: number;
    callerStreams: number;
    tokenFile?: string;
    keepTokens: number;
  }>();
  return Object.freeze({
    callerRate,
    callerBurst: callerBurst ?? 2 * callerRate,
    callerStreams,
    tokenFile: tokenFile ? resolve(tokenFile) : undefined,
    keepTokensMs: keepTokens,
    oidc: readOidcOptions(command),
    keystone: readKeystoneOptions(command),
  });
}
