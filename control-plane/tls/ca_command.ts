import { resolve } from 'node:path';
import process from 'node:process';
import { Option } from 'commander';
import { checkOwner, dataOption, operatorCommand, runOperatorCommand } from '../operator_command.ts';
import { duration } from '../option_values.ts';
import { type Authority, defaultOverlapMs, noAuthority, readAuthority, rotateAuthority } from './authority.ts';
import { endOf, fingerprintOf } from './certificate.ts';

/** `baykeeper-control-plane ca …`: looks at our own certificate authority, and replaces it. Resolves with the exit status. */
export async function runCaCommand(argv: readonly string[]): Promise<number> {
  const program = operatorCommand(
    'ca',
    'Our own certificate authority, which agents and users of this control plane trust.',
  );
  program
    .command('show')
    .description('print what is trusted, until when')
    .addOption(dataOption())
    .action(async (options: { data: string }) => {
      const dataDir = resolve(options.data);
      const authority = await readAuthority(dataDir);
      if (!authority) throw new Error(noAuthority(dataDir));
      print(authority);
    });
  program
    .command('rotate')
    .description(
      'replace the authority by a new one. A control plane that runs takes it up within seconds; agents follow by themselves while the old one overlaps, and those that are away for longer have to join again',
    )
    .addOption(dataOption())
    .addOption(
      new Option('--overlap <duration>', 'how long the old one is still good; 0s when its key may be in wrong hands')
        .argParser(duration('the overlap', 0, 10 * 365 * 24 * 3_600_000))
        .default(defaultOverlapMs, `${defaultOverlapMs / 3_600_000}h`),
    )
    .action(async (options: { data: string; overlap: number }) => {
      const dataDir = resolve(options.data);
      await checkOwner(dataDir);
      print(await rotateAuthority(dataDir, options.overlap, Date.now()));
    });
  return await runOperatorCommand(program, argv);
}

function print({ current, previous }: Authority): void {
  const line = (certificate: string, untilMs: number, what: string): string =>
    `${fingerprintOf(certificate)}  until ${new Date(untilMs).toISOString()}  ${what}\n`;
  process.stdout.write(line(current.certificate, endOf(current.certificate), 'signs'));
  for (const one of previous) process.stdout.write(line(one.certificate, one.trustedUntilMs, 'overlaps'));
}
