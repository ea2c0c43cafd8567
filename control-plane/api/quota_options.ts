import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Amounts, Resource } from '../domain/quota.ts';

const names: Readonly<Record<string, Resource>> = {
  bays: 'bays',
  nodes: 'nodes',
  pods: 'pods',
  containers: 'containers',
  bytes: 'objectBytes',
};

function parseQuota(text: string): Amounts {
  const amounts: Partial<Record<Resource, number>> = {};
  for (const part of text.split(',')) {
    const match = /^([a-z]+)=(\d{1,15})$/.exec(part.trim());
    const resource = match?.[1] !== undefined && Object.hasOwn(names, match[1]) ? names[match[1]] : undefined;
    if (!resource || amounts[resource] !== undefined) {
      throw new InvalidArgumentError(
        `expected amounts such as bays=10,pods=500; there are ${Object.keys(names).join(', ')}, each once.`,
      );
    }
    amounts[resource] = Number(match?.[2]);
  }
  return amounts;
}

/** Adds the options of quotas. */
export function addQuotaOptions(command: Command): Command {
  return command.addOption(
    new Option(
      '--default-quota <amounts>',
      'what a project may have unless `bayctl quota set` says otherwise: bays=10,nodes=100,pods=500,containers=500,bytes=67108864 (default: no limits)',
    )
      .env('BAYKEEPER_DEFAULT_QUOTA')
      .argParser(parseQuota),
  );
}

/** Reads them back, once the command line is parsed. */
export const readQuotaOptions = (command: Command): Amounts =>
  Object.freeze(command.opts<{ defaultQuota?: Amounts }>().defaultQuota ?? {});
