import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Role } from '../../domain/principal.ts';
import { duration } from '../../option_values.ts';
import { defaultRoleNames, type RoleNames } from './principal_of.ts';

/** Which Keystone says who is calling, and how. */
export interface KeystoneConfig {
  /** Name of the cloud; `envvars`: of the `OS_*` variables. */
  readonly cloud: string;
  /** The clouds.yaml. Undefined: looked for as the openstack client does. */
  readonly cloudsFile: string | undefined;
  readonly cacheMs: number;
  readonly timeoutMs: number;
  readonly roleNames: RoleNames;
  readonly allowPlaintext: boolean;
}

/** Adds the options of Keystone. */
export function addKeystoneOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--keystone-cloud <name>',
        "let Keystone's users in: the cloud of clouds.yaml as whose user their tokens are validated; envvars: what the OS_* variables say",
      ).env('BAYKEEPER_KEYSTONE_CLOUD'),
    )
    .addOption(
      new Option(
        '--keystone-clouds-file <file>',
        'the clouds.yaml (default: looked for as the openstack client does)',
      ).env('BAYKEEPER_KEYSTONE_CLOUDS_FILE'),
    )
    .addOption(
      new Option('--keystone-cache <duration>', 'how long an answer of Keystone is believed')
        .env('BAYKEEPER_KEYSTONE_CACHE')
        .argParser(duration('the life of an answer', 1_000, 3_600_000))
        .default(60_000, '60s'),
    )
    .addOption(
      new Option('--keystone-timeout <duration>', 'how long one question to Keystone may take')
        .env('BAYKEEPER_KEYSTONE_TIMEOUT')
        .argParser(duration('the time-out of Keystone', 100, 60_000))
        .default(5_000, '5s'),
    )
    .addOption(
      new Option(
        '--keystone-roles <list>',
        "which of Keystone's roles are ours, as operator=member,auditor=reader; instead of admin, member and reader",
      )
        .env('BAYKEEPER_KEYSTONE_ROLES')
        .argParser(roleNames)
        .default(defaultRoleNames, 'admin=admin,member=member,reader=reader'),
    )
    .addOption(
      new Option(
        '--keystone-allow-plaintext',
        'ask a Keystone of another machine over http://, with tokens in clear',
      ).env('BAYKEEPER_KEYSTONE_ALLOW_PLAINTEXT'),
    );
}

/** Reads them back. Undefined: no Keystone. */
export function readKeystoneOptions(command: Command): KeystoneConfig | undefined {
  const options = command.opts<{
    keystoneCloud?: string;
    keystoneCloudsFile?: string;
    keystoneCache: number;
    keystoneTimeout: number;
    keystoneRoles: RoleNames;
    keystoneAllowPlaintext?: boolean;
  }>();
  if (!options.keystoneCloud) {
    if (options.keystoneCloudsFile) command.error('error: --keystone-clouds-file goes with --keystone-cloud');
    return undefined;
  }
  return Object.freeze({
    cloud: options.keystoneCloud,
    cloudsFile: options.keystoneCloudsFile,
    cacheMs: options.keystoneCache,
    timeoutMs: options.keystoneTimeout,
    roleNames: options.keystoneRoles,
    allowPlaintext: options.keystoneAllowPlaintext === true,
  });
}

const isRole = (name: string | undefined): name is Role => name === 'admin' || name === 'member' || name === 'reader';

function roleNames(value: string): RoleNames {
  const names = new Map<string, Role>();
  for (const pair of value.split(',')) {
    const [theirs, ours, ...rest] = pair.split('=').map((part) => part.trim());
    if (!theirs || !isRole(ours) || rest.length > 0) {
      throw new InvalidArgumentError(
        `"${pair}" is not a pair such as operator=member, with one of admin, member and reader to the right.`,
      );
    }
    names.set(theirs.toLowerCase(), ours);
  }
  return names;
}
