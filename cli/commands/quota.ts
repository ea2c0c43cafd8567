import { toJson } from '@bufbuild/protobuf';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type Quota, QuotaSchema } from '../../proto/gen/baykeeper/v1/quota_pb.js';
import { QuotaService } from '../../proto/gen/baykeeper/v1/quota_service_pb.js';
import { everyProject } from '../context.ts';
import { UsageError } from '../errors.ts';
import { parseOutput, printValue } from '../output/printer.ts';
import { Table } from '../output/table.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';

/** The resources, as flags and rows name them. */
const resources = [
  ['bays', 'bays'],
  ['nodes', 'nodes'],
  ['pods', 'pods'],
  ['containers', 'containers'],
  ['bytes', 'objectBytes'],
] as const;

interface OutputFlags {
  readonly output?: string;
  readonly headers: boolean;
}
type SetFlags = { readonly reset?: boolean } & Partial<Record<(typeof resources)[number][0], bigint>>;

/** `bayctl quota`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent.command('quota').description('show and set how much a project may have');
  examples(command, 'bayctl quota get', 'bayctl quota set --project red --pods 500 --bays none');
  const get = command
    .command('get')
    .description('show what a project may have and has; --all-projects: of each')
    .option('-o, --output <format>', 'json, yaml or jsonpath=TEMPLATE')
    .option('--no-headers', 'no titles over the columns')
    .action(async (flags: OutputFlags, self: Command) => {
      const format = await parseOutput(flags.output);
      const session = await environment.open(self);
      const quotas = await readQuotas(session);
      const items = quotas.map((quota) => toJson(QuotaSchema, quota, { alwaysEmitImplicit: true }));
      const [only] = items;
      const one = session.settings.project === everyProject ? undefined : only;
      if (await printValue(session.io.stdout, format, one ?? { items })) return;
      await session.out(tableOf(quotas, flags.headers));
    });
  examples(withGlobals(get), 'bayctl quota get --project red', 'bayctl quota get --all-projects -o json');

  const set = command.command('set').description('say how much a project may have: for admins');
  for (const [flag] of resources) {
    set.addOption(
      new Option(
        `--${flag} <amount>`,
        `how many ${flag === 'bytes' ? 'bytes of objects' : flag}, or none for no limit`,
      ).argParser(parseAmount),
    );
  }
  set
    .option('--reset', 'take back what was set before: the default of the control plane holds')
    .action(async (flags: SetFlags, self: Command) => {
      const amounts = Object.fromEntries(
        resources.flatMap(([flag, field]) => (flags[flag] === undefined ? [] : [[field, flags[flag]]])),
      );
      if (Object.keys(amounts).length === 0 && !flags.reset) throw new UsageError('say what to set, or --reset');
      const session = await environment.open(self);
      const request = { set: amounts, reset: flags.reset === true };
      const { quota } = await session.api.unary(QuotaService.method.setQuota, request);
      await session.out(tableOf(quota ? [quota] : [], true));
    });
  examples(
    withGlobals(set),
    'bayctl quota set --project red --pods 500 --containers 500',
    'bayctl quota set --project red --pods none',
    'bayctl quota set --project red --reset',
  );
}

async function readQuotas({ api, settings }: Session): Promise<readonly Quota[]> {
  if (settings.project === everyProject) return (await api.unary(QuotaService.method.listQuotas, {})).quotas;
  const { quota } = await api.unary(QuotaService.method.getQuota, {});
  return quota ? [quota] : [];
}

function tableOf(quotas: readonly Quota[], header: boolean): string {
  const table = new Table(
    [
      { title: 'PROJECT' },
      { title: 'RESOURCE' },
      { title: 'USED', right: true },
      { title: 'LIMIT', right: true },
      { title: 'FROM' },
    ],
    { header },
  );
  return table.render(
    quotas.flatMap(({ project, set, limits, use }) =>
      resources.map(([name, field]) => [
        project,
        name,
        String(use?.[field] ?? 0n),
        limits?.[field] === undefined ? 'none' : String(limits[field]),
        set?.[field] === undefined ? 'default' : 'project',
      ]),
    ),
  );
}

function parseAmount(text: string): bigint {
  if (text === 'none') return -1n;
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('expected a whole number, or none for no limit.');
  return BigInt(text);
}
