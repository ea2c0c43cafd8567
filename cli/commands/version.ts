import type { Command } from 'commander';
import { exitStatus, renderError, SilentExit } from '../errors.ts';
import { escapeLine } from '../output/escape.ts';
import { type Environment, examples, withGlobals } from '../session.ts';

interface VersionFlags {
  readonly client?: boolean;
  readonly output?: string;
}

/** `bayctl version`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('version')
    .description('show versions of client and server')
    .option('--client', 'only of this program; nothing is called')
    .option('-o, --output <format>', 'json or yaml')
    .action(async (flags: VersionFlags, self: Command) => {
      const { write } = await import('../io.ts');
      const version = await environment.version();
      const client = { version, node: process.versions.node };
      if (flags.client) {
        if (await structured(environment, flags, { client })) return;
        await write(environment.io.stdout, `Client: ${version}\n`);
        return;
      }
      const session = await environment.open(self);
      const { SystemService } = await import('../../proto/gen/baykeeper/v1/system_service_pb.js');
      try {
        const server = await session.api.unary(SystemService.method.getVersion, {});
        const shown = {
          version: server.version,
          revision: String(server.revision),
          store: server.store,
          brokerConnected: server.brokerConnected,
          address: session.settings.server,
        };
        if (await structured(environment, flags, { client, server: shown })) return;
        await session.out(
          `Client: ${version}\nServer: ${escapeLine(server.version)} at ${session.settings.server}, store ${escapeLine(server.store)} at revision ${server.revision}, broker ${server.brokerConnected ? 'connected' : 'not connected'}\n`,
        );
      } catch (error) {
        if (!(await structured(environment, flags, { client }))) await session.out(`Client: ${version}\n`);
        const { text, status } = renderError(error, session.flags.verbose === true);
        await session.err(text);
        throw new SilentExit(status || exitStatus.failed);
      }
    });
  examples(withGlobals(command), 'bayctl version', 'bayctl version --client', 'bayctl version -o json');
}

async function structured(
  environment: Environment,
  flags: VersionFlags,
  value: Parameters<typeof import('../output/printer.ts').printValue>[2],
): Promise<boolean> {
  if (!flags.output) return false;
  const { parseOutput, printValue } = await import('../output/printer.ts');
  return printValue(environment.io.stdout, await parseOutput(flags.output), value);
}
