import { type Command, Option } from 'commander';
import { integer } from '../option_values.ts';
import { addKeystoneOptions, type KeystoneConfig, readKeystoneOptions } from './keystone/keystone_options.ts';

/** Who may call, and how often. */
export interface AuthConfig {
  /** Calls a second of one subject of a project, over time. */
  readonly callerRate: number;
  /** Calls of one subject at once, after a pause. */
  readonly callerBurst: number;
  /** Undefined: none of Keystone's users. */
  readonly keystone: KeystoneConfig | undefined;
}

/** Adds the options that say who may call. Each way to say who is calling adds its own here. */
export function addAuthOptions(command: Command): Command {
  return addKeystoneOptions(command)
    .addOption(
      new Option('--caller-rate <calls>', 'calls a second that one caller may make, over time')
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
    );
}

/** Reads them back, once the command line is parsed. What does not go together ends the program by `command.error`. */
export function readAuthOptions(command: Command): AuthConfig {
  const { callerRate, callerBurst } = command.opts<{ callerRate: number; callerBurst?: number }>();
  return Object.freeze({
    callerRate,
    callerBurst: callerBurst ?? 2 * callerRate,
    keystone: readKeystoneOptions(command),
  });
}
