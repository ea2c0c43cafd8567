import { toJson } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { SystemService, WhoAmIResponseSchema } from '../../proto/gen/baykeeper/v1/system_service_pb.js';
import { escapeLine } from '../output/escape.ts';
import { parseOutput, printValue } from '../output/printer.ts';
import { type Environment, examples, withGlobals } from '../session.ts';

/** `bayctl whoami`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('whoami')
    .description('show who the control plane takes you for')
    .option('-o, --output <format>', 'json, yaml or jsonpath=TEMPLATE')
    .action(async (flags: { output?: string }, self: Command) => {
      const format = await parseOutput(flags.output);
      const session = await environment.open(self);
      const me = await session.api.unary(SystemService.method.whoAmI, {});
      if (await printValue(session.io.stdout, format, toJson(WhoAmIResponseSchema, me, { alwaysEmitImplicit: true })))
        return;
      await session.out(
        `${escapeLine(me.subject)}, ${escapeLine(me.role)} in project ${escapeLine(me.project)}, at ${session.settings.server}\n`,
      );
    });
  examples(withGlobals(command), 'bayctl whoami', 'bayctl whoami -o json');
}
