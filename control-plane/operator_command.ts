import { homedir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { Command, Option } from 'commander';

/** `baykeeper-control-plane NAME …`, for whoever has the machine of a control plane and its data folder: no server has to run. */
export function operatorCommand(name: string, description: string): Command {
  return new Command(`baykeeper-control-plane ${name}`)
    .description(description)
    .showHelpAfterError('(--help says what can be set)')
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
}

/** Where everything is kept. */
export function dataOption(): Option {
  const home = process.env.BAYKEEPER_HOME || join(homedir(), '.baykeeper');
  return new Option('--data <dir>', 'folder of everything that is kept').env('BAYKEEPER_DATA').default(home);
}

/** Resolves with the exit status. */
export async function runOperatorCommand(program: Command, argv: readonly string[]): Promise<number> {
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return 0;
  } catch (error) {
    process.stderr.write(`Error: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  }
}
